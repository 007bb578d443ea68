"""advertorch's base class of attacks, made importable beside a current torch."""

import sys

from torch import Tensor


def _zero_gradients(tensor: Tensor) -> None:
    if tensor.grad is not None:
        tensor.grad.detach_().zero_()


# advertorch 0.2.3, the last release, imports this helper from a module that torch 1.9 removed it
# from. As an attribute of torch.autograd, gradcheck is a function; hence sys.modules.
if not hasattr(sys.modules["torch.autograd.gradcheck"], "zero_gradients"):
    sys.modules["torch.autograd.gradcheck"].zero_gradients = _zero_gradients

from advertorch.attacks.base import Attack as AdvertorchAttack  # noqa: E402

__all__ = ["AdvertorchAttack"]
