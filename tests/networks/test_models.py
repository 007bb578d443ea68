import pickle

import numpy as np
import PIL.Image
import pretrainedmodels
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from pretrainedmodels.utils import TransformImage
from tiny_checkpoints import Pickled
from torch import nn
from torch.nn import functional

from suite.images import pictures
from suite.images.folders import EMBEDDED, list_images
from suite.networks import catalogue, libraries
from suite.networks.catalogue import network_identity
from suite.networks.classifier import Classifier, load_model


def test_network_that_views_its_features_keeps_their_layout():
    """As pretrainedmodels' VGG does, one of the paper's targets; channels_last has no such view."""

    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(144, 5)

        def forward(self, x):
            return self.head(self.conv(x).view(len(x), -1))

    spec = libraries.NetworkSpec(None, (3, 8, 8), (0.0,) * 3, (1.0,) * 3, None)
    model, pixels = Classifier(Viewing(), spec, None), torch.rand(2, 3, 8, 8)
    expected = model(pixels)
    torch.testing.assert_close(model.accelerate()(pixels), expected)


def test_embedded_networks_recognise_the_embedded_images():
    listed = list_images(EMBEDDED)[:20]
    resized = [pictures.read_image(image.path).resize((260, 260)) for image in listed]
    pixels = pictures.to_float(torch.stack([pictures.to_pixels(picture) for picture in resized]))
    labels = torch.tensor([image.label for image in listed])
    for name in libraries.EMBEDDED_NETWORKS:
        assert (load_model(name)(pixels).argmax(1) == labels).sum() >= 14


def test_names_are_one_network_if_weights_and_preprocessing_are_the_same():
    for name, other in (
        ("vgg19_bn", "torchvision/vgg19_bn"),
        ("torchvision/resnet50", "torchvision/resnet50@IMAGENET1K_V1"),
        ("timm/resnet18", f"timm/resnet18.{timm.get_pretrained_cfg('resnet18').tag}"),
    ):
        assert network_identity(name) == network_identity(other)
    for name, other in (
        ("vgg19_bn", "vgg19"),
        ("resnet152", "torchvision/resnet152"),  # another file
        ("densenet201", "torchvision/densenet201"),
        ("torchvision/resnet50", "torchvision/resnet50@IMAGENET1K_V2"),
        ("inceptionv3", "torchvision/inception_v3"),
        ("transferattack/inception_v3", "torchvision/inception_v3"),
        ("ta-bench/tv_resnet50", "timm/resnet50.tv_in1k"),
    ):
        assert network_identity(name) != network_identity(other)
    for name in ("nowhere/nets.py:network", "resnet50 + vgg16", "VGG-16"):
        assert network_identity(name) == name


def test_networks_are_frozen_and_in_evaluation_mode():
    model = load_model("torchvision/resnet18", pretrained=False)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["resnet18", "bninception", "squeezenet1_1", "xception", "dpn68"])
def test_preprocessing_is_that_of_pretrainedmodels(name):
    model = load_model(name, pretrained=False)
    settings = next(iter(pretrainedmodels.pretrained_settings[name].values()))
    _, height, width = settings["input_size"]
    picture = pictures.read_image(list_images(EMBEDDED)[0].path).resize((width, height))
    for key, value in settings.items():
        setattr(model.network, key, value)
    theirs = TransformImage(model.network, scale=1)(picture)[None]
    logits = model(pictures.to_float(pictures.to_pixels(picture))[None])
    assert logits.shape == (1, 1000)
    torch.testing.assert_close(logits, model.network(theirs).flatten(1))


def test_resizing_is_bilinear_and_antialiased_as_in_pil():
    picture = pictures.read_image(list_images(EMBEDDED)[0].path)
    pixels = pictures.to_float(pictures.to_pixels(picture))[None]
    ours = functional.interpolate(pixels, (224, 224), mode="bilinear", antialias=True)
    pil = np.asarray(picture.resize((224, 224), PIL.Image.Resampling.BILINEAR))
    assert abs(ours[0].permute(1, 2, 0).numpy() * 255 - pil).max() < 1.01

    spec = libraries.NetworkSpec(None, (3, 224, 224), (0.0,) * 3, (1.0,) * 3, None)
    assert torch.equal(Classifier(nn.Identity(), spec, None)(pixels), ours.flatten(1))


def test_weights_where_torch_keeps_them_are_loaded(checkpoints):
    for name, file, network in [
        ("torchvision/resnet18", "resnet18-f37072fd.pth", torchvision.models.resnet18()),
        ("resnet18", "resnet18-5c106cde.pth", torchvision.models.resnet18()),
        ("squeezenet1_1", "squeezenet1_1-f364aa15.pth", torchvision.models.squeezenet1_1()),
    ]:
        torch.save(network.state_dict(), checkpoints / file)
        pixels = torch.rand(1, 3, 224, 224)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        normalised = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        torch.testing.assert_close(load_model(name)(pixels), network.eval()(normalised))


@pytest.mark.parametrize(
    ("name", "timm_name"),
    [
        ("timm/resnet10t.c3_in1k", "resnet10t.c3_in1k"),
        ("efficientnet_lite3", "tf_efficientnet_lite3.in1k"),
    ],
)
def test_timms_weights_are_loaded(checkpoints, name, timm_name):
    network = timm.create_model(timm_name)
    safetensors.torch.save_file(network.state_dict(), checkpoints / f"{timm_name}.safetensors")
    loaded = load_model(name).network
    assert torch.equal(loaded.get_classifier().weight, network.get_classifier().weight)


def test_lites_are_one_family():
    found = [catalogue.find_network(f"efficientnet_lite{number}") for number in range(5)]
    assert [spec.input_size[1] for spec in found] == [224, 240, 260, 300, 380]
    assert {(*spec.mean, *spec.std) for spec in found} == {(0.5,) * 6}


@pytest.mark.parametrize(
    ("name", "url", "file"),
    [
        ("resnet152", "download.pytorch.org/models/resnet152-b121ed2d.pth", None),
        ("torchvision/resnet50", "download.pytorch.org/models/resnet50-0676ba61.pth", None),
        (
            "timm/inception_v3.tf_adv_in1k",
            "huggingface.co/timm/inception_v3.tf_adv_in1k/resolve/main/model.safetensors",
            "inception_v3.tf_adv_in1k.safetensors",
        ),
        (
            "efficientnet_lite4",
            "huggingface.co/timm/tf_efficientnet_lite4.in1k/resolve/main/model.safetensors",
            "tf_efficientnet_lite4.in1k.safetensors",
        ),
    ],
)
def test_missing_weights_are_named_with_url_file_and_folder(checkpoints, name, url, file):
    with pytest.raises(OSError, match="no network") as error:
        load_model(name)
    for part in (f"https://{url} ", f" {file or url.rpartition('/')[2]} ", str(checkpoints)):
        assert part in str(error.value)


@pytest.mark.parametrize("content", ["truncated", "pickle", "shapes"])
def test_unusable_weights_are_refused_by_name(checkpoints, capsys, content):
    file = checkpoints / "resnet18-5c106cde.pth"
    if content == "pickle":
        file.write_bytes(pickle.dumps({"fc.weight": Pickled(print, ("this ran",))}))
    else:
        torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), file)
    if content == "truncated":
        file.write_bytes(file.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match=r"resnet18-5c106cde.pth: not usable as weights"):
        load_model("resnet18")
    assert "this ran" not in capsys.readouterr().out


def test_file_with_another_digest_than_its_name_is_warned_of(checkpoints, caplog):
    torch.save(torchvision.models.resnet18().state_dict(), checkpoints / "resnet18-5c106cde.pth")
    load_model("resnet18")
    assert "SHA-256 does not begin with the digits" in caplog.text


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet51", "resnet50"),
        ("efficientnet_lite5", "efficientnet_lite4"),
        ("torchvision/resnet51", "torchvision/resnet50"),
        ("torchvision/resnet50@IMAGENET1K_V3", "torchvision/resnet50@IMAGENET1K_V2"),
        ("timm/resnet50.a1_in1", "timm/resnet50.a1_in1k"),
    ],
)
def test_unknown_name_is_refused_with_near_matches(name, near):
    with pytest.raises(ValueError, match="unknown network") as error:
        load_model(name)
    assert near in str(error.value)


@pytest.mark.parametrize("name", ["convnext_tiny.fb_in22k", "vit_small_patch14_dinov2.lvd142m"])
def test_weights_for_other_classes_are_refused_but_the_network_is_known(name):
    with pytest.raises(ValueError, match="no weights for ImageNet-1k's 1000 classes"):
        load_model(f"timm/{name}")
    model = load_model(f"timm/{name}", pretrained=False)
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 1000)
