"""Checkpoints whose keys have prefixes, and what they hold besides the network."""

import argparse
import collections

import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_checkpoints import PIXELS, assert_loaded, build, file, loaded, network, prefixed
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms.functional import normalize

from suite.networks import checkpoints
from suite.networks.classifier import load_model

__all__ = ["file", "network"]


PREFIXES = """
    _orig_mod. module. model. module.model. 1.module. 1. net._orig_mod. _orig_mod.module. backbone.
    attacker.model.
"""


@pytest.mark.parametrize("prefix", PREFIXES.split())
def test_prefix_is_taken_off(network, file, prefix):
    torch.save(prefixed(network, prefix), file)
    assert_loaded(file, network)


PARTS = st.sampled_from(["module", "_orig_mod", "model", "net", "0", "1", "backbone"])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=3), st.lists(PARTS, max_size=2))
@example([], [], ["module"])
def test_any_prefixes_on_both_sides_are_taken_off(file, theirs, ours, inside):
    def wrapped(network, names):
        for name in reversed(names):
            network = nn.Sequential(collections.OrderedDict([(name, network)]))
        return network

    inside = [name for name in inside if name in checkpoints.WRAPPERS]
    network = build()
    state = {".".join([*theirs, key]): tensor for key, tensor in network.state_dict().items()}
    state = {k.replace("features.", ".".join(["features", *inside, ""])): state[k] for k in state}
    torch.save(state, file)
    assert_loaded(file, network, lambda: wrapped(build(), ours))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, AveragedModel])
def test_wrapper_of_the_network_or_the_checkpoint_does_not_matter(network, file, wrap):
    for saved, make in (
        (wrap(network), build),
        (network, lambda: wrap(build())),
        (wrap(network), lambda: wrap(build())),
    ):
        torch.save(saved.state_dict(), file)
        with torch.compiler.set_stance("force_eager"):
            assert_loaded(file, network, make)


def test_layer_that_is_called_module_keeps_its_name(file):
    def make():
        layers = {"module": nn.Conv2d(3, 4, 3), "pool": nn.AdaptiveAvgPool2d(1), "x": nn.Flatten()}
        return nn.Sequential(collections.OrderedDict(layers))

    network = make()
    torch.save(network.state_dict(), file)
    assert_loaded(file, network, make)


def test_missing_and_unexpected_keys_are_shown_ten_of_each(network, file):
    state = {f"layer.{n}": torch.zeros(1) for n in range(30)}
    torch.save(state | {"fc.weight": torch.zeros(2, 9)}, file)
    with pytest.raises(ValueError, match="does not fit") as error:
        loaded(file, lambda: nn.Sequential(*(nn.Linear(1, 1) for _ in range(9))))
    message = str(error.value)
    assert "missing 0.weight, 0.bias" in message
    assert "4.bias and 8 more" in message
    assert "unexpected layer.0, " in message
    assert "layer.9 and 21 more" in message


def test_keys_that_are_wrong_under_a_prefix_are_shown_without_it(network, file):
    state = prefixed(network, "model.")
    state["model.head.weight"] = state.pop("model.fc.weight")
    torch.save({"state_dict": state}, file)
    with pytest.raises(ValueError, match="missing fc.weight; unexpected head.weight") as error:
        loaded(file)
    assert "features" not in str(error.value)


def test_different_weights_under_two_prefixes_are_refused(network, file):
    state = prefixed(network, "encoder_q.")
    state |= {f"encoder_k.{k}": v + 1 for k, v in network.state_dict().items()}
    torch.save(state, file)
    with pytest.raises(ValueError, match="under encoder_k and encoder_q|encoder_q and encoder_k"):
        loaded(file)


def test_deeper_network_of_the_same_names_is_refused(network, file):
    for prefix in ("", "model."):
        deeper = {f"{prefix}features.2.weight": torch.zeros(4)}
        torch.save(prefixed(network, prefix) | deeper, file)
        with pytest.raises(ValueError, match=r"unexpected features.2.weight"):
            loaded(file)


# What a checkpoint holds besides the network


def robust(network, prefix):
    """As the robustness library saves it."""
    start = prefix.removesuffix("model.")
    state = prefixed(network, prefix) | prefixed(network, f"{start}attacker.model.")
    for place in (f"{start}normalizer", f"{start}attacker.normalize"):
        state[f"{place}.new_mean"] = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
        state[f"{place}.new_std"] = torch.tensor([0.2, 0.2, 0.1]).view(3, 1, 1)
    return state


@pytest.fixture(scope="module")
def resnet():
    return timm.create_model("resnet10t", num_classes=7).eval()


@pytest.mark.parametrize("prefix", ["module.model.", "model.", "module.", ""])
def test_normaliser_of_a_robust_checkpoint_is_used(resnet, file, caplog, prefix):
    torch.save({"model": robust(resnet, prefix), "epoch": 3}, file)
    model = load_model("timm/resnet10t", checkpoint=file)
    pixels = torch.rand(2, 3, *model.input_size[1:])
    normalised = normalize(pixels, [0.5, 0.4, 0.3], [0.2, 0.2, 0.1])
    torch.testing.assert_close(model(pixels), resnet(normalised))
    assert "its mean 0.5 0.4 0.3 and standard deviation 0.2 0.2 0.1" in caplog.text
    assert "attacker (" in caplog.text


def test_normaliser_that_is_the_network_s_changes_nothing(resnet, file, caplog):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    beside = {"0.mean": torch.tensor(mean), "0.std": torch.tensor(std)}
    torch.save(prefixed(resnet, "1.module.") | beside, file)
    model = load_model("timm/resnet10t", checkpoint=file)
    assert model.mean.flatten().tolist() == pytest.approx(mean)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"normalizer.new_mean": torch.rand(3)}, "normalizer.new_mean"),
        ({"mean": 255 * torch.rand(3) + 1, "std": torch.rand(3)}, "mean"),
        ({"criterion.weight": torch.rand(7)}, "criterion"),
        ({"teacher.fc.weight": torch.rand(7, 2)}, "teacher"),
    ],
)
def test_what_is_not_used_is_named(resnet, file, caplog, beside, named):
    torch.save({"state_dict": prefixed(resnet, "model.") | beside}, file)
    load_model("timm/resnet10t", checkpoint=file)
    assert f"beside the network it holds {named} (1 tensors)" in caplog.text
    assert caplog.records[-1].levelname == "WARNING"


MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.2, 0.1]
NUMPY = {"mean": np.array(MEAN), "std": [np.float64(each) for each in STD]}


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ({"args": argparse.Namespace(mean=MEAN, std=STD, lr=0.1)}, MEAN, STD),  # as timm's script
        ({"args": argparse.Namespace(mean=tuple(MEAN), std=None)}, MEAN, [0.229, 0.224, 0.225]),
        ({"args": argparse.Namespace(mean=None, std=[0.5])}, [0.485, 0.456, 0.406], [0.5] * 3),
        ({"args": {"lr": 0.1}, "hyper_parameters": NUMPY}, MEAN, STD),
        ({"mean": torch.tensor(MEAN), "std": STD}, MEAN, STD),
    ],
)
def test_mean_among_the_options_of_the_training_is_used(resnet, file, caplog, options, mean, std):
    torch.save({"state_dict": resnet.state_dict(), **options}, file)
    model = load_model("timm/resnet10t", checkpoint=file)
    pixels = torch.rand(2, 3, *model.input_size[1:])
    torch.testing.assert_close(model(pixels), resnet(normalize(pixels, mean, std)))
    shown = " ".join(f"{value:g}" for value in mean)
    assert f"{file}: pixels get its mean {shown} and standard deviation" in caplog.text
    assert "not used" not in caplog.text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mean": None, "std": None, "img_size": None}, ""),
        ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, ""),
        ({"mean": "imagenet", "std": [1, 2]}, ""),
        ({"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}, "args.mean (1 tensors), args"),
    ],
)
def test_options_that_say_nothing_new_change_nothing(resnet, file, caplog, options, text):
    torch.save({"state_dict": resnet.state_dict(), "args": argparse.Namespace(**options)}, file)
    model = load_model("timm/resnet10t", checkpoint=file)
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert text in caplog.text
    assert bool(text) == bool(caplog.text)


def test_mean_for_a_network_of_the_user_s_own_is_named_and_not_used(tmp_path, file, caplog):
    (tmp_path / "net.py").write_text(
        "import timm\ndef net(): return timm.create_model('resnet10t')"
    )
    state = timm.create_model("resnet10t").state_dict()
    torch.save({"state_dict": state, "args": argparse.Namespace(mean=MEAN, std=STD)}, file)
    load_model(f"{tmp_path}/net.py:net", checkpoint=file)
    assert "it holds args.mean (1 tensors), args.std (1 tensors): not used" in caplog.text


@pytest.mark.parametrize("size", [{"img_size": 48}, {"input_size": [3, 48, 48], "img_size": 9}])
def test_image_size_of_the_training_is_used(resnet, file, caplog, size):
    torch.save({"state_dict": resnet.state_dict(), "args": argparse.Namespace(**size)}, file)
    model = load_model("timm/resnet10t", checkpoint=file)
    assert model.input_size == (3, 48, 48)
    assert "images get the size that it was trained on, 48 x 48 pixels" in caplog.text


def test_image_size_that_a_network_does_not_take_is_warned_of(file, caplog):
    name = "vit_tiny_patch16_224"
    state = timm.create_model(name).state_dict()
    torch.save({"state_dict": state, "args": {"img_size": 200}}, file)
    model = load_model(f"timm/{name}", checkpoint=file)
    assert model.input_size == (3, 224, 224)
    assert "trained on 200 x 200 pixels, which the network does not take" in caplog.text


def test_user_s_own_normaliser_stays_or_is_loaded(network, file):
    def make(mean=0.5):
        normaliser = nn.Module()
        normaliser.register_buffer("mean", torch.full((3,), mean))
        normaliser.forward = lambda pixels: pixels - normaliser.mean.view(3, 1, 1)
        return nn.Sequential(normaliser, build())

    for state, mean in (
        (network.state_dict(), 0.5),  # the bare network's
        (prefixed(network, "1.") | {"0.mean": torch.ones(3)}, 1),
    ):
        torch.save(state, file)
        torch.testing.assert_close(loaded(file, make)(PIXELS), network(PIXELS - mean))
