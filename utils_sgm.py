"""The Skip Gradient Method (SGM), as hooks on any torch.nn.Module.

Needs torch. The hooks that the authors released ("relu") need nothing else; the paper's formula for
any residual network ("branch") needs branches.py and watching.py beside this file.

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

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.hooks import RemovableHandle

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
DENSENETS = ("densenet121", "densenet169", "densenet201")


def register_sgm(
    model: nn.Module,
    arch: str = "",
    gamma: float = 0.5,
    hooks: str = "auto",
    input_size: tuple[int, int, int] = (3, 224, 224),
    branches: str | None = None,
    example: Tensor | None = None,
) -> list[RemovableHandle]:
    """Register SGM on `model` and return the handles that take it off again.

    Args:
        arch: name of the network, as in `resnet50` or `torchvision/resnet50@IMAGENET1K_V2`; only
            the released hooks ("relu") need it. A network of your own needs none.
        gamma: decay factor of the residual gradients, in (0, 1]; 1 registers nothing. With
            `branches` also 0, where the skip connections alone carry the gradient.
        hooks: "relu", the hooks as the authors released them, for torchvision's ResNets and
            DenseNets; "branch", the paper's formula, for any residual network; "auto", "relu" where
            the authors' hooks exist and "branch" elsewhere.
        input_size, branches, example: see `register_hook_for_branches`.

    Raises:
        ValueError: gamma out of range, no released hooks for `arch`, no residual branch found, or
            a part of `model` is compiled.
    """
    if gamma < 1 and any(hasattr(module, "_orig_mod") for module in model.modules()):
        raise ValueError(
            "torch.compile gave modules other names: register SGM on the network itself "
            "(model._orig_mod), which the compiled one follows, and compile parts by .compile()"
        )
    hooks = choose_hooks(arch, hooks, branches)
    if hooks == "branch":
        return register_hook_for_branches(model, gamma, input_size, branches, example)
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
    scale = _on_backward(partial(Tensor.mul_, other=_constant(factor)))
    divide = _on_backward(_divide_by_std)
    handles = []
    for name, module in model.named_modules():
        parent = name.rpartition(".")[0].rpartition(".")[2]
        if "relu" in name and "0.relu" not in name:
            handles.append(_register(module, scale))
        if "layer" in parent:
            handles.append(_register(module, divide))
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
    scale = _on_backward(partial(Tensor.mul_, other=_constant(gamma**0.5)))
    relus = [m for n, m in model.named_modules() if "relu" in n and "transition" not in n]
    handles = [_register(relu, scale) for relu in relus]
    return _not_empty(handles, f"no ReLU of a torchvision DenseNet in this {arch}")


def register_hook_for_branches(
    model: nn.Module,
    gamma: float,
    input_size: tuple[int, int, int] = (3, 224, 224),
    branches: str | None = None,
    example: Tensor | None = None,
) -> list[RemovableHandle]:
    """Multiply by gamma the gradient at the output of each residual branch; return the handles.

    This is the paper's formula, exact for any residual network.

    Args:
        gamma: decay factor, in (0, 1], or 0 with `branches`; 1 registers nothing.
        input_size: channels, height and width of an input, for the forward pass that finds the
            branches.
        branches: regular expression; the modules whose whole names match it are hooked instead of
            those that the forward pass finds.
        example: a batch of inputs for that pass, instead of a random one of `input_size`.

    Raises:
        ValueError: gamma out of range, the forward pass fails, or there is no branch, so that gamma
            would do nothing.
    """
    from branches import matching_modules, residual_branches

    _check_gamma(gamma, branches)
    if gamma == 1:
        return []
    if branches is None:
        names = [branch.module for branch in residual_branches(model, input_size, example)]
        nothing = "no residual branch in this network: gamma would do nothing"
    else:
        names = matching_modules(model, branches)
        nothing = f"no module has a name that matches {branches!r}: gamma would do nothing"
    hook = _scale_gradient(gamma)
    handles = [_register(model.get_submodule(name), hook) for name in names]
    return _not_empty(handles, nothing)


def _torchvision_name(arch: str) -> str:
    """Strip `torchvision/` and the version of the weights: both leave the modules' names alone."""
    return arch.removeprefix("torchvision/").partition("@")[0]


def _check_gamma(gamma: float, branches: str | None = None) -> None:
    if not 0 <= gamma <= 1 or (gamma == 0 and branches is None):
        named = ", or 0 where a part of the branches is named"
        raise ValueError(f"gamma must be above 0 and at most 1{named}, not {gamma}")


def _not_empty(handles: list[RemovableHandle], message: str) -> list[RemovableHandle]:
    if not handles:
        raise ValueError(message)
    return handles


def _register(module: nn.Module, hook: Callable) -> RemovableHandle:
    """Register a forward hook whose coming and going compiled code notices."""
    import torch._dynamo  # takes a second or two, unless torchvision did it
    from torch._dynamo.utils import counters

    release = tuple(map(int, torch.__version__.split(".")[:2]))
    if counters["frames"] and release < (2, 12):
        raise ValueError(
            f"torch {torch.__version__} may crash where hooks come or go in code that it compiled: "
            "register SGM before compiled code runs, or take torch 2.12 or newer"
        )
    if getattr(torch._dynamo.config, "skip_nnmodule_hook_guards", False):
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        torch.compiler.reset()  # what was compiled before would not notice
    return module.register_forward_hook(hook)


class _OnBackward(torch.autograd.Function):
    """Applies a function to the gradient at a tensor, where a hook on the tensor would not run."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return tensor.clone()

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.function = inputs[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.function(grad.clone()), None


def _constant(factor: float) -> Tensor:
    """Return a factor as a tensor: torch.compile makes a variable of a float that has changed."""
    return torch.tensor(factor, dtype=torch.double)  # 0-dimensional, so that dtypes stay


def _no_hooks_run(tensor: Tensor) -> bool:
    """Say whether torch.func, forward mode, compiled or traced code differentiates a tensor."""
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return True
    return torch.jit.is_tracing() or forward_ad.unpack_dual(tensor).tangent is not None


def _on_backward(function: Callable[[Tensor], Tensor]) -> Callable:
    """Return a forward hook that applies `function` to the gradient behind a module's ReLU.

    This is what torch's deprecated `register_backward_hook` did, which the released hooks use. A
    ReLU's backward makes a new tensor: `function` may change it in place.
    """

    def forward_hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        if _no_hooks_run(output) or (output.grad_fn and output.grad_fn.name() != "ReluBackward0"):
            return _OnBackward.apply(output, function)
        if output.grad_fn:
            output.grad_fn.register_hook(lambda grads, _: (function(grads[0]), *grads[1:]))
        return output

    return forward_hook


def _divide_by_std(grad: Tensor) -> Tensor:
    std = grad.std()
    divide = grad.div if torch.is_grad_enabled() else grad.div_  # create_graph keeps the gradient
    return divide(torch.where(std > 0, std, 1))  # of zeros only, 0 / 0 would be NaN


def _scale_gradient(gamma: float) -> Callable:
    """Return a forward hook that multiplies the gradient at a module's output by gamma.

    It hooks the tensor: torch's full module hooks clash with ReLUs and additions in place.
    """
    from watching import main_output

    factor = _constant(gamma)

    def forward_hook(module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple:
        tensor = main_output(output)
        if _no_hooks_run(tensor):
            tensor = _OnBackward.apply(tensor, lambda grad: grad * factor)
        elif tensor.requires_grad:
            if tensor._is_view():  # a later addition in place would take the gradient past the hook
                tensor = tensor.clone()
            tensor.register_hook(lambda grad: gamma * grad)
        return tensor if isinstance(output, Tensor) else (tensor, *output[1:])

    return forward_hook
