"""CIFAR-10's ResNets, from files in the published format with random weights."""

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import calibrated
from torch.nn import functional
from torchvision.transforms.functional import normalize

from branches import residual_branches
from suite.images.folders import list_images
from suite.images.pictures import to_float
from suite.networks import catalogue, cifar10, fetching
from suite.networks.classifier import load_model, predict_logits
from suite.results.targets import Targets
from suite.results.transfer import gallery_examples

NAME, FILE = "cifar10/resnet20", "resnet20-12fca82f.th"
pytestmark = pytest.mark.usefixtures("checkpoints")
# As the authors of the weights publish them, in millions.
SIZES = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7, 1202: 19.4}


def published(file, classes=10, depth=20):
    """Write random weights as the published files have them; return them without `module.`.

    Those are from before PyTorch 0.4.1, of nn.DataParallel on a GPU, and not an archive.
    """
    state = calibrated(cifar10.ResNet(depth, classes), 32).state_dict()
    state = {key: tensor for key, tensor in state.items() if "num_batches" not in key}
    saved = {"state_dict": {f"module.{key}": t for key, t in state.items()}, "best_prec1": 91.8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(saved, file, _use_new_zipfile_serialization=False)
    return state


def by_formula(state, pixels):
    """Return the logits of a ResNet-20, as section 4.2 of the paper states it."""

    def layer(number, x, stride=1):
        x = functional.conv2d(x, state[f"{number}.weight"], stride=stride, padding=1)
        norm = number.replace("conv", "bn")
        mean, var, weight, bias = (
            state[f"{norm}.{key}"].view(-1, 1, 1)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = layer("conv1", normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])).relu()
    for stage, channels in ((1, 16), (2, 32), (3, 64)):
        for block in range(3):
            name, narrows = f"layer{stage}.{block}", channels != x.shape[1]
            branch = layer(f"{name}.conv1", x, 2 if narrows else 1).relu()
            skip = x
            if narrows:  # the paper's option A
                skip = torch.zeros(branch.shape)
                skip[:, channels // 4 : channels * 3 // 4] = x[:, :, ::2, ::2]
            x = (skip + layer(f"{name}.conv2", branch)).relu()
    return x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


@pytest.mark.parametrize("depth", SIZES)
def test_networks_have_the_published_number_of_parameters(depth):
    with torch.device("meta"):
        network = catalogue.find_network(f"cifar10/resnet{depth}").build(None)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert float(f"{millions:.{1 if depth > 100 else 2}f}") == SIZES[depth]


def test_layers_have_the_published_names():
    norms = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    blocks = [f"layer{stage}.{block}." for stage in (1, 2, 3) for block in range(5)]
    expected = {"linear.weight", "linear.bias"}
    for block, number in [("", 1), *itertools.product(blocks, (1, 2))]:
        expected.add(f"{block}conv{number}.weight")
        expected |= {f"{block}bn{number}.{key}" for key in norms}
    assert set(cifar10.ResNet(32).state_dict()) == expected


def test_each_block_that_keeps_the_size_has_a_residual_branch():
    model = load_model("cifar10/resnet56", pretrained=False)
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(stage > 1, 9)]
    branches = residual_branches(model.network, (3, 32, 32))
    assert [branch.module for branch in branches] == [f"{block}.bn2" for block in blocks]
    branches = residual_branches(model.accelerate().network, (3, 32, 32))
    # Into which the batch norms are folded.
    assert [branch.module for branch in branches] == [f"{block}.conv2" for block in blocks]


@pytest.mark.parametrize("fast", [False, True])
def test_published_file_gives_the_logits_of_the_formula(checkpoints, caplog, fast):
    state = published(checkpoints / FILE)
    model = load_model(NAME)
    if fast:
        model.accelerate()
        assert model.classes == 10
        assert not [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    pixels = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(model(pixels), by_formula(state, pixels), rtol=1e-4, atol=1e-4)
    assert model.digests == {FILE: hashlib.sha256((checkpoints / FILE).read_bytes()).hexdigest()}
    assert "SHA-256 does not begin with the digits" in caplog.text  # these are random weights


def test_download_is_kept_only_where_its_digits_are_right(
    checkpoints, monkeypatch, tmp_path, caplog
):
    published(tmp_path / "offered")
    content = (tmp_path / "offered").read_bytes()
    monkeypatch.setattr(fetching, "_fetch", lambda url, part: part.write_bytes(content))
    with pytest.raises(OSError, match="does not begin with 12fca82f") as error:
        load_model(NAME)
    assert f"{cifar10.URL}/{FILE}" in str(error.value)
    assert not list(checkpoints.iterdir())
    name = f"resnet20-{hashlib.sha256(content).hexdigest()[:8]}.th"
    monkeypatch.setitem(cifar10.FILES, NAME, name)
    model = load_model(NAME)
    assert [file.name for file in checkpoints.iterdir()] == [name] == list(model.digests)
    assert "SHA-256" not in caplog.text


@pytest.mark.parametrize("content", ["truncated", "other depth"])
def test_unusable_file_is_named(checkpoints, content):
    file = checkpoints / FILE
    published(file, depth=32 if content == "other depth" else 20)
    if content == "truncated":
        file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=f"{FILE}: not usable as weights"):
        load_model(NAME)


@pytest.mark.parametrize(("classes", "third"), [(10, "cat"), (100, "class 3")])
def test_checkpoint_tells_the_number_of_classes(tmp_path, classes, third):
    state = published(tmp_path / "own.th", classes)
    model = load_model(NAME, checkpoint=tmp_path / "own.th").accelerate()
    assert (model.classes, model.class_name(3)) == (classes, third)
    assert torch.equal(model.network.linear.weight, state["linear.weight"])


def test_names_are_listed(run):
    names = [line.split()[0] for line in run("list_networks cifar10/*")[1].splitlines()]
    assert names == [f"cifar10/resnet{depth}" for depth in SIZES]


def test_gallery_has_cifar_10_s_names(checkpoints, tmp_path):
    """Folders named by class, in the order of their names, are its classes."""
    published(checkpoints / FILE)
    for index, name in enumerate(cifar10.CIFAR10_CLASSES):
        (tmp_path / "test" / name).mkdir(parents=True)
        picture = np.full((32, 32, 3), 20 * index, np.uint8)
        PIL.Image.fromarray(picture).save(tmp_path / "test" / name / f"{index}.png")
    listed = list_images(tmp_path / "test")
    targets = Targets([NAME], {}, "cpu")
    naturals = {image.name: image for image in listed}
    shown = gallery_examples(listed, naturals, targets, "cpu", targeted=False)
    assert [example["label"] for example in shown] == list(cifar10.CIFAR10_CLASSES)
    logits = predict_logits(targets.networks[NAME], to_float(shown[4]["pixels"][0][None]))
    expected = f"{cifar10.CIFAR10_CLASSES[logits.argmax()]} {100 * logits.softmax(1).max():.0f} %"
    right = logits.argmax().item() == 4
    assert shown[4]["answers"] == {NAME: [(expected, right)] * 2}
    (first, *_) = gallery_examples(
        [replace(listed[0], target=9)], naturals, targets, "cpu", targeted=True
    )
    assert first["label"] == "airplane, target class 9"
