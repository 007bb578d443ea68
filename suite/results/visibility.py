"""How visible perturbations are, by L2, PSNR, SSIM and LPIPS."""

import logging
import math
import statistics

import torch
from torch import Tensor, nn

from suite.images.pictures import to_float
from suite.networks import libraries, weights

logger = logging.getLogger(__name__)

TITLES = {
    "l2": "L2",
    "linf": "L-infinity (1/255)",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
}
BACKBONE = "alexnet@IMAGENET1K_V1"


class Visibility:
    """Measures how far adversarial images are from the natural ones.

    Called with both as uint8, N x 3 x H x W, on any device, it returns for each image: `l2`, the
    norm of the perturbation of pixels in [0, 1]; `psnr` in dB, infinite for equal images; `ssim`
    (Wang et al., IEEE TIP 2004: Gaussian window of sigma 1.5), 1 for equal images; and `lpips`
    (Zhang et al., CVPR 2018, on AlexNet) if AlexNet's weights are on this machine. The last three
    are torchmetrics'.

    Raises:
        ValueError: the file of AlexNet's weights is not usable.
    """

    def __init__(self):
        self._lpips: nn.Module | None = None
        file = libraries.torchvision_network(BACKBONE).file
        if not file.is_file():
            logger.info("no LPIPS: the weights of torchvision/%s are not here (%s)", BACKBONE, file)
            return

        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        with weights.usable_file(file):
            self._lpips = LearnedPerceptualImagePatchSimilarity(
                "alex", reduction="none", normalize=True
            )

    @torch.no_grad()
    def __call__(self, adversarial: Tensor, natural: Tensor) -> list[dict[str, float]]:
        from torchmetrics.functional import image as metrics

        ours, theirs = to_float(adversarial), to_float(natural)
        each = {"data_range": 1.0, "reduction": "none"}
        measured = {
            "l2": (ours - theirs).flatten(1).norm(dim=1),
            "psnr": metrics.peak_signal_noise_ratio(ours, theirs, dim=(1, 2, 3), **each),
            "ssim": metrics.structural_similarity_index_measure(ours, theirs, **each),
        }
        if self._lpips:
            measured["lpips"] = self._lpips.to(ours.device)(ours, theirs)
        # For a single image, torchmetrics returns a scalar.
        columns = [values.reshape(-1).tolist() for values in measured.values()]
        return [dict(zip(measured, row, strict=True)) for row in zip(*columns, strict=True)]


def mean_visibility(changes: dict[str, dict[str, float]]) -> dict[str, float | None]:
    """Return the means of a folder's measures over its images; of PSNR over those that changed."""
    rows, means = list(changes.values()), {}
    for what in (each for each in TITLES if each in rows[0]):
        finite = [row[what] for row in rows if math.isfinite(row[what])]
        means[what] = statistics.fmean(finite) if finite else None
    return means
