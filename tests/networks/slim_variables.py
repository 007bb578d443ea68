"""Random variables as TF-Slim's checkpoints have them."""

import functools

import numpy as np
import torch

from suite.networks import slim

SCOPES = {
    "inception_v3": "InceptionV3/",
    "inception_v4": "InceptionV4/",
    "inception_resnet_v2": "InceptionResnetV2/",
}


variable_names = functools.cache(slim.variable_names)  # which builds a network


def empty_network(architecture):
    with torch.device("meta"):
        return slim.slim_network(architecture)


def variables_of(architecture):
    """Random variables as slim has them, with what training adds."""
    random = np.random.default_rng(0)
    state = empty_network(architecture).state_dict()
    variables = {"global_step": np.int64(7)}
    scope = SCOPES[architecture]
    for name, key in variable_names(architecture).items():
        shape = state[key].shape
        if name == "Logits/Conv2d_1c_1x1/weights":
            shape = (1, 1, shape[1], 1001)
        elif name.startswith("Logits/"):
            shape = (*shape[:0:-1], 1001)
        elif len(shape) == 4:
            shape = (shape[2], shape[3], shape[1], shape[0])
        variables[scope + name] = random.random(shape, dtype=np.float32)
    training = """
        AuxLogits/Conv2d_1b_1x1/weights Conv2d_1a_3x3/weights/RMSProp_1
        Conv2d_1a_3x3/weights/Momentum Conv2d_1a_3x3/BatchNorm/moving_mean/ExponentialMovingAverage
    """
    return variables | {scope + name: np.zeros(3, np.float32) for name in training.split()}


def well_scaled(name, values):
    """Keep a deep network's activations finite and dependent on its input."""
    if name.endswith("weights"):
        return (values - 0.5) * np.sqrt(24 / np.prod(values.shape[:-1]), dtype=np.float32)
    return values + 0.5 if name.endswith("variance") else values - values.mean()
