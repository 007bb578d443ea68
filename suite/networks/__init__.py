"""A network by name, as one frozen module from [0, 1] RGB pixels to logits.

No images, no attacks. Begin with `load_model`, `predict` and `listing`.
"""

from suite.networks.catalogue import identity, listing
from suite.networks.checkpoints import read_state_dict
from suite.networks.fetching import fetch, supply
from suite.networks.models import (
    Classifier,
    classes_of,
    depends_on_batch,
    load_model,
    logits,
    predict,
)
from suite.networks.perceptual import lpips
from suite.networks.protocols import PROTOCOLS, SOURCES, TARGETS, expanded
from suite.networks.resizing import resized
from suite.networks.sizes import input_size
from suite.networks.weights import folder as weights_folder
from suite.networks.weights import sha256

__all__ = [
    "PROTOCOLS",
    "SOURCES",
    "TARGETS",
    "Classifier",
    "classes_of",
    "depends_on_batch",
    "identity",
    "expanded",
    "fetch",
    "input_size",
    "listing",
    "load_model",
    "logits",
    "lpips",
    "predict",
    "read_state_dict",
    "resized",
    "sha256",
    "supply",
    "weights_folder",
]
