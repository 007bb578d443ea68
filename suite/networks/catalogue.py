"""Networks by name: what each takes, and where its weights come from."""

import contextlib
import dataclasses
import functools
import importlib
import sys
from collections.abc import Hashable
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from suite.networks import cifar10, libraries, protocols, weights
from suite.networks.libraries import NetworkSpec
from suite.user_code.user_file import is_user_file
from suite.user_code.user_network import load_user_network

# TF-Slim's released networks by the papers' names: the architecture, the file of the weights that
# MMdnn converted, and the tag of timm's copy.
SLIM = {
    "inc_v3": ("inception_v3", "inception_v3", "tf_in1k"),
    "inc_v4": ("inception_v4", "inception_v4", "tf_in1k"),
    "incres_v2": ("inception_resnet_v2", "inc_res_v2", "tf_in1k"),
    "inc_v3_adv": ("inception_v3", "adv_inception_v3", "tf_adv_in1k"),
    "inc_v3_ens3": ("inception_v3", "ens3_adv_inc_v3", None),
    "inc_v3_ens4": ("inception_v3", "ens4_adv_inc_v3", None),
    "incres_v2_ens": ("inception_resnet_v2", "ens_adv_inc_res_v2", "tf_ens_adv_in1k"),
}
# Names that no library has.
SUITE_NAMES = (*libraries.LITES, *SLIM, *cifar10.FILES, *protocols.FED)
SLIM_URL = "https://github.com/ylhz/tf_to_pytorch_model/releases/download/v1.0/tf2torch_"
RESNEXTS = ("resnext101_32x4d", "resnext101_64x4d")  # pretrainedmodels'
# Other copies of pretrainedmodels' weights, whose server is often down. Those of the SE-ResNets and
# Xception are the same files; the others were saved again under the same or other names.
ELSEWHERE = {
    **{f"densenet{n}": f"torchvision/densenet{n}@IMAGENET1K_V1" for n in (121, 161, 169, 201)},
    "inceptionresnetv2": "timm/inception_resnet_v2.tf_in1k",
    "inceptionv4": "timm/inception_v4.tf_in1k",
    **{f"se_resnet{n}": f"timm/legacy_seresnet{n}.in1k" for n in (50, 101, 152)},
    **{f"se_resnext{n}_32x4d": f"timm/legacy_seresnext{n}_32x4d.in1k" for n in (50, 101)},
    "senet154": "timm/legacy_senet154.in1k",
    "xception": "timm/legacy_xception.tf_in1k",
}


def find_network(name: str) -> NetworkSpec:
    """Return the specification of a network, without building or downloading anything.

    Raises:
        ValueError: no network has that name; the message suggests similar ones.
        OSError: the user's own Python file does not exist.
    """
    if is_user_file(name):
        network, size, code, others = load_user_network(name)
        plain = size, (0.0,) * 3, (1.0,) * 3, None
        return NetworkSpec(lambda *_: network, *plain, code=code, others=others)
    if name in protocols.FED:
        other, feeding = protocols.FED[name]
        return dataclasses.replace(find_network(other), **feeding)
    if name in libraries.LITES:
        return libraries.lite_network(name)
    if name in SLIM:
        return _slim(name)
    library, _, rest = name.rpartition("/")
    if library == "cifar10":
        return cifar10.cifar10_network(name)
    if library == "torchvision":
        return libraries.torchvision_network(rest)
    if library == "timm":
        return libraries.timm_network(rest)
    return _pretrainedmodels(name)


@functools.cache
def network_identity(name: str) -> Hashable:
    """Return a value that is equal for all names of the same network.

    It consists of the preprocessing and the name of the file of weights, which has their digest.
    Weights that a library saved again are another file, and count as another network.
    """
    with contextlib.suppress(ValueError):  # the name of an ensemble, or of no network
        spec = None if is_user_file(name) else find_network(name)
        if spec and spec.file:
            pixels = (*spec.input_size, *spec.mean, *spec.std, spec.bgr, spec.scale)
            return spec.file.name, *pixels, spec.crop_pct, spec.interpolation
    return name


def _slim(name: str) -> NetworkSpec:
    architecture, released, tag = SLIM[name]
    url = f"{SLIM_URL}{released}.npy"
    converted = weights.weights_folder() / f"{name}.safetensors"  # by scripts/convert_slim.py
    file = converted if converted.is_file() else weights.kept_file(url)

    def build(file: Path | None, classes: int = 1000) -> nn.Module:
        from safetensors.torch import load_file

        from suite.networks import slim

        network = slim.slim_network(architecture, classes)
        if file:
            state = load_file(file) if file == converted else slim.read_mmdnn(file, architecture)
            network.load_state_dict(state)
        return network

    half = protocols.HALF  # slim takes pixels in [-1, 1]
    spec = NetworkSpec(build, (3, 299, 299), **half, file=file, url=url)
    if not tag:
        return spec
    differs = "a port of the same weights, which was not compared with slim's outputs"
    if architecture == "inception_v3":
        differs = (
            "its average pools count the padding, slim's do not, which moves the logits by some "
            "percent of their range"
        )
    note = f"no {file}: taking timm/{architecture}.{tag} instead ({differs})"
    other = dataclasses.replace(libraries.timm_network(f"{architecture}.{tag}"), note=note)
    return dataclasses.replace(spec, alternative=other)


def import_pretrainedmodels() -> ModuleType:
    """Import the package without the 480 MB of the two ResNeXts that it builds meanwhile."""
    with torch.device("meta"):
        import pretrainedmodels
    return pretrainedmodels


def _pretrainedmodels(name: str) -> NetworkSpec:
    pretrainedmodels = import_pretrainedmodels()
    if name not in pretrainedmodels.model_names:
        raise libraries.unknown_network(name, [*SUITE_NAMES, *pretrainedmodels.model_names])
    known = pretrainedmodels.pretrained_settings[name]
    version = "imagenet" if "imagenet" in known else next(iter(known))  # DPNs have imagenet+5k
    settings = known[version]

    def build(file: Path | None, classes: int = 1000) -> nn.Module:
        pretrained = version if file else None
        if name in RESNEXTS:  # each needs features of its own, with numbers
            features = f"{name}_features"
            file_of_features = f"pretrainedmodels.models.resnext_features.{features}"
            built = getattr(importlib.reload(sys.modules[file_of_features]), features)
            setattr(sys.modules["pretrainedmodels.models.resnext"], features, built)
        network = getattr(pretrainedmodels, name)(num_classes=1000, pretrained=pretrained)
        if classes != 1000:
            _replace_classifiers(network, classes)  # many ignore num_classes
        return network

    size, mean, std, url = (settings[key] for key in ("input_size", "mean", "std", "url"))
    pixels = {"bgr": settings["input_space"] == "BGR", "scale": max(settings["input_range"])}
    spec = NetworkSpec(build, size, mean, std, weights.kept_file(url), url, **pixels)
    if name not in ELSEWHERE:
        return spec
    other = find_network(ELSEWHERE[name])

    def build_from_other(file: Path) -> nn.Module:
        network = build(None)
        # Names may differ, but the order and the shapes of the tensors are the same.
        libraries.copy_in_order(other.build(file).state_dict(), network)
        return network

    note = f"taking {ELSEWHERE[name]}'s copy of the weights of {name}"
    elsewhere = {"build": build_from_other, "file": other.file, "url": other.url, "note": note}
    return dataclasses.replace(spec, alternative=dataclasses.replace(spec, **elsewhere))


def _replace_classifiers(network: nn.Module, classes: int) -> None:
    """Give a network with 1000 classes new last layers, also of its auxiliary classifiers."""
    for name, layer in list(network.named_modules()):
        bias = getattr(layer, "bias", None) is not None
        if isinstance(layer, nn.Linear) and layer.out_features == 1000:
            network.set_submodule(name, nn.Linear(layer.in_features, classes, bias))
        elif isinstance(layer, nn.Conv2d) and layer.out_channels == 1000:
            new = nn.Conv2d(layer.in_channels, classes, layer.kernel_size, bias=bias)
            network.set_submodule(name, new)
