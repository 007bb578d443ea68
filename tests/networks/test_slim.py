import sys

import convert_slim
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from suite import networks
from suite.networks import slim
from suite.running import cli

SCOPES = {
    "inception_v3": "InceptionV3/",
    "inception_v4": "InceptionV4/",
    "inception_resnet_v2": "InceptionResnetV2/",
}


def empty_network(architecture):
    with torch.device("meta"):
        return slim.network(architecture)


def variables_of(architecture):
    """Random variables as slim has them, with what training adds."""
    random = np.random.default_rng(0)
    state = empty_network(architecture).state_dict()
    variables = {"global_step": np.int64(7)}
    scope = SCOPES[architecture]
    for name, key in slim.variable_names(architecture).items():
        shape = state[key].shape
        if name == "Logits/Conv2d_1c_1x1/weights":
            shape = (1, 1, shape[1], 1001)
        elif name.startswith("Logits/"):
            shape = (*shape[:0:-1], 1001)
        elif len(shape) == 4:
            shape = (shape[2], shape[3], shape[1], shape[0])
        variables[scope + name] = random.random(shape, dtype=np.float32)
    for training in [
        "AuxLogits/Conv2d_1b_1x1/weights",
        "Conv2d_1a_3x3/weights/RMSProp_1",
        "Conv2d_1a_3x3/weights/Momentum",
        "Conv2d_1a_3x3/BatchNorm/moving_mean/ExponentialMovingAverage",
    ]:
        variables[scope + training] = np.zeros(3, np.float32)
    return variables


@pytest.fixture(scope="module")
def v3():
    return variables_of("inception_v3")


@pytest.mark.parametrize("architecture", slim.ARCHITECTURES)
def test_each_parameter_comes_from_one_variable_and_each_variable_is_used(architecture):
    names = slim.variable_names(architecture)
    assert len(set(names.values())) == len(names)
    model = empty_network(architecture)
    for key in model.state_dict().keys() - set(names.values()):
        assert key.endswith((".bn.weight", ".bn.num_batches_tracked"))
    variables = variables_of(architecture)
    assert slim.guess_architecture(variables) == architecture
    state = slim.convert(variables, architecture)
    model.load_state_dict(state, assign=True)  # strict, also about shapes
    for name, key in names.items():
        values = variables[SCOPES[architecture] + name]
        kept = values[..., 1:] if name.startswith("Logits/") else values
        assert np.isclose(state[key].double().sum(), kept.sum(dtype=float)), name


@pytest.mark.parametrize(
    ("architecture", "variable", "key"),
    [
        ("inception_v3", "Conv2d_4a_3x3/BatchNorm/beta", "Conv2d_4a_3x3.bn.bias"),
        ("inception_v3", "Mixed_5c/Branch_1/Conv_1_0c_5x5/weights", "Mixed_5c.branch5x5_2.conv"),
        ("inception_v3", "Mixed_5d/Branch_3/Conv2d_0b_1x1/weights", "Mixed_5d.branch_pool.conv"),
        ("inception_v3", "Mixed_6a/Branch_0/Conv2d_1a_1x1/weights", "Mixed_6a.branch3x3.conv"),
        ("inception_v3", "Mixed_6a/Branch_1/Conv2d_1a_1x1/weights", "Mixed_6a.branch3x3dbl_3.conv"),
        ("inception_v3", "Mixed_6d/Branch_2/Conv2d_0c_1x7/weights", "Mixed_6d.branch7x7dbl_3.conv"),
        ("inception_v3", "Mixed_7a/Branch_1/Conv2d_1a_3x3/weights", "Mixed_7a.branch7x7x3_4.conv"),
        ("inception_v3", "Mixed_7b/Branch_1/Conv2d_0b_3x1/weights", "Mixed_7b.branch3x3_2b.conv"),
        ("inception_v3", "Mixed_7c/Branch_1/Conv2d_0c_3x1/weights", "Mixed_7c.branch3x3_2b.conv"),
        ("inception_v3", "Logits/Conv2d_1c_1x1/biases", "fc.bias"),
        ("inception_v4", "Mixed_3a/Branch_1/Conv2d_0a_3x3/weights", "features.3.conv.conv"),
        ("inception_v4", "Mixed_5e/Branch_3/Conv2d_0b_1x1/weights", "features.9.branch3.1.conv"),
        ("inception_v4", "Mixed_6h/Branch_2/Conv2d_0d_7x1/weights", "features.17.branch2.3.conv"),
        ("inception_v4", "Mixed_7d/Branch_2/Conv2d_0e_3x1/weights", "features.21.branch2_3b.conv"),
        (
            "inception_v4",
            "Mixed_7a/Branch_0/Conv2d_1a_3x3/BatchNorm/moving_mean",
            "features.18.branch0.1.bn.running_mean",
        ),
        ("inception_v4", "Logits/Logits/weights", "last_linear"),
        (
            "inception_resnet_v2",
            "Repeat/block35_10/Branch_2/Conv2d_0c_3x3/BatchNorm/moving_variance",
            "repeat.9.branch2.2.bn.running_var",
        ),
        ("inception_resnet_v2", "Repeat_1/block17_1/Conv2d_1x1/biases", "repeat_1.0.conv2d.bias"),
        (
            "inception_resnet_v2",
            "Mixed_7a/Branch_2/Conv2d_1a_3x3/weights",
            "mixed_7a.branch2.2.conv",
        ),
        ("inception_resnet_v2", "Repeat_2/block8_9/Conv2d_1x1/weights", "repeat_2.8.conv2d"),
        ("inception_resnet_v2", "Block8/Branch_0/Conv2d_1x1/weights", "block8.branch0.conv"),
        ("inception_resnet_v2", "Conv2d_7b_1x1/weights", "conv2d_7b.conv"),
    ],
)
def test_variables_go_to_the_layers_that_slim_means(architecture, variable, key):
    key = key + ".weight" if variable.endswith("/weights") else key
    assert slim.variable_names(architecture)[variable] == key


@pytest.mark.parametrize("architecture", slim.ARCHITECTURES)
def test_kernels_are_those_in_the_names(architecture):
    state = empty_network(architecture).state_dict()
    for name, key in slim.variable_names(architecture).items():
        layer = name.removesuffix("/weights")
        if layer == name or layer.startswith("Logits/"):
            continue
        height, width = layer[-3:].split("x")
        called_1x1 = layer.startswith("Mixed_6a") and layer.endswith("Conv2d_1a_1x1")
        expected = (3, 3) if called_1x1 else (int(height), int(width))
        assert tuple(state[key].shape[2:]) == expected, name


def test_convolutions_weights_are_transposed(v3):
    state = slim.convert(v3, "inception_v3")
    weights = v3["InceptionV3/Mixed_6b/Branch_1/Conv2d_0b_1x7/weights"]
    pixels = np.random.default_rng(1).random((1, 7, weights.shape[2]), dtype=np.float32)
    expected = np.einsum("hwi,hwio->o", pixels, weights)
    ours = torch.nn.functional.conv2d(
        torch.from_numpy(pixels).permute(2, 0, 1)[None], state["Mixed_6b.branch7x7_2.conv.weight"]
    )
    np.testing.assert_allclose(ours.flatten().numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "layer", "key"),
    [
        ("inception_v3", "InceptionV3/Logits/Conv2d_1c_1x1", "fc"),
        ("inception_v4", "InceptionV4/Logits/Logits", "last_linear"),
    ],
)
def test_background_class_is_dropped(architecture, layer, key):
    variables = variables_of(architecture)
    state = slim.convert(variables, architecture)
    weights = variables[f"{layer}/weights"].reshape(-1, 1001)
    assert np.array_equal(state[f"{key}.weight"].numpy(), weights.T[1:])
    assert np.array_equal(state[f"{key}.bias"].numpy(), variables[f"{layer}/biases"][1:])


@pytest.mark.parametrize("scope", ["", "model/InceptionV3/", "Ens3AdvInceptionV3/Logits/"])
def test_scope_may_have_any_name(v3, scope):
    renamed = {
        name.replace("InceptionV3/", scope, 1) if name.startswith("InceptionV3/") else name: array
        for name, array in v3.items()
    }
    assert slim.guess_architecture(renamed) == "inception_v3"
    state, expected = (slim.convert(which, "inception_v3") for which in (renamed, v3))
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_wrong_variables_are_listed(v3):
    wrong = dict(v3)
    missing = "InceptionV3/Mixed_6c/Branch_0/Conv2d_0a_1x1/BatchNorm/beta"
    del wrong[missing]
    wrong["InceptionV3/Mixed_6c/Branch_0/Conv2d_0a_1x1/BatchNorm/gamma"] = np.ones(192)
    wrong["elsewhere/weights"] = np.ones(3)
    wrong["InceptionV3/Logits/Conv2d_1c_1x1/biases"] = np.ones(1000)
    with pytest.raises(ValueError, match="not those of inception_v3") as error:
        slim.convert(wrong, "inception_v3")
    text = str(error.value)
    assert f"missing: {missing};" in text
    assert "unexpected: " in text
    assert "BatchNorm/gamma, elsewhere/weights;" in text
    assert "wrong shape: InceptionV3/Logits/Conv2d_1c_1x1/biases (1000,) instead of (1001,)" in text


def test_files_without_exactly_one_network_are_refused(v3):
    with pytest.raises(ValueError, match="not an Inception of TF-Slim"):
        slim.guess_architecture({"resnet_v2_101/conv1/weights"})
    with pytest.raises(ValueError, match="in the scopes InceptionV3/ and Other/"):
        slim.convert(v3 | {"Other/Conv2d_1a_3x3/weights": np.ones(1)}, "inception_v3")


def test_pools_leave_the_padding_out_and_batch_norms_have_slims_epsilon():
    network = slim.network("inception_v3")
    block, seen = network.Mixed_5b, []
    hook = block.branch_pool.conv.register_forward_hook(lambda *call: seen.append(call[1][0]))
    block(torch.ones(1, 192, 5, 5))
    hook.remove()
    torch.testing.assert_close(seen[0], torch.ones(1, 192, 5, 5))
    for architecture in slim.ARCHITECTURES:
        network = empty_network(architecture)
        assert not network.training
        for module in network.modules():
            assert getattr(module, "eps", 1e-3) == 1e-3
            assert not getattr(module, "count_include_pad", False)


@pytest.fixture
def convert(monkeypatch, capsys):
    """Run the script as from the shell; return its exit status and what it printed."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["convert_slim.py", *map(str, words)])
        status = 0
        try:
            cli.run(convert_slim.main, convert_slim.get_parser())
        except SystemExit as stop:
            status = stop.code
        text = "".join(capsys.readouterr())
        return (1, status) if isinstance(status, str) else (status, text)

    return run


def test_script_writes_weights_that_load(tmp_path, v3, convert):
    file, output = tmp_path / "ens3_adv.npz", tmp_path / "ens3_adv.safetensors"
    np.savez(file, **v3)
    status, text = convert(file, output)
    assert status == 0
    assert text == f"{output}: inception_v3, 566 tensors\n"
    with safetensors.safe_open(output, "pt") as written:
        assert written.metadata()["architecture"] == "inception_v3"
    state = safetensors.torch.load_file(output)
    slim.network("inception_v3").load_state_dict(state)
    expected = slim.convert(v3, "inception_v3")
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, output.name]


def well_scaled(name, values):
    """Keep a deep network's activations finite and dependent on its input."""
    if name.endswith("weights"):
        return (values - 0.5) * np.sqrt(24 / np.prod(values.shape[:-1]), dtype=np.float32)
    return values + 0.5 if name.endswith("variance") else values - values.mean()


def test_converted_file_is_what_the_papers_short_name_loads(tmp_path, v3, convert, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    v3 = {name: well_scaled(name, values) for name, values in v3.items()}
    np.savez(tmp_path / "ens3_adv.npz", **v3)
    assert convert(tmp_path / "ens3_adv.npz", checkpoints / "inc_v3_ens3.safetensors")[0] == 0
    network = slim.network("inception_v3")
    network.load_state_dict(slim.convert(v3, "inception_v3"))
    pixels = torch.rand(1, 3, 299, 299)
    with torch.no_grad():
        logits = network.eval()(2 * pixels - 1)
        assert not torch.allclose(logits, network(pixels), atol=1e-2)
        torch.testing.assert_close(networks.load_model("inc_v3_ens3")(pixels), logits)


def test_script_says_what_is_wrong(tmp_path, convert, monkeypatch):
    output = tmp_path / "out.safetensors"
    tensorflow = tmp_path / "model.ckpt"
    (tmp_path / "model.ckpt.index").write_bytes(b"")
    pickled, broken, few = tmp_path / "pickled.npz", tmp_path / "broken.npz", tmp_path / "few.npz"
    np.savez(pickled, weights=np.array([{}], dtype=object))
    broken.write_bytes(b"no zip")
    np.savez(few, **{"Model/Conv2d_1a_3x3/weights": np.ones(3)})
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    for words, status, message in [
        ((few, tmp_path / "out.pth"), 2, "must end in .safetensors"),
        ((few, output, "--arch", "vgg16"), 2, "invalid choice"),
        ((tmp_path / "absent.npz", output), 1, "absent.npz"),
        ((tmp_path / "absent.ckpt", output), 1, "there is no checkpoint"),
        ((tensorflow, output), 1, "pip install -r requirements-convert.txt"),
        ((pickled, output), 1, "pickled.npz: not readable"),
        ((broken, output), 1, "broken.npz: not readable"),
        ((few, output, "--arch", "inception_v4"), 1, "few.npz: the variables are not those of"),
    ]:
        actual, text = convert(*words)
        assert (actual, message in text) == (status, True), text
        assert not output.exists()


def test_scripts_architectures_are_the_modules():
    assert convert_slim.ARCHITECTURES == slim.ARCHITECTURES
