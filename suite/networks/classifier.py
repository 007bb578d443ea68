"""Image classifiers by name, each as one frozen module from [0, 1] RGB pixels to logits."""

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.transforms.functional import center_crop

from suite.networks import catalogue, checkpoints, weights
from suite.networks.acceleration import speed_up
from suite.networks.fetching import obtain
from suite.networks.folding import fold_batch_norms
from suite.networks.libraries import NetworkSpec
from suite.networks.resizing import resized
from suite.running import devices
from suite.running.precision import DEFAULT
from suite.running.runs import sha256
from suite.user_code.process_settings import contained
from suite.user_code.user_file import message_line
from suite.user_code.user_network import failure, undisturbed

logger = logging.getLogger(__name__)


class Classifier(nn.Module):
    """A network with its preprocessing, frozen and in evaluation mode.

    Takes float pixels in [0, 1], N x 3 x H x W in RGB order, and returns N x classes logits. All
    preprocessing happens inside, so that a perturbation is always in pixel units: images of another
    size are resized (bilinear, antialiased as in PIL, without a crop margin unless the spec has a
    `crop_pct`); channels are reordered, scaled and normalised.

    Attributes:
        network: the bare network.
        input_size: channels, height and width that the bare network takes.
        classes: their number; None before `accelerate`.
        others: see `NetworkSpec`.
        digests: SHA-256 of each file that the network was made from, as hexadecimal digits; by the
            file's name, or by the path that the user gave.
    """

    def __init__(self, network: nn.Module, spec: NetworkSpec, file: Path | None):
        super().__init__()
        self.network = network
        self.input_size = tuple(spec.input_size)
        self.digests = {
            str(made_of) if made_of != spec.file else made_of.name: sha256(made_of)
            for made_of in (*spec.code, file)
            if made_of
        }
        self.classes: int | None = None
        self.others = spec.others
        self.crop_pct = spec.crop_pct
        self.bfloat16 = False
        self._spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)  # parameter gradients would cost a third of a step

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = self._at_input_size(pixels)
        if self._spec.bgr:
            pixels = pixels.flip(1)
        pixels = (pixels * self._spec.scale - self.mean) / self.std
        try:
            with (
                contained() if self._spec.code else nullcontext(),
                torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.bfloat16),
            ):
                logits = self.network(pixels)
        except (Exception, SystemExit) as error:
            if not self._spec.code or isinstance(error, ValueError) or devices.out_of_memory(error):
                raise
            raise failure(next(iter(self.digests)), pixels, error) from error
        return logits.flatten(1).float()

    def _at_input_size(self, pixels: Tensor) -> Tensor:
        height, width = self.input_size[1:]
        if self.crop_pct is None:
            same = pixels.shape[-2:] == (height, width)
            return pixels if same else resized(pixels, (height, width), antialias=True)
        rows, columns = (math.floor(side / self.crop_pct) for side in (height, width))
        pixels = resized(pixels, (rows, columns), mode=self._spec.interpolation)
        return center_crop(pixels, [height, width])

    def accelerate(self, precision: str = DEFAULT) -> "Classifier":
        """Make passes fast, with logits equal up to rounding; call it before moving to a device.

        Batch norms are folded into convolutions, some modules get the classes of acceleration.py,
        and weights are laid out as channels_last. TF32's rounding would hide whether folding is
        exact. What a network does not allow is left out, and the log says so.

        Args:
            precision: "bf16" runs the network under autocast; pixels, their gradient and the logits
                stay float32. "tf32" and "fp32" are settings of the device.
        """
        with contained():
            self.classes = fold_batch_norms(self.network, self.input_size)
        self.bfloat16 = precision == "bf16"
        # A forward of the user's may change the weights.
        speed_up(self.network, self.bfloat16 and not self._spec.code)
        device = next(self.network.parameters(), self.mean).device
        try:
            self.to(memory_format=torch.channels_last)
            with undisturbed(device):
                predict_logits(self.network, torch.zeros(1, *self.input_size, device=device))
        except RuntimeError as error:  # such as that of `view`, which needs another layout
            if devices.out_of_memory(error):
                raise
            self.to(memory_format=torch.contiguous_format)
            kind = type(self.network).__name__
            logger.info("%s: not laid out as channels_last (%s)", kind, message_line(error))
        return self

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes, after `accelerate`; empty where they are not known."""
        names = self._spec.class_names or ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
        return names if len(names) == self.classes else ()

    def class_name(self, index: int) -> str:
        """Return the name of a class, after `accelerate`; `class 7` where it has no name."""
        return self.class_names[index] if self.class_names else f"class {index}"


def load_model(name: str, pretrained: bool = True, checkpoint: Path | None = None) -> Classifier:
    """Return a network by name, on the CPU.

    Args:
        name: a name of pretrainedmodels, `torchvision/<name>` or `torchvision/<name>@<weights>`,
            `timm/<name>`, one of the suite's own names (`catalogue.SUITE_NAMES`), or
            `path/to/file.py:function`, a function that returns a module from pixels to logits.
        pretrained: False gives random weights.
        checkpoint: a file of weights to take instead of those that the name stands for; the number
            of classes comes from it.

    Raises:
        ValueError: no network has that name, or the file of weights is not usable.
        OSError: the weights are not on this machine and can't be downloaded.
    """
    spec = catalogue.find_network(name)
    if pretrained and checkpoint:
        return Classifier(*checkpoints.load_checkpoint(spec, checkpoint), checkpoint)
    file = None
    if pretrained and not spec.code:
        spec = obtain(name, spec)
        file = spec.file
    advice = "Remove the file to download it again, or put the right one there."
    with weights.usable_file(file, advice):
        network = spec.build(file)
    model = Classifier(network, spec, file)
    if file and not model.digests[file.name].startswith(weights.digest_in_name(file)):
        logger.warning("%s: its SHA-256 does not begin with the digits in its name", file)
    return model


@torch.no_grad()
def predict_logits(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return a network's logits, N x classes, without a graph behind them."""
    return model(pixels)


def predicted_classes(logits: Tensor) -> Tensor:
    """Return the classes, N, of logits, N x classes; -1 where an image's are not all finite.

    Raising an error here would mean waiting for the GPU.
    """
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)
