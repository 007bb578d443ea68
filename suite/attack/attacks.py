"""PGD, MI-FGSM and FGSM out of advertorch, and what an attack draws for each image."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from suite.attack.losses import SummedLoss


def _import_advertorch():
    # advertorch 0.2.3, the last release, imports a helper of a module that torch 1.9 removed it
    # from. `torch.autograd.gradcheck` as an attribute is the function, hence sys.modules.
    module = sys.modules["torch.autograd.gradcheck"]
    if not hasattr(module, "zero_gradients"):
        module.zero_gradients = _zero_gradients
    from advertorch import attacks

    return attacks


def _zero_gradients(tensor: Tensor) -> None:
    if tensor.grad is not None:
        tensor.grad.detach_().zero_()


advertorch = _import_advertorch()


def make_attack(
    model: nn.Module,
    epsilon: float,
    step_size: float,
    num_steps: int,
    momentum: float = 0,
    targeted: bool = False,
    loss: SummedLoss | None = None,
) -> "advertorch.Attack":
    """Return an L-infinity attack for `perturb`.

    Momentum 0 gives PGD (Madry et al., ICLR 2018, section 2.1), of which one step of size epsilon
    is FGSM (Goodfellow et al., ICLR 2015); above 0 MI-FGSM (Dong et al., CVPR 2018, algorithm 1).

    Args:
        model: N x 3 x H x W pixels in [0, 1] to N x classes logits, or to N x networks x classes.
        epsilon: largest perturbation of a pixel, in 1/255.
        step_size: of each step, in 1/255.
        num_steps: number of steps.
        momentum: decay factor of MI-FGSM.
        targeted: whether to approach the labels instead of leaving them.
        loss: a `losses.SummedLoss`, of cross-entropy if None; or what else has its `begin` and
            `first`, and takes what `model` returns and the labels.
    """
    arguments = {
        "loss_fn": SummedLoss() if loss is None else loss,
        # Twice epsilon, which is out of the way: `perturb` bounds each pixel by itself.
        "eps": 2 * epsilon / 255,
        "eps_iter": step_size / 255,
        "nb_iter": num_steps,
        "targeted": targeted,
    }
    if momentum:
        return advertorch.MomentumIterativeAttack(model, decay_factor=momentum, **arguments)
    return advertorch.LinfPGDAttack(model, rand_init=False, **arguments)


def perturb(
    attack: "advertorch.Attack",
    natural: Tensor,
    labels: Tensor,
    epsilon: float,
    start: Tensor | None = None,
) -> Tensor:
    """Return adversarial pixels, float in [0, 1], within epsilon / 255 of the natural ones.

    `attack.loss_fn.first` then has the logits at the start, N x classes.

    Args:
        attack: of `make_attack`.
        natural: float in [0, 1], N x 3 x H x W; unchanged.
        labels: N class indices; the target classes if the attack is targeted; where -1, the class
            that the network predicts at the start.
        epsilon: largest perturbation, in 1/255.
        start: where the attack starts, as from `random_start`; at the natural pixels if None.
    """
    attack.clip_min = (natural - epsilon / 255).clamp(min=0)
    attack.clip_max = (natural + epsilon / 255).clamp(max=1)
    attack.loss_fn.begin()
    start = natural if start is None else start
    return attack.perturb(start.contiguous(), labels)  # whose gradients advertorch flattens


def random_start(natural: Tensor, epsilon: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Return pixels drawn uniformly from the ball around the natural ones, clipped to [0, 1]."""
    shape = natural.shape[1:]
    with ThreadPoolExecutor() as pool:  # each image's numbers come from a generator of its own
        uniform = torch.stack(list(pool.map(lambda g: torch.rand(shape, generator=g), generators)))
    return (natural + (2 * uniform.to(natural) - 1) * epsilon / 255).clamp(0, 1)


def random_targets(
    labels: Sequence[int], generators: Sequence[torch.Generator], classes: int = 1000
) -> list[int]:
    """Return for each image a class drawn uniformly from those that are not its label."""
    draws = [torch.randint(1, classes, (), generator=generator).item() for generator in generators]
    return [(label + draw) % classes for label, draw in zip(labels, draws, strict=True)]
