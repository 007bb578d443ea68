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
from torchvision.transforms.functional import normalize

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
    for name, other, same in (
        ("vgg19_bn", "torchvision/vgg19_bn", True),
        ("torchvision/resnet50", "torchvision/resnet50@IMAGENET1K_V1", True),
        ("timm/resnet18", f"timm/resnet18.{timm.get_pretrained_cfg('resnet18').tag}", True),
        ("vgg19_bn", "vgg19", False),
        ("resnet152", "torchvision/resnet152", False),  # another file
        ("densenet201", "torchvision/densenet201", False),
        ("torchvision/resnet50", "torchvision/resnet50@IMAGENET1K_V2", False),
        ("inceptionv3", "torchvision/inception_v3", False),
        ("transferattack/inception_v3", "torchvision/inception_v3", False),
        ("ta-bench/tv_resnet50", "timm/resnet50.tv_in1k", False),
    ):
        assert (network_identity(name) == network_identity(other)) == same
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
    for name, file in [
        ("torchvision/resnet18", "resnet18-f37072fd.pth"),
        ("resnet18", "resnet18-5c106cde.pth"),
        ("squeezenet1_1", "squeezenet1_1-f364aa15.pth"),
    ]:
        network = torchvision.models.get_model(name.removeprefix("torchvision/"))
        torch.save(network.state_dict(), checkpoints / file)
        pixels = torch.rand(1, 3, 224, 224)
        normalised = normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        torch.testing.assert_close(load_model(name)(pixels), network.eval()(normalised))


def test_timms_weights_are_loaded(checkpoints):
    for name, timm_name in [
        ("timm/resnet10t.c3_in1k", "resnet10t.c3_in1k"),
        ("efficientnet_lite3", "tf_efficientnet_lite3.in1k"),
    ]:
        network = timm.create_model(timm_name)
        safetensors.torch.save_file(network.state_dict(), checkpoints / f"{timm_name}.safetensors")
        loaded = load_model(name).network
        assert torch.equal(loaded.get_classifier().weight, network.get_classifier().weight)


def test_lites_are_one_family():
    found = [catalogue.find_network(f"efficientnet_lite{number}") for number in range(5)]
    assert [spec.input_size[1] for spec in found] == [224, 240, 260, 300, 380]
    assert {(*spec.mean, *spec.std) for spec in found} == {(0.5,) * 6}


TORCH = "https://download.pytorch.org/models/{file}"
HUB = "https://huggingface.co/timm/{repository}/resolve/main/model.safetensors"


@pytest.mark.parametrize(
    ("name", "url", "file"),
    [
        ("resnet152", TORCH, "resnet152-b121ed2d.pth"),
        ("torchvision/resnet50", TORCH, "resnet50-0676ba61.pth"),
        ("timm/inception_v3.tf_adv_in1k", HUB, "inception_v3.tf_adv_in1k.safetensors"),
        ("efficientnet_lite4", HUB, "tf_efficientnet_lite4.in1k.safetensors"),
    ],
)
def test_missing_weights_are_named_with_url_file_and_folder(checkpoints, name, url, file):
    url = url.format(file=file, repository=file.removesuffix(".safetensors"))
    with pytest.raises(OSError, match="no network") as error:
        load_model(name)
    for part in (f"{url} ", f" {file} ", str(checkpoints)):
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


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet51", "resnet50"),
        ("efficientnet_lite5", "efficientnet_lite4"),
        ("torchvision/resnet51", "torchvision/resnet50"),
        ("torchvision/resnet50@IMAGENET1K_V3", "torchvision/resnet50@IMAGENET1K_V2"),
        ("timm/resnet50.a1_in1", "timm/resnet50.a1_in1k"),
        ("cifar10/resnet57", "cifar10/resnet56"),
    ],
)
def test_unknown_name_is_refused_with_near_matches(name, near):
    with pytest.raises(ValueError, match=f"unknown network.*{near}"):
        load_model(name)


@pytest.mark.parametrize("name", ["convnext_tiny.fb_in22k", "vit_small_patch14_dinov2.lvd142m"])
def test_weights_for_other_classes_are_refused_but_the_network_is_known(name):
    with pytest.raises(ValueError, match="no weights for ImageNet-1k's 1000 classes"):
        load_model(f"timm/{name}")
    model = load_model(f"timm/{name}", pretrained=False)
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 1000)
