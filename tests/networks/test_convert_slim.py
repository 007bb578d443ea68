import sys

import convert_slim
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from slim_variables import variables_of, well_scaled

from suite.networks import slim
from suite.networks.classifier import load_model
from suite.running import cli


@pytest.fixture(scope="module")
def v3():
    return variables_of("inception_v3")


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
    slim.slim_network("inception_v3").load_state_dict(state)
    expected = slim.convert_variables(v3, "inception_v3")
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, output.name]


def test_converted_file_is_what_the_papers_short_name_loads(tmp_path, v3, convert, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    v3 = {name: well_scaled(name, values) for name, values in v3.items()}
    np.savez(tmp_path / "ens3_adv.npz", **v3)
    assert convert(tmp_path / "ens3_adv.npz", checkpoints / "inc_v3_ens3.safetensors")[0] == 0
    network = slim.slim_network("inception_v3")
    network.load_state_dict(slim.convert_variables(v3, "inception_v3"))
    pixels = torch.rand(1, 3, 299, 299)
    with torch.no_grad():
        logits = network.eval()(2 * pixels - 1)
        assert not torch.allclose(logits, network(pixels), atol=1e-2)
        torch.testing.assert_close(load_model("inc_v3_ens3")(pixels), logits)


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
