"""Deterministic input transformations without a useful gradient: JPEG, bit depth, quantised DCT.

Their backward pass is the identity's, the straight-through gradient of BPDA (Athalye, Carlini and
Wagner, ICML 2018, section 4.1).
"""

import io
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from suite.images.pictures import to_float, to_pixels
from suite.running import devices


class InputDefence(nn.Module):
    """A transformation of pixels, N x 3 x H x W in [0, 1], with the gradient of the identity.

    Subclasses define `transform`, from pixels to pixels.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        constant = pixels.detach()
        return self.transform(constant) + (pixels - constant)  # adds 0, with a gradient of 1


class Jpeg(InputDefence):
    """JPEG compression by Pillow, on the CPU: pixels are rounded to 8 bits, encoded and decoded.

    The quality is from 1 to 100. Chroma is subsampled 4:2:0, the default of Pillow and libjpeg.
    """

    def __init__(self, quality: int):
        super().__init__()
        self.quality = quality

    def transform(self, pixels: Tensor) -> Tensor:
        levels = (pixels * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        with ThreadPoolExecutor() as pool:  # Pillow codes outside the interpreter's lock
            decoded = torch.stack(list(pool.map(self._coded, levels)))
        return to_float(devices.to_device(decoded, pixels.device)).to(pixels.dtype)

    def _coded(self, levels: np.ndarray) -> Tensor:
        stream = io.BytesIO()
        PIL.Image.fromarray(levels).save(stream, "JPEG", quality=self.quality)
        with PIL.Image.open(stream) as image:
            return to_pixels(image)


class BitDepth(InputDefence):
    """Colour bit depth reduction (Xu, Evans and Qi, NDSS 2018, section III.A).

    Rounds each channel to the nearest of 2 ** bits levels, with 1 to 8 bits, as in the authors'
    code (mzweilin/EvadeML-Zoo, commit 14daad0).
    """

    def __init__(self, bits: int):
        super().__init__()
        self.most = 2**bits - 1

    def transform(self, pixels: Tensor) -> Tensor:
        return (pixels * self.most).round() / self.most


class FeatureDistillation(InputDefence):
    """Feature distillation (Liu et al., CVPR 2019): quantised DCT coefficients of 8 x 8 blocks.

    As in the authors' code (zihaoliu123/Feature-Distillation-DNN-Oriented-JPEG-Compression-Against-
    Adversarial-Examples, commit cdcc78a): the levels 0 to 255 of each RGB channel are transformed
    without a shift; the step is 25 for the 4 x 4 lowest frequencies, else 30; the result is clipped
    and not rounded. That code takes multiples of 8 pixels only; here the last row and column are
    repeated up to the next multiple, and cropped again.
    """

    def __init__(self):
        super().__init__()
        n = torch.arange(8, dtype=torch.double)
        line = torch.cos(math.pi / 8 * (n + 0.5) * n[:, None]) / 2
        line[0] /= math.sqrt(2)
        steps = torch.full((8, 8), 30.0, dtype=torch.double)
        steps[:4, :4] = 25
        self.register_buffer("cosines", torch.kron(line, line))  # frequencies x pixels of a block
        self.register_buffer("steps", steps.flatten())

    def transform(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        levels = pad(pixels, (0, -width % 8, 0, -height % 8), mode="replicate").double() * 255
        blocks = levels.unflatten(2, (-1, 8)).unflatten(4, (-1, 8)).transpose(3, 4)
        # Coefficients of 8-bit images often lie exactly between two steps, where rounding errors,
        # which depend on the batch, would decide: 1e-6 rounds them up.
        coefficients = blocks.flatten(4) @ self.cosines.T
        coefficients.div_(self.steps).add_(1e-6).round_().mul_(self.steps)
        levels = (coefficients @ self.cosines).unflatten(4, (8, 8)).transpose(3, 4)
        levels = levels.flatten(4).flatten(2, 3)[:, :, :height, :width]
        return (levels / 255).clamp(0, 1).to(pixels.dtype)
