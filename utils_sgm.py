"""The Skip Gradient Method (SGM), as hooks on any torch.nn.Module.

Needs torch and, beside it, branches.py and watching.py.

Wu, Wang, Xia, Bailey and Ma, "Skip Connections Matter: On the Transferability of Adversarial
Examples Generated with ResNets", ICLR 2020, https://arxiv.org/abs/2002.05990.

For a residual network z[i+1] = z[i] + f_i(z[i]), SGM multiplies by gamma, in the backward pass
only, the gradient that passes through each residual module f_i (section 3 of the paper):

    dloss/dz[0] = dloss/dz[L] * product over i of (gamma * df_i/dz[i] + 1)

    handles = register_sgm(model, "resnet50", gamma=0.2)
    ...                       # any gradient-based attack on `model`
    for handle in handles:
        handle.remove()
"""

import logging
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from branches import Connection, trace_connections
from watching import main_output

logger = logging.getLogger(__name__)

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
DENSENETS = ("densenet121", "densenet169", "densenet201")


def register_sgm(
    model: nn.Module,
    arch: str,
    gamma: float,
    hooks: str = "auto",
    input_size: tuple[int, int, int] = (3, 224, 224),
    branches: str | None = None,
) -> list[RemovableHandle]:
    """Register SGM on `model` and return the handles that take it off again.

    Args:
        arch: name of the network, as in `resnet50` or `torchvision/resnet50@IMAGENET1K_V2`; only
            the released hooks ("relu") depend on it.
        gamma: decay factor of the residual gradients, in (0, 1]; 1 registers nothing.
        hooks: "relu", the hooks as the authors released them, for torchvision's ResNets and
            DenseNets; "branch", the paper's formula, for any residual network; "auto", "relu" where
            the authors' hooks exist and "branch" elsewhere.
        input_size, branches: see `register_hook_for_branches`.

    Raises:
        ValueError: gamma out of range, no released hooks for `arch`, no residual branch found, or
            `model` is compiled.
    """
    if gamma < 1 and hasattr(model, "_orig_mod"):
        raise ValueError(
            "a compiled network does not run hooks that come later: register SGM on the network "
            "itself (model._orig_mod), and attack that"
        )
    hooks = choose_hooks(arch, hooks, branches)
    if hooks == "branch":
        return register_hook_for_branches(model, gamma, input_size, branches)
    arch = _torchvision_name(arch)
    register = register_hook_for_resnet if arch in RESNETS else register_hook_for_densenet
    return register(model, arch, gamma)


def choose_hooks(arch: str, hooks: str = "auto", branches: str | None = None) -> str:
    """Return "relu" or "branch", whichever `register_sgm` uses with these arguments.

    Raises:
        ValueError: the combination does not exist.
    """
    released = _torchvision_name(arch) in RESNETS + DENSENETS
    if hooks == "relu" and not released:
        known = ", ".join(RESNETS + DENSENETS)
        raise ValueError(f'there are no released hooks for {arch}, only for {known}; use "branch"')
    if hooks == "relu" and branches:
        raise ValueError('modules named by hand go with "branch" hooks, not with "relu"')
    if hooks not in ("auto", "relu", "branch"):
        raise ValueError(f'hooks must be "auto", "relu" or "branch", not {hooks!r}')
    return "relu" if hooks != "branch" and released and not branches else "branch"


def register_hook_for_resnet(model: nn.Module, arch: str, gamma: float) -> list[RemovableHandle]:
    """Register the authors' released hooks on a torchvision ResNet; return their handles.

    The backward of each ReLU is multiplied by gamma, or by its square root in the networks whose
    residual modules have two inner ReLUs. Then each block's gradient is divided by its standard
    deviation over the batch, so that it does not underflow at small gamma. The released code picks
    ReLUs by name, and this is the same choice: it leaves out layer1.0, layer2.0, ..., but also
    layer3.10, layer3.20 and layer3.30.

    Args:
        arch: "resnet18", "resnet34", "resnet50", "resnet101" or "resnet152".
        gamma: decay factor, in (0, 1]; 1 registers nothing.
    """
    _check_gamma(gamma)
    if gamma == 1:
        return []
    factor = gamma if arch in ("resnet18", "resnet34") else gamma**0.5
    handles = []
    for name, module in model.named_modules():
        parent = name.rpartition(".")[0].rpartition(".")[2]
        if "relu" in name and "0.relu" not in name:
            handles.append(
                module.register_forward_hook(_on_backward(lambda grad: grad.mul_(factor)))
            )
        if "layer" in parent:
            handles.append(module.register_forward_hook(_on_backward(_divide_by_std)))
    return _not_empty(handles, f"no ReLU of a torchvision ResNet in this {arch}")


def register_hook_for_densenet(model: nn.Module, arch: str, gamma: float) -> list[RemovableHandle]:
    """Register the authors' released hooks on a torchvision DenseNet; return their handles.

    The backward of each ReLU, but for those in transitions, is multiplied by gamma ** 0.5, since a
    dense layer has two of them.

    Args:
        arch: "densenet121", "densenet169" or "densenet201".
        gamma: decay factor, in (0, 1]; 1 registers nothing.
    """
    _check_gamma(gamma)
    if gamma == 1:
        return []
    factor = gamma**0.5
    handles = [
        module.register_forward_hook(_on_backward(lambda grad: grad.mul_(factor)))
        for name, module in model.named_modules()
        if "relu" in name and "transition" not in name
    ]
    return _not_empty(handles, f"no ReLU of a torchvision DenseNet in this {arch}")


def register_hook_for_branches(
    model: nn.Module,
    gamma: float,
    input_size: tuple[int, int, int] = (3, 224, 224),
    branches: str | None = None,
) -> list[RemovableHandle]:
    """Multiply by gamma the gradient at the output of each residual branch; return the handles.

    This is the paper's formula, exact for any residual network.

    Args:
        gamma: decay factor, in (0, 1]; 1 registers nothing.
        input_size: channels, height and width of an input, for the forward pass that finds the
            branches.
        branches: regular expression; the modules whose whole names match it are hooked instead of
            those that the forward pass finds.

    Raises:
        ValueError: gamma out of range, or there is no branch, so that gamma would do nothing.
    """
    _check_gamma(gamma)
    if gamma == 1:
        return []
    if branches is None:
        names = [branch.module for branch in residual_branches(model, input_size)]
        nothing = "no residual branch in this network: gamma would do nothing"
    else:
        names = [name for name, _ in model.named_modules() if _matches(branches, name)]
        nothing = f"no module has a name that matches {branches!r}: gamma would do nothing"
    hook = _scale_gradient(gamma)
    handles = [model.get_submodule(name).register_forward_hook(hook) for name in names]
    return _not_empty(handles, nothing)


def residual_branches(
    model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)
) -> list[Connection]:
    """Return the residual branches that can be hooked, in the order in which a pass runs them.

    A warning is logged of those that can't be; for the arguments see `branches.trace_connections`.
    """
    found = [c for c in trace_connections(model, input_size) if c.residual]
    left_out = [c for c in found if c.module is None]
    for why in dict.fromkeys(connection.reason for connection in left_out):
        places = [c.place or "the network itself" for c in left_out if c.reason == why]
        logger.warning(
            f"left out {len(places)} of {len(found)} residual branches, because {why}, in: "
            f"{', '.join(dict.fromkeys(places))}"
        )
    return [c for c in found if c.module]


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error


def _torchvision_name(arch: str) -> str:
    """Strip `torchvision/` and the version of the weights: both leave the modules' names alone."""
    return arch.removeprefix("torchvision/").partition("@")[0]


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be above 0 and at most 1, not {gamma}")


def _not_empty(handles: list[RemovableHandle], message: str) -> list[RemovableHandle]:
    if not handles:
        raise ValueError(message)
    return handles


def _on_backward(function: Callable[[Tensor], Tensor]) -> Callable:
    """Return a forward hook that applies `function` to the gradient behind a module's last step.

    This is what torch's deprecated `register_backward_hook` did, which the released hooks use. The
    last step is a ReLU, whose backward makes a new tensor: `function` may change it in place.
    """

    def forward_hook(module: nn.Module, args: tuple, output: Tensor) -> None:
        if output.grad_fn is not None:
            output.grad_fn.register_hook(
                lambda grads_in, grads_out: (function(grads_in[0]), *grads_in[1:])
            )

    return forward_hook


def _divide_by_std(grad: Tensor) -> Tensor:
    std = grad.std()
    return grad.div_(
        torch.where(std > 0, std, 1)
    )  # where every gradient is zero, 0 / 0 would be NaN


def _scale_gradient(gamma: float) -> Callable:
    """Return a forward hook that multiplies the gradient at a module's output by gamma.

    It hooks the tensor, because torch's full module hooks clash with the in-place ReLUs and
    additions of most residual networks.
    """

    def forward_hook(
        module: nn.Module, args: tuple, output: Tensor | tuple
    ) -> Tensor | tuple | None:
        tensor = main_output(output)
        if not tensor.requires_grad:
            return output
        if tensor._is_view():  # a later addition in place would take the gradient past the hook
            tensor = tensor.clone()
        tensor.register_hook(lambda grad: gamma * grad)
        return tensor if isinstance(output, Tensor) else (tensor, *output[1:])

    return forward_hook
