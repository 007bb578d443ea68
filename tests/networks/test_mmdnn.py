"""The Inceptions of TF-Slim in MMdnn's files, as ylhz/tf_to_pytorch_model offers them."""

import os
import pickle

import numpy as np
import pytest
import torch
from slim_variables import variables_of, well_scaled
from tiny_checkpoints import Pickled, assert_loaded, build, damaged

from suite.networks import catalogue, slim
from suite.networks.checkpoints import read_state_dict
from suite.networks.classifier import load_model

PARTS = {
    "weights": ("Conv2D", "weights"),
    "biases": ("Conv2D", "bias"),
    "beta": ("FusedBatchNorm", "bias"),
    "moving_mean": ("FusedBatchNorm", "mean"),
    "moving_variance": ("FusedBatchNorm", "var"),
}


def layers_of(variables, scope):
    """What MMdnn makes of slim's variables: torch's layout, names of the graph's operations."""
    layers = {
        f"{scope}AuxLogits/Conv2d_1b_1x1/Conv2D": {"weights": np.zeros((128, 768, 1, 1))},
        f"{scope}{scope}Repeat/block35_1/mul/x": {"value": np.float32(0.17)},
    }
    for name, array in variables.items():
        place, _, kind = name.rpartition("/")
        if kind not in PARTS or "AuxLogits" in name:
            continue
        operation, key = PARTS[kind]
        operation = "MatMul" if place.endswith("Logits/Logits") else operation
        place = place if "Logits/" in place else scope + place
        if kind == "weights":  # the channels out and in come first
            array = np.ascontiguousarray(np.moveaxis(array, (-1, -2), (0, 1)))
        layers.setdefault(f"{place}/{operation}", {})[key] = array
        if kind == "moving_variance":
            layers[f"{place}/{operation}"]["scale"] = np.ones_like(array)
    return layers


def save(file, content, protocol=3):
    """As np.save does, in a protocol of pickle's."""
    array = np.empty((), object)
    array[()] = content
    header = np.lib.format.header_data_from_array_1_0(array)
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        pickle.dump(array, stream, protocol)
    return file


def test_released_file_is_what_the_papers_short_name_loads(checkpoints):
    v3 = {name: well_scaled(name, a) for name, a in variables_of("inception_v3").items()}
    file = checkpoints / "tf2torch_ens3_adv_inc_v3.npy"
    np.save(file, layers_of(v3, "InceptionV3/"), allow_pickle=True)
    network = slim.slim_network("inception_v3")
    network.load_state_dict(slim.convert_variables(v3, "inception_v3"))
    model = load_model("inc_v3_ens3")
    pixels = torch.rand(1, 3, 299, 299)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), network(2 * pixels - 1))
    assert list(model.digests) == [file.name]


def test_released_file_is_a_checkpoint_too(tmp_path, monkeypatch):
    network = build()
    monkeypatch.setattr(slim, "read_mmdnn", lambda file: network.state_dict())
    np.save(tmp_path / "own.npy", {}, allow_pickle=True)
    assert_loaded(tmp_path / "own.npy", network)


@pytest.mark.parametrize(  # as the repository's classes have them, commit 87c30c7
    ("layer", "arrays", "place", "variables"),
    [
        (
            "Ens3AdvInceptionV3/Ens3AdvInceptionV3/Mixed_5c/Branch_1/Conv_1_0c_5x5/Conv2D",
            {"weights": (64, 48, 5, 5)},
            "Ens3AdvInceptionV3/Mixed_5c/Branch_1/Conv_1_0c_5x5",
            {"weights": (5, 5, 48, 64)},
        ),
        (
            "InceptionV4/InceptionV4/Mixed_3a/Branch_1/Conv2d_0a_3x3/BatchNorm/FusedBatchNorm",
            {"mean": (96,), "var": (96,)},
            "InceptionV4/Mixed_3a/Branch_1/Conv2d_0a_3x3/BatchNorm",
            {"beta": (96,), "moving_mean": (96,), "moving_variance": (96,)},
        ),
        (
            "InceptionV4/Logits/Logits/MatMul",
            {"weights": (1001, 1536), "bias": (1001,)},
            "InceptionV4/Logits/Logits",
            {"weights": (1536, 1001), "biases": (1001,)},
        ),
        (
            "EnsAdvInceptionResnetV2/EnsAdvInceptionResnetV2/Repeat/block35_1/Conv2d_1x1/Conv2D",
            {"weights": (320, 128, 1, 1), "bias": (320,)},
            "EnsAdvInceptionResnetV2/Repeat/block35_1/Conv2d_1x1",
            {"weights": (1, 1, 128, 320), "biases": (320,)},
        ),
    ],
)
def test_names_of_the_released_files_are_slims(layer, arrays, place, variables):
    arrays = {key: np.ones(shape, np.float32) for key, shape in arrays.items()}
    found = dict(slim.slim_variables({layer: arrays}))
    shapes = {name: array.shape for name, array in found.items()}
    assert shapes == {f"{place}/{name}": shape for name, shape in variables.items()}


def test_scale_is_no_variable_unless_it_scales():
    norm = {"mean": np.zeros(2), "var": np.ones(2), "scale": np.ones(2)}
    assert "Net/gamma" not in dict(slim.slim_variables({"Net/FusedBatchNorm": norm}))
    norm["scale"][1] = 2  # convert_variables then refuses it
    assert "Net/gamma" in dict(slim.slim_variables({"Net/FusedBatchNorm": norm}))


# Pickles

LAYERS = {"Net/Net/x/Conv2D": {"weights": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}


@pytest.mark.parametrize(
    ("protocol", "module"),
    [*((number, b"numpy._core") for number in range(5)), (3, b"numpy.core")],  # NumPy 2's, 1's
)
def test_layers_are_read_in_each_protocol_and_as_each_numpy_wrote_them(tmp_path, protocol, module):
    file = save(tmp_path / "x.npy", LAYERS, protocol)
    data = file.read_bytes()
    assert b"numpy._core" in data
    file.write_bytes(data.replace(b"numpy._core", module))
    found = slim._mmdnn_layers(file)
    assert found["Net/Net/x/Conv2D"]["weights"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_layers_are_read_as_python_2_pickled_them(tmp_path):
    # pickle.dumps({"a": {"weights": numpy.array([1.5, -2], "f4")}}, 2), with strings of bytes
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(U\x02f4I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntb"
        b"I00\nU\x08\x00\x00\xc0?\x00\x00\x00\xc0tb"
    )
    content = b"\x80\x02}U\x01a}U\x07weights" + array + b"ss."
    file = save(tmp_path / "x.npy", {})
    head = file.read_bytes().partition(b"\n")[0] + b"\n"
    outer = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
        b"(I1\n(tcnumpy\ndtype\n(U\x02O8I0\nI1\ntR(I3\nU\x01|NNNI-1\nI-1\nI63\ntb"
        b"I00\n(l" + content[2:-1] + b"atb."
    )
    file.write_bytes(head + b"\x80\x02" + outer)
    weights = slim._mmdnn_layers(file)["a"]["weights"]
    assert weights.dtype == np.float32
    assert weights.tolist() == [1.5, -2]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Pickled(os.system, ("echo this ran",)), "posix.system"),
        (Pickled(eval, ("print('this ran')",)), "eval"),
        (Pickled(np.load, ("file",)), "numpy.load"),
        (np.random.RandomState(0), "numpy.random"),
        (slice(1), "slice"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_pickle_that_would_run_code_is_refused_by_name(tmp_path, capfd, value, named, protocol):
    file = save(tmp_path / "x.npy", {"a": {"weights": np.ones(2), "bias": value}}, protocol)
    with pytest.raises(ValueError, match=f"would run code: it needs [a-z_.]*{named}") as error:
        read_state_dict(file)
    assert str(file) in str(error.value)
    assert "this ran" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda file: np.save(file, np.ones((2, 3))), "an array, not a dict of layers"),
        (lambda file: save(file, [1, 2]), "not a dict of layers"),
        (lambda file: save(file, {"a": np.ones(2)}), "not a dict of layers"),
        (lambda file: save(file, LAYERS), "not an Inception of TF-Slim"),
        (lambda file: file.write_bytes(b"\x93NUMPY\x01\x00"), "not usable"),
        (lambda file: file.write_bytes(save(file, LAYERS).read_bytes()[:200]), "not usable as w"),
    ],
)
def test_other_array_files_are_refused(tmp_path, write, reason):
    file = tmp_path / "x.npy"
    write(file)
    with pytest.raises(ValueError, match=reason) as error:
        read_state_dict(file)
    assert str(file) in str(error.value)


def test_damaged_file_is_one_line(tmp_path):
    file = save(tmp_path / "x.npy", LAYERS)
    for content in damaged(file.read_bytes(), 300):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npy: ") as error:
            read_state_dict(file)
        assert "\n" not in str(error.value)


def test_every_short_name_has_a_released_file():
    released = {catalogue.find_network(name).file.name for name in catalogue.SLIM}
    assert len(released) == len(catalogue.SLIM)
    assert all(file.startswith("tf2torch_") for file in released)


def test_file_that_was_converted_comes_first(checkpoints):
    for name in ("tf2torch_inception_v4.npy", "inc_v4.safetensors"):
        (checkpoints / name).touch()
        assert catalogue.find_network("inc_v4").file == checkpoints / name
