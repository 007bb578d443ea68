"""Published gammas by source network, for `--gamma auto`.

All follow this suite's convention: gamma scales the gradient at each residual branch's output.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import utils_sgm
from suite.defences import defence_names

logger = logging.getLogger(__name__)


class PublishedGamma(NamedTuple):
    """A gamma for attacks of several steps, one for a single step if known, and its source."""

    several: float
    one: float | None
    where: str


UNKNOWN = 0.5
# What separates the architecture from its weights in the names of each library and protocol.
END = {"torchvision": "@", "timm": ".", "tpami": ".", "ta-bench": "."}
PAPER = "Wu et al., ICLR 2020"
# https://github.com/qizhangli/TA-Bench, configs/sgm.py at 3b9c59b.
TA_BENCH = "TA-Bench, NeurIPS 2023"
# https://github.com/mo666666/SGM, README.md at 0130125, utils_sgm.py at babfde6.
TPAMI = "Wang et al., TPAMI 2026"
# Theirs is 0.6 for a block, the square root of which scales each of its two modules.
BLOCK = f"{TPAMI}: 0.6 for the two modules of a block"
# By the networks' names in pretrainedmodels, torchvision and timm.
PUBLISHED = {
    name: PublishedGamma(several, one, where)
    for names, several, one, where in (
        (utils_sgm.RESNETS, 0.2, 0.5, PAPER),
        (utils_sgm.DENSENETS, 0.5, 0.7, PAPER),
        (("vit_base_patch16_224", "vit_b_16"), 0.775, None, f"{BLOCK}; {TA_BENCH} has 0.4"),
        (("mixer_b16_224",), 0.775, None, f"{BLOCK}; {TA_BENCH} has 0.6"),
        (("inceptionv3", "inception_v3"), 0.6, None, f"{TPAMI}, for --branches 'Mixed.*\\.bn'"),
        (("convnext_base", "deit3_base_patch16_224"), 0.2, None, TA_BENCH),
        (("beit_base_patch16_224",), 0.4, None, TA_BENCH),
        (("tf_efficientnetv2_m", "efficientnet_v2_m"), 0.1, None, TA_BENCH),
        (("swin_base_patch4_window7_224", "swin_b"), 0.4, None, TA_BENCH),
    )
    for name in names
}


def published_gamma(arch: str, num_steps: int) -> tuple[float, str]:
    """Return the gamma that is published for a source, or 0.5, and where it was published.

    Args:
        arch: a name of `load_defended`, with or without the name of its weights.
        num_steps: of the attack; a single step has a gamma of its own.
    """
    name = defence_names.undefended_name(arch)
    library, _, rest = name.rpartition("/")
    if library in END:
        name = rest.partition(END[library])[0]
    found = PUBLISHED.get(name)
    gamma = found and (found.one if num_steps == 1 else found.several)
    if gamma is None:
        return UNKNOWN, "nothing is published"
    return gamma, found.where


def chosen_gammas(
    given: Sequence[float | str], archs: Sequence[str], num_steps: int
) -> tuple[list[float], list[str]]:
    """Return each source's gamma, and where each was published; nothing if all were given.

    Args:
        given: numbers or "auto", one for all sources or one for each.
    """
    gammas, origins = [], []
    for arch, gamma in zip(archs, given * (len(archs) // len(given)), strict=True):
        origin = "given"
        if gamma == "auto":
            gamma, origin = published_gamma(arch, num_steps)
            steps = "one step" if num_steps == 1 else "several steps"
            logger.info("%s: --gamma auto is %g for %s (%s)", arch, gamma, steps, origin)
        gammas.append(gamma)
        origins.append(origin)
    return gammas, origins if "auto" in given else []
