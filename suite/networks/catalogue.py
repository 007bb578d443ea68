"""The networks that have a name: what each takes, and where its weights come from."""

import dataclasses
import fnmatch
import functools
from collections.abc import Hashable, Iterator
from pathlib import Path

from torch import nn

from suite.networks import cifar10, libraries, protocols, weights
from suite.networks.libraries import EMBEDDED, NetworkSpec
from suite.user_code import user_network
from suite.user_code.input_sizes import input_size
from suite.user_code.user_file import is_user_file
from suite.user_code.user_network import adapted

# Of the embedded networks' family, but in no package: timm's copy of the same authors' weights.
LARGER_LITES = {
    "efficientnet_lite3": "timm/tf_efficientnet_lite3.in1k",
    "efficientnet_lite4": "timm/tf_efficientnet_lite4.in1k",
}
# The names of TF-Slim's released networks in the papers: the architecture, MMdnn's file of the
# weights, and timm's copy.
SLIM = {
    "inc_v3": ("inception_v3", "tf2torch_inception_v3", "inception_v3.tf_in1k"),
    "inc_v4": ("inception_v4", "tf2torch_inception_v4", "inception_v4.tf_in1k"),
    "incres_v2": ("inception_resnet_v2", "tf2torch_inc_res_v2", "inception_resnet_v2.tf_in1k"),
    "inc_v3_adv": ("inception_v3", "tf2torch_adv_inception_v3", "inception_v3.tf_adv_in1k"),
    "inc_v3_ens3": ("inception_v3", "tf2torch_ens3_adv_inc_v3", None),
    "inc_v3_ens4": ("inception_v3", "tf2torch_ens4_adv_inc_v3", None),
    "incres_v2_ens": (
        "inception_resnet_v2",
        "tf2torch_ens_adv_inc_res_v2",
        "inception_resnet_v2.tf_ens_adv_in1k",
    ),
}
# The names that no library has.
SUITE_NAMES = (*EMBEDDED, *LARGER_LITES, *SLIM, *cifar10.FILES, *protocols.FED)
SLIM_URL = "https://github.com/ylhz/tf_to_pytorch_model/releases/download/v1.0"
# Who else carries weights of pretrainedmodels whose server is often down. Of the three SE-ResNets
# and Xception it is the same file; the others were saved again under the same or other names.
ELSEWHERE = {
    "densenet121": "torchvision/densenet121@IMAGENET1K_V1",
    "densenet161": "torchvision/densenet161@IMAGENET1K_V1",
    "densenet169": "torchvision/densenet169@IMAGENET1K_V1",
    "densenet201": "torchvision/densenet201@IMAGENET1K_V1",
    "inceptionresnetv2": "timm/inception_resnet_v2.tf_in1k",
    "inceptionv4": "timm/inception_v4.tf_in1k",
    "se_resnet50": "timm/legacy_seresnet50.in1k",
    "se_resnet101": "timm/legacy_seresnet101.in1k",
    "se_resnet152": "timm/legacy_seresnet152.in1k",
    "se_resnext50_32x4d": "timm/legacy_seresnext50_32x4d.in1k",
    "se_resnext101_32x4d": "timm/legacy_seresnext101_32x4d.in1k",
    "senet154": "timm/legacy_senet154.in1k",
    "xception": "timm/legacy_xception.tf_in1k",
}


def find_network(name: str) -> NetworkSpec:
    """Return where the network of that name comes from; no network is built, nothing downloaded.

    Raises:
        ValueError: no network has that name; the message has near ones.
        OSError: the user's own Python file does not exist.
    """
    if is_user_file(name):
        return _user_network(name)
    if name in protocols.FED:
        other, feeding = protocols.FED[name]
        return dataclasses.replace(find_network(other), **feeding)
    if name in EMBEDDED:
        return libraries.embedded_network(name)
    if name in SLIM:
        return _slim(name)
    library, _, rest = LARGER_LITES.get(name, name).rpartition("/")
    if library == "cifar10":
        return cifar10.cifar10_network(name)
    if library == "torchvision":
        return libraries.torchvision_network(rest)
    if library == "timm":
        return libraries.timm_network(rest)
    return _pretrainedmodels(name)


@functools.cache
def network_identity(name: str) -> Hashable:
    """Return what is equal in names that stand for one network: with it, two are compared.

    That is the file of its weights, whose name has their digest, and the preprocessing. Weights
    that a library saved again are another file, and count as another network.
    """
    try:
        origin = None if is_user_file(name) else find_network(name)
    except ValueError:  # the name of an ensemble, or of no network
        origin = None
    if origin is None or origin.file is None:
        return name
    pixels = (*origin.input_size, *origin.mean, *origin.std, origin.bgr, origin.scale)
    pixels += (origin.crop_pct, origin.interpolation)
    return origin.file.name, *pixels


def network_names() -> Iterator[str]:
    """Yield every name that `find` takes for a network with weights.

    Those are for ImageNet's 1000 classes, or for CIFAR-10's ten.
    """
    import pretrainedmodels
    import timm
    from torchvision import models as torchvision

    yield from (*SUITE_NAMES, *sorted(pretrainedmodels.model_names))
    for arch in torchvision.list_models(module=torchvision):
        yield f"torchvision/{arch}"
        for version in torchvision.get_model_weights(arch).__members__:
            yield f"torchvision/{arch}@{version}"
    for arch in timm.list_pretrained():
        if timm.get_pretrained_cfg(arch).num_classes == 1000:
            yield f"timm/{arch}"


def list_networks(pattern: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, input size, where the weights come from and whether they are on this machine.

    Args:
        pattern: of the names: a part of them, or a shell pattern of the whole.
    """
    if not any(character in pattern for character in "*?["):
        pattern = f"*{pattern}*"
    for name in network_names():
        if not fnmatch.fnmatchcase(name, pattern):
            continue
        origin = find_network(name)
        size = "x".join(map(str, origin.input_size[1:]))
        yield name, size, origin.place, "here" if origin.here else "-"


def _user_network(name: str) -> NetworkSpec:
    network, code = user_network.call_function(name)
    size = input_size(network, name)
    network = adapted(name, network, size)
    zeros, ones = (0.0,) * 3, (1.0,) * 3
    return NetworkSpec(lambda *_: network, size, zeros, ones, None, code=code)


def _slim(name: str) -> NetworkSpec:
    architecture, released, other = SLIM[name]
    converted = weights.weights_folder() / f"{name}.safetensors"  # by scripts/convert_slim.py
    file = converted if converted.is_file() else weights.weights_folder() / f"{released}.npy"

    def build(file: Path | None, classes: int = 1000) -> nn.Module:
        from safetensors.torch import load_file

        from suite.networks import slim

        network = slim.slim_network(architecture)
        if classes != 1000:
            network.reset_classifier(classes)
        if file == converted:
            network.load_state_dict(load_file(file))
        elif file:
            network.load_state_dict(slim.read_mmdnn(file, architecture))
        return network

    if not other:
        alternative = None
    else:
        differs = (
            "its average pools count the padding, slim's do not, which moves the logits by some "
            "percent of their range"
            if architecture == "inception_v3"
            else "a port of the same weights, which was not compared with slim's outputs"
        )
        alternative = dataclasses.replace(
            libraries.timm_network(other),
            note=f"no {file}: taking timm/{other} instead ({differs})",
        )
    half = (0.5, 0.5, 0.5)  # slim takes pixels in [-1, 1]
    url = f"{SLIM_URL}/{released}.npy"
    return NetworkSpec(build, (3, 299, 299), half, half, file, url, alternative=alternative)


def _pretrainedmodels(name: str) -> NetworkSpec:
    import pretrainedmodels

    if name not in pretrainedmodels.model_names:
        raise libraries.unknown_network(name, [*SUITE_NAMES, *pretrainedmodels.model_names])
    known = pretrainedmodels.pretrained_settings[name]
    version = "imagenet" if "imagenet" in known else next(iter(known))  # DPNs have imagenet+5k
    settings = known[version]
    make = getattr(pretrainedmodels, name)

    def build(file: Path | None, classes: int = 1000) -> nn.Module:
        network = make(num_classes=1000, pretrained=version if file else None)
        if classes != 1000:
            _replace_classifiers(network, classes)  # many ignore num_classes
        return network

    origin = NetworkSpec(
        build,
        settings["input_size"],
        settings["mean"],
        settings["std"],
        weights.weights_folder() / settings["url"].rpartition("/")[2],
        settings["url"],
        bgr=settings["input_space"] == "BGR",
        scale=max(settings["input_range"]),
    )
    return dataclasses.replace(origin, alternative=_elsewhere(name, origin))


def _replace_classifiers(network: nn.Module, classes: int) -> None:
    """Give a network with 1000 classes new last layers, also of its auxiliary classifiers."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            bias = getattr(layer, "bias", None) is not None
            if isinstance(layer, nn.Linear) and layer.out_features == 1000:
                setattr(parent, name, nn.Linear(layer.in_features, classes, bias))
            elif isinstance(layer, nn.Conv2d) and layer.out_channels == 1000:
                kernel = layer.kernel_size
                setattr(parent, name, nn.Conv2d(layer.in_channels, classes, kernel, bias=bias))


def _elsewhere(name: str, origin: NetworkSpec) -> NetworkSpec | None:
    """Return the same network of pretrainedmodels, but with another library's copy of its weights.

    Modules, preprocessing and names stay; the tensors are the other network's, in its order.
    """
    if name not in ELSEWHERE:
        return None
    other = find_network(ELSEWHERE[name])
    note = f"taking {ELSEWHERE[name]}'s copy of the weights of {name}"
    if other.file == origin.file:
        return dataclasses.replace(origin, url=other.url, note=note)

    def build(file: Path | None, classes: int = 1000) -> nn.Module:
        network = origin.build(None, classes)
        if file:
            libraries.copy_in_order(other.build(file).state_dict(), network)
        return network

    return dataclasses.replace(origin, build=build, file=other.file, url=other.url, note=note)
