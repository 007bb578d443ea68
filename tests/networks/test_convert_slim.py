import hashlib
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


def test_script_writes_the_weights_that_the_papers_short_name_loads(tmp_path, succeed, checkpoints):
    v3 = {name: well_scaled(name, a) for name, a in variables_of("inception_v3").items()}
    file, output = tmp_path / "ens3_adv.npz", checkpoints / "inc_v3_ens3.safetensors"
    np.savez(file, **v3)
    text, _ = succeed(f"convert_slim {file} {output}")
    assert text == f"{output}: inception_v3, 566 tensors\n"
    assert list(checkpoints.iterdir()) == [output]
    with safetensors.safe_open(output, "pt") as written:
        assert written.metadata()["architecture"] == "inception_v3"
    state = safetensors.torch.load_file(output)
    expected = slim.convert_variables(v3, "inception_v3")
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    network = slim.slim_network("inception_v3")
    network.load_state_dict(state)
    model, pixels = load_model("inc_v3_ens3"), torch.rand(1, 3, 299, 299)
    with torch.no_grad():
        logits = network(2 * pixels - 1)
        assert not torch.allclose(logits, network(pixels), atol=1e-2)
        torch.testing.assert_close(model(pixels), logits)
    assert model.digests == {output.name: hashlib.sha256(output.read_bytes()).hexdigest()}


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("few.npz {x}/out.pth", 2, "must end in .safetensors"),
        ("few.npz {x}/out.safetensors --arch vgg16", 2, "invalid choice"),
        ("absent.npz {x}/out.safetensors", 1, "absent.npz"),
        ("absent.ckpt {x}/out.safetensors", 1, "there is no checkpoint"),
        ("model.ckpt {x}/out.safetensors", 1, "pip install -r requirements-convert.txt"),
        ("pickled.npz {x}/out.safetensors", 1, "pickled.npz: not readable"),
        ("broken.npz {x}/out.safetensors", 1, "broken.npz: not readable"),
        ("few.npz {x}/out.safetensors --arch inception_v4", 1, "few.npz: the variables are not"),
    ],
)
def test_script_says_what_is_wrong(tmp_path, run, monkeypatch, words, status, message):
    (tmp_path / "model.ckpt.index").touch()
    (tmp_path / "broken.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "pickled.npz", weights=np.array([{}], dtype=object))
    np.savez(tmp_path / "few.npz", **{"Model/Conv2d_1a_3x3/weights": np.ones(3)})
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    found, _, log = run("convert_slim {x}/" + words, x=tmp_path)
    assert (found, message in log) == (status, True), log
    assert not list(tmp_path.glob("out*"))


def test_scripts_architectures_are_the_modules():
    assert convert_slim.ARCHITECTURES == slim.ARCHITECTURES
