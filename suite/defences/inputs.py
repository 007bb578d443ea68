"""Defences that change the pixels, without random numbers and without a gradient of their own.

Forward they are what they are, backward the identity: the straight-through gradient of BPDA
(Athalye, Carlini and Wagner, ICML 2018, section 4.1).
"""

import io
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pixels: Tensor, defence: "InputDefence") -> Tensor:
        return defence.changed(pixels)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class InputDefence(nn.Module):
    """A function of the pixels, N x 3 x H x W in [0, 1], whose gradient is taken as the identity's.

    What inherits from it says in `changed` what it does.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        return _StraightThrough.apply(pixels, self)

    def changed(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError


class Jpeg(InputDefence):
    """JPEG at a quality, by Pillow: pixels are rounded to 8 bits, encoded and decoded again.

    Chroma is halved in both directions (4:2:0), as Pillow and libjpeg do by default. Images are
    coded one by one, on the CPU.

    Args:
        quality: from 1 to 100.
    """

    def __init__(self, quality: int = 75):
        super().__init__()
        self.quality = quality

    def changed(self, pixels: Tensor) -> Tensor:
        levels = (pixels * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        with ThreadPoolExecutor() as pool:  # Pillow codes without Python's lock
            decoded = np.stack(list(pool.map(self._coded, levels)))
        return (
            torch.from_numpy(decoded).to(pixels.device).permute(0, 3, 1, 2).to(pixels.dtype) / 255
        )

    def _coded(self, levels: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        PIL.Image.fromarray(levels).save(stream, "JPEG", quality=self.quality)
        with PIL.Image.open(stream) as image:
            return np.asarray(image)


class BitDepth(InputDefence):
    """Fewer bits a channel (Xu, Evans and Qi, NDSS 2018, section III.A): 2 ** bits levels of it.

    The nearest level, as in the authors' mzweilin/EvadeML-Zoo, commit 14daad0.

    Args:
        bits: from 1 to 8.
    """

    def __init__(self, bits: int = 3):
        super().__init__()
        self.most = 2**bits - 1

    def changed(self, pixels: Tensor) -> Tensor:
        return (pixels * self.most).round() / self.most


class FeatureDistillation(InputDefence):
    """Feature distillation (Liu et al., CVPR 2019): quantised DCT coefficients of 8 x 8 blocks.

    As in the authors' code (zihaoliu123/Feature-Distillation-DNN-Oriented-JPEG-Compression-Against-
    Adversarial-Examples, commit cdcc78a): levels of 0 to 255 of each RGB channel by itself, not
    shifted; step 25 for the 4 x 4 lowest frequencies, else 30; clipped at the end, not rounded.
    That code takes multiples of 8 pixels only; here the last row and column are repeated up to the
    next one, and cut off again.
    """

    def __init__(self):
        super().__init__()
        k, n = torch.arange(8.0, dtype=torch.double)[:, None], torch.arange(8, dtype=torch.double)
        line = torch.cos(math.pi / 8 * (n + 0.5) * k) / 2
        line[0] /= math.sqrt(2)
        steps = torch.full((8, 8), 30.0, dtype=torch.double)
        steps[:4, :4] = 25
        self.register_buffer("cosines", torch.kron(line, line))  # of a block's 64 pixels
        self.register_buffer("steps", steps.flatten())

    def changed(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        whole = pad(pixels, (0, -width % 8, 0, -height % 8), mode="replicate").double() * 255
        blocks = whole.unflatten(2, (-1, 8)).unflatten(4, (-1, 8)).transpose(3, 4)
        # A coefficient that is a sum of whole levels often lies in the middle between two steps,
        # where rounding errors, which depend on the batch, would decide: that goes up.
        coefficients = blocks.flatten(4) @ self.cosines.T
        coefficients.div_(self.steps).add_(1e-6).round_().mul_(self.steps)
        levels = (coefficients @ self.cosines).unflatten(4, (8, 8)).transpose(3, 4)
        levels = levels.flatten(4).flatten(2, 3)[:, :, :height, :width]
        return (levels / 255).clamp(0, 1).to(pixels.dtype)
