"""LPIPS, a perceptual distance between images that a network's features give."""

import logging

from torch import nn

from suite.networks import libraries, weights

logger = logging.getLogger(__name__)

BACKBONE = "alexnet@IMAGENET1K_V1"


def lpips() -> nn.Module | None:
    """Return LPIPS (Zhang et al., CVPR 2018) on AlexNet, or None where its weights are not here.

    Takes two batches in [0, 1], N x 3 x H x W, and returns N distances.

    Raises:
        ValueError: the file of weights is not usable.
    """
    file = libraries.torchvision_network(BACKBONE).file
    if not file.is_file():
        logger.info("no LPIPS: the weights of torchvision/%s are not here (%s)", BACKBONE, file)
        return None

    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    with weights.usable(file):
        return LearnedPerceptualImagePatchSimilarity("alex", reduction="none", normalize=True)
