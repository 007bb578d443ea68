"""Defences in front of a network: modules from [0, 1] RGB pixels to pixels of the same size.

No attacks, no folders. Names are read by `suite.running.defended`. Begin with `load`.
"""

from suite.defences.defended import Defended, draw_from, load, undefended
from suite.defences.inputs import BitDepth, FeatureDistillation, Jpeg
from suite.defences.purifier import Purifier, load_purifier
from suite.defences.randomised import RandomPadding, Smoothing

__all__ = [
    "BitDepth",
    "Defended",
    "FeatureDistillation",
    "Jpeg",
    "Purifier",
    "RandomPadding",
    "Smoothing",
    "draw_from",
    "load",
    "load_purifier",
    "undefended",
]
