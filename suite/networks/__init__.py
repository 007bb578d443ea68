"""A network by name, as one frozen module from [0, 1] RGB pixels to logits.

No images, no attacks. Begin with `load_model`, `predict` and `listing`.
"""

from suite.networks.catalogue import PAPER_TARGETS, listing
from suite.networks.models import Classifier, class_names, load_model, logits, predict
from suite.networks.own import input_size

__all__ = [
    "PAPER_TARGETS",
    "Classifier",
    "class_names",
    "input_size",
    "listing",
    "load_model",
    "logits",
    "predict",
]
