"""What goes in front of a network, or of several, as modules: DI, TI and ensembles."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from suite.networks.resizing import resized


class InputDiversity(nn.Module):
    """DI (Xie et al., CVPR 2019, section 3.3): with a probability, resize and pad the images.

    Each image by itself, and anew in each step: enlarged to a random size up to `resize` times its
    own, padded with zeros at a random place to the largest size, and brought back to its own size.

    Attributes:
        generators: of the images of the current batch, set before the attack on it.
    """

    def __init__(self, probability: float = 0.5, resize: float = 330 / 299):
        super().__init__()
        self.probability = probability
        self.resize = resize
        self.generators: Sequence[torch.Generator] = ()

    def forward(self, pixels: Tensor) -> Tensor:
        pairs = zip(pixels.split(1), self.generators, strict=True)
        return torch.cat([self._transformed(*pair) for pair in pairs])

    def _transformed(self, image: Tensor, generator: torch.Generator) -> Tensor:
        chance, scale, top, left = torch.rand(4, generator=generator).tolist()
        if chance >= self.probability:
            return image
        own = tuple(image.shape[-2:])
        largest = [round(length * self.resize) for length in own]
        size = tuple(round(length * (1 + scale * (self.resize - 1))) for length in own)
        y, x = (
            int(place * (most - length + 1))
            for place, most, length in zip((top, left), largest, size, strict=True)
        )
        image = resized(image, size)
        image = pad(image, (x, largest[1] - size[1] - x, y, largest[0] - size[0] - y))
        return resized(image, own, antialias=True)


class TranslationInvariance(nn.Module):
    """TI (Dong et al., CVPR 2019, section 3.2): convolve the gradient with a Gaussian kernel.

    The forward pass is the identity. In front of a network, what comes after it in the backward
    pass, as MI-FGSM's normalisation, sees the convolved gradient.

    Args:
        size: of the kernel, in pixels; odd.
        sigma: how many standard deviations the kernel reaches to each side.
    """

    def __init__(self, size: int = 15, sigma: float = 3):
        super().__init__()
        line = torch.exp(-(torch.linspace(-sigma, sigma, size) ** 2) / 2)
        kernel = torch.outer(line, line)
        self.register_buffer("kernel", (kernel / kernel.sum()).expand(3, 1, size, size).clone())

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.requires_grad:
            pixels = pixels.clone()
            pixels.register_hook(self.convolved)
        return pixels

    def convolved(self, gradient: Tensor) -> Tensor:
        """Return a gradient, N x 3 x H x W, convolved with the kernel."""
        return conv2d(gradient, self.kernel.to(gradient), padding="same", groups=3)


class LogitEnsemble(nn.Module):
    """The average of several networks' logits (Dong et al., CVPR 2018, section 3.3)."""

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, pixels: Tensor) -> Tensor:
        logits = [network(pixels) for network in self.networks]
        numbers = {each.shape[1] for each in logits}
        if len(numbers) > 1:
            raise ValueError(f"an ensemble of networks with {numbers} classes: they must agree")
        return torch.stack(logits).mean(0)


class GradientEnsemble(LogitEnsemble):
    """Several networks' logits, N x networks x classes, whose gradients count equally.

    The gradient that each network sends back to the pixels is divided by its L1 norm, per image,
    before they add up.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.stack([network(self._entrance(pixels)) for network in self.networks], 1)

    @staticmethod
    def _entrance(pixels: Tensor) -> Tensor:
        if pixels.requires_grad:
            pixels = pixels.clone()
            pixels.register_hook(_normalised)
        return pixels


def _normalised(gradient: Tensor) -> Tensor:
    norm = gradient.abs().sum((1, 2, 3), keepdim=True)
    return gradient / torch.where(norm > 0, norm, 1)
