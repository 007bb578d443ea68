"""Where weights come from: other copies, converted files; and the list of names."""

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from list_networks import network_names
from torch import nn

from suite.networks import catalogue, fetching
from suite.networks.classifier import load_model
from suite.networks.protocols import TARGETS


def test_no_network_is_named_with_both_servers(checkpoints):
    with pytest.raises(OSError, match="no network") as error:
        load_model("senet154")
    for part in ("data.lip6.fr", "senet154-c7b49a05.pth", "legacy_senet154", str(checkpoints)):
        assert part in str(error.value)


# Other copies of the same weights


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("densenet121", "densenet121-a639ec97.pth"),
        ("se_resnet50", "v0.1-cadene/se_resnet50-ce0d4300.pth"),
        ("se_resnext50_32x4d", "legacy_se_resnext50_32x4d-f3651bad.pth"),
    ],
)
@pytest.mark.usefixtures("checkpoints")
def test_other_copy_is_taken_where_the_server_does_not_answer(monkeypatch, caplog, name, file):
    other = catalogue.ELSEWHERE[name]
    if other.startswith("timm/"):
        network = timm.create_model(other.removeprefix("timm/")).eval()
    else:
        network = torchvision.models.get_model(name).eval()

    def fetch(url, part):
        if not url.endswith(file):
            raise OSError("no answer")
        torch.save(network.state_dict(), part)

    monkeypatch.setattr(fetching, "_fetch", fetch)
    monkeypatch.setattr(fetching, "digest_in_name", lambda file: "")
    model = load_model(name)
    pixels = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(model.network(pixels), network(pixels))
    assert "no answer" in caplog.text
    assert f"taking {other}'s copy" in caplog.text
    assert list(model.digests) == [file.rpartition("/")[2]]
    load_model(name)  # it is there now


def test_other_copies_are_of_known_networks():
    for name in catalogue.ELSEWHERE:
        source = catalogue.find_network(name)
        assert "data.lip6.fr" in source.url
        assert source.alternative.url.startswith("https://")


@pytest.mark.parametrize("name", ["inceptionv4", "inceptionresnetv2"])
def test_tensors_of_the_other_copy_stand_in_the_same_order(name):
    with torch.device("meta"):
        ours = catalogue.find_network(name).build(None).state_dict()
        theirs = catalogue.find_network(catalogue.ELSEWHERE[name]).build(None).state_dict()
    assert [t.shape for t in ours.values()] == [t.shape for t in theirs.values()]
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= 2  # the classifier's


# Short names


@pytest.mark.parametrize("name", ["inc_v3_ens3", "inc_v3_ens4", "incres_v2_ens"])
def test_short_name_without_any_weights_says_what_to_do(checkpoints, name):
    architecture, released, tag = catalogue.SLIM[name]
    with pytest.raises(OSError, match="ylhz/tf_to_pytorch_model") as error:
        load_model(name)
    assert f"Put that file into {checkpoints} as tf2torch_{released}.npy" in str(error.value)
    assert f"timm/{architecture}.{tag}" in str(error.value) or not tag


def test_short_name_falls_back_to_timm_and_says_how_it_differs(checkpoints, caplog):
    network = timm.create_model("inception_v3").eval()
    file = checkpoints / "inception_v3.tf_adv_in1k.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    model = load_model("inc_v3_adv")
    pixels = torch.rand(1, 3, 299, 299)
    torch.testing.assert_close(model(pixels), network(2 * pixels - 1))
    assert "taking timm/inception_v3.tf_adv_in1k instead" in caplog.text
    assert "average pools count the padding" in caplog.text


@pytest.mark.parametrize("content", ["truncated", "shapes"])
def test_unusable_converted_file_is_named(checkpoints, content):
    file = checkpoints / "inc_v4.safetensors"
    safetensors.torch.save_file(nn.Linear(3, 10).state_dict(), file)
    if content == "truncated":
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="inc_v4.safetensors: not usable as weights"):
        load_model("inc_v4")


def test_list_shows_what_is_on_this_machine(run, succeed, checkpoints):
    before, _ = succeed("list_networks inc_v3*")
    assert "tf2torch_ens3_adv_inc_v3.npy" in before
    assert " here" not in before
    (checkpoints / "inc_v3_ens3.safetensors").touch()
    lines = run("list_networks inc_v3*")[1].splitlines()
    assert [line.split()[0] for line in lines if " here" in line] == ["inc_v3_ens3"]
    assert "299x299" in lines[0]


def test_list_without_a_match_is_an_error(run):
    status, _, err = run("list_networks resnet9999")
    assert (status, "no network's name matches resnet9999" in err) == (1, True)


def test_list_has_every_name_of_every_library_and_builds_none(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a network was built")

    catalogue.find_network("resnet18")  # imports the libraries
    monkeypatch.setattr(nn.Conv2d, "__init__", refuse)
    names = list(network_names())
    assert len(names) == len(set(names))
    listed = {"torchvision/resnet50@IMAGENET1K_V2", "timm/inception_v3.tf_adv_in1k"}
    assert listed.union(TARGETS["paper"]) <= set(names)
    assert not [name for name in names if name.endswith(".in22k")]
    for name in names:
        source = catalogue.find_network(name)
        assert source.file is not None, name
        assert len(source.input_size) == 3
