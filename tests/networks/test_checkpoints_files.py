"""Checkpoints as files: where in them the weights are, and what may stand beside these."""

import argparse
import collections
import datetime
import pathlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from tiny_checkpoints import Pickled, assert_loaded, build, damaged, file, loaded, network
from torch import nn

from suite.networks import checkpoints

__all__ = ["file", "network"]


def refusal(file, reason):
    """Return the error of a file that is refused: one line that names the file and the reason."""
    with pytest.raises((ValueError, FileNotFoundError), match=reason) as error:
        loaded(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


# Places

# pathlib, but pathlib._local in Python 3.13.
PATHS = pathlib.PosixPath.__module__.encode()
PLACES = "net model_state_dict state_dict model model_ema my_weights a.b x.net"


@pytest.mark.parametrize("place", PLACES.split())
def test_state_dict_is_found_where_it_is_and_the_log_says_where(network, file, caplog, place):
    caplog.set_level("INFO")
    content = network.state_dict()
    for name in reversed(place.split(".")):
        content = {name: content}
    averages = {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(1)}}
    optimizer = {"state": averages, "param_groups": []}
    torch.save({"epoch": 3, "rng": torch.zeros(9).byte(), "optimizer": optimizer} | content, file)
    assert_loaded(file, network)
    assert f"took the weights under {place}" in caplog.text


def test_of_several_places_the_usual_one_is_taken_and_the_others_are_named(network, file, caplog):
    caplog.set_level("INFO")
    other = {key: 0 * tensor for key, tensor in network.state_dict().items()}
    torch.save({"model_ema": other, "zzz": other, "model": network.state_dict()}, file)
    assert_loaded(file, network)
    assert "under model;" in caplog.text
    assert "model_ema, zzz" in caplog.text


@pytest.mark.parametrize(
    "content", [{"netG": 1, "netD": 1}, {"epoch": 3}, {}, {"best": 1, "args": 2, "last": 1}]
)
def test_file_without_just_one_state_dict_is_refused_with_its_keys(network, file, content):
    content = {k: network.state_dict() if v == 1 else v for k, v in content.items()}
    torch.save(content, file)
    assert ", ".join(content) in refusal(file, "no state dict")


def test_suffix_does_not_matter(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "model.bin")
    torch.save(network.state_dict(), tmp_path / "model.ckpt")
    for name in ("model.bin", "model.ckpt"):
        assert_loaded(tmp_path / name, network)


@pytest.mark.parametrize("order", ["<", ">"])
def test_weights_may_be_numpy_arrays(network, file, order):
    arrays = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    state = {key: a.astype(a.dtype.newbyteorder(order)) for key, a in arrays.items()}
    torch.save({"epoch": np.int64(3), "params": state}, file)
    assert_loaded(file, network)


# What stands beside the weights

DATA = {
    "float": np.float64(0.5),
    "float32": np.float32(0.5),
    "int": np.int64(3),
    "bool": np.bool_(True),
    "text": np.str_("best"),
    "date": np.datetime64("2024-01-01"),
    "array": np.arange(6.0).reshape(2, 3),
    "bytes": np.frombuffer(b"abc", np.uint8),
    "objects": np.array([None, "x"], object),
    "record": np.array([(1, 2.0)], [("a", int), ("b", "f4")]),
    "random": np.random.RandomState(0).get_state(),
    "path": pathlib.PurePath("a/b").joinpath("c"),
    "own path": pathlib.Path("a/b"),
    "windows": pathlib.PureWindowsPath(r"C:\a"),
    "options": argparse.Namespace(lr=np.float32(0.1), out=pathlib.Path("x")),
    "ordered": collections.OrderedDict(a=1),
}


@pytest.mark.parametrize("value", DATA.values(), ids=DATA)
@pytest.mark.parametrize("zipped", [True, False])
def test_data_beside_the_weights_is_no_hindrance(network, file, value, zipped):
    content = {"best": value, "args": {"x": [value]}, "state_dict": network.state_dict()}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    assert_loaded(file, network)


@pytest.mark.parametrize(
    "names", [(b"numpy._core", b"numpy.core"), (PATHS + b"\nPosixPath", PATHS + b"\nWindowsPath")]
)
def test_data_of_another_numpy_or_system_is_no_hindrance(network, file, names):
    content = {"a": np.float64(1), "b": pathlib.Path("x"), "state_dict": network.state_dict()}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    assert names[0] in data
    file.write_bytes(data.replace(*names))
    assert_loaded(file, network)


class Mine:
    pass


@pytest.mark.parametrize("zipped", [True, False])
def test_bytes_are_not_taken_for_pointers_whatever_a_pickle_says(network, file, zipped):
    # Flags of 0 make NumPy put the bytes where an array of objects has its pointers.
    dtype = Pickled(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0))
    array = Pickled(*np.zeros(0).__reduce__()[:2], (1, (1,), dtype, False, b"A" * 8))
    content = {"extra": array, "state_dict": network.state_dict()}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    assert_loaded(file, network)
    assert checkpoints._loaded(file)["extra"].data == b"A" * 8


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Pickled(print, ("this ran",)), "print"),
        (Pickled(eval, ("print('this ran')",)), "eval"),
        (Pickled(np.load, ("file",)), "numpy.load"),
        (Pickled(np.testing.assert_equal, (1, 2)), "numpy.testing"),
        (Pickled(__import__("os").system, ("echo this ran",)), "posix.system"),
        (Mine(), "test_checkpoints_files.Mine"),
        (datetime.datetime.now(), "datetime.datetime"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (np.array([Pickled(print, ("this ran",))], object), "print"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_refused_global_is_named_in_one_line(network, file, capsys, value, named, zipped):
    content = {"state_dict": network.state_dict(), "extra": value}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    message = refusal(file, "run code")
    assert named in message
    assert not [part for part in ("\x1b", "weights_only") if part in message]
    assert len(message) < 400
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_file_is_one_line(network, file, zipped):
    torch.save(network.state_dict(), file, _use_new_zipfile_serialization=zipped)
    for content in damaged(file.read_bytes(), 150, truncate=True):
        file.write_bytes(content)
        try:
            loaded(file)
        except ValueError as error:
            assert str(file) in str(error)
            assert "\n" not in str(error)


SPARSE = build().state_dict() | {"fc.weight": torch.rand(5, 4).to_sparse()}


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda file: file.write_bytes(b""), "empty"),
        (lambda file: file.write_text("<html>404"), "begins with b'<html>404', as no checkpoint"),
        (lambda file: torch.jit.script(nn.Linear(2, 2)).save(file), "saved by torch.jit: a func"),
        (lambda file: None, "no such file"),
        (lambda file: torch.save([1, 2], file), "no state dict"),
        (lambda file: file.write_bytes(save(build().state_dict())[:500]), "not usable"),
        (lambda file: torch.save({}, file, pickle_protocol=4), "protocol is above 2"),
        (lambda file: file.write_bytes(pickle.dumps({"x": 1})), "run code: .*protocol is above 2"),
        (lambda file: torch.save(SPARSE, file), "loading state_dict for Sequential"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_file_that_is_no_state_dict_is_refused_with_the_cause(file, write, reason):
    write(file)
    refusal(file, reason)
