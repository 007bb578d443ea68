"""The attacks: advertorch's classes, on a network that takes pixels in [0, 1]."""

import sys

import torch
from torch import nn


def _import_advertorch():
    # advertorch 0.2.3, the last release, imports a helper of a module that torch 1.9 removed it
    # from. `torch.autograd.gradcheck` as an attribute is the function, hence sys.modules.
    module = sys.modules["torch.autograd.gradcheck"]
    if not hasattr(module, "zero_gradients"):
        module.zero_gradients = _zero_gradients
    from advertorch import attacks

    return attacks


def _zero_gradients(tensor: torch.Tensor) -> None:
    if tensor.grad is not None:
        tensor.grad.detach_().zero_()


advertorch = _import_advertorch()


def make_attack(
    model: nn.Module,
    epsilon: float,
    step_size: float,
    num_steps: int,
    momentum: float = 0,
) -> "advertorch.Attack":
    """Return an untargeted L-infinity attack; `attack.perturb(pixels, labels)` runs it.

    Momentum 0 gives PGD without a random start (Madry et al., ICLR 2018, section 2.1), above 0
    MI-FGSM (Dong et al., CVPR 2018, algorithm 1). The loss is the cross-entropy summed over the
    batch, so that an image's gradient does not depend on the batch.

    Args:
        model: N x 3 x H x W pixels in [0, 1] to N x classes logits.
        epsilon: largest perturbation of a pixel, in 1/255.
        step_size: of each step, in 1/255.
        num_steps: number of steps.
        momentum: decay factor of MI-FGSM.
    """
    arguments = {
        "loss_fn": nn.CrossEntropyLoss(reduction="sum"),
        "eps": epsilon / 255,
        "eps_iter": step_size / 255,
        "nb_iter": num_steps,
    }
    if momentum:
        return advertorch.MomentumIterativeAttack(model, decay_factor=momentum, **arguments)
    return advertorch.LinfPGDAttack(model, rand_init=False, **arguments)
