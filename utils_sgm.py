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

    The released code multiplies the backward of each ReLU by gamma, or by its square root in the
    networks whose residual modules have two inner ReLUs. Here the backward of a module's first
    inner ReLU is multiplied by gamma, at the batch norm before it: that is one product instead of
    several. What the released code does to the gradient as a whole is left out, since it changes
    neither its sign nor its direction: the factor of the ReLU after the addition, and the division
    by the standard deviation, against the underflow to which this factor leads.

    The released code picks ReLUs by name, and this is the same choice: it leaves out layer1.0,
    layer2.0, ..., but also layer3.10, layer3.20 and layer3.30.

    Args:
        arch: "resnet18", "resnet34", "resnet50", "resnet101" or "resnet152".
        gamma: decay factor, in (0, 1]; 1 registers nothing.
    """
    _check_gamma(gamma)
    norms = [name for name, _ in model.named_modules() if "layer" in name and name.endswith("bn1")]
    names = [name for name in norms if "0.relu" not in name.replace("bn1", "relu")]
    return _scale_gradients(model, names, gamma, f"no ReLU of a torchvision ResNet in this {arch}")


def register_hook_for_densenet(model: nn.Module, arch: str, gamma: float) -> list[RemovableHandle]:
    """Register the authors' released hooks on a torchvision DenseNet; return their handles.

    The released code multiplies the backward of each ReLU, but for those in transitions, by
    gamma ** 0.5, since a dense layer has two of them. Here the gradient at the layer's output is
    multiplied by gamma, which is the same but for rounding. It is a slice of the gradient of a
    concatenation there, which is copied in any case, and has the fewest channels.

    Args:
        arch: "densenet121", "densenet169" or "densenet201".
        gamma: decay factor, in (0, 1]; 1 registers nothing.
    """
    _check_gamma(gamma)
    layers = [name for name, _ in model.named_modules() if "denselayer" in name]
    names = [name for name in layers if name.endswith("conv2")]
    nothing = f"no ReLU of a torchvision DenseNet in this {arch}"
    return _scale_gradients(model, names, gamma, nothing)


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
    try:
        from branches import matching_modules, residual_branches
    except ModuleNotFoundError as error:
        missing = f'there is no {error.name}: "branch" hooks need branches.py and watching.py'
        raise ModuleNotFoundError(missing) from error

    _check_gamma(gamma, branches)
    if gamma == 1:
        return []
    if branches is None:
        names = [branch.module for branch in residual_branches(model, input_size, example)]
        nothing = "no residual branch in this network: gamma would do nothing"
    else:
        names = matching_modules(model, branches)
        nothing = f"no module has a name that matches {branches!r}: gamma would do nothing"
    return _scale_gradients(model, names, gamma, nothing)


def _torchvision_name(arch: str) -> str:
    """Strip `torchvision/` and the version of the weights: both leave the modules' names alone."""
    return arch.removeprefix("torchvision/").partition("@")[0]


def main_output(output: object) -> object:
    """Return a module's output, or the first of several (an attention returns its weights too)."""
    # A tuple of types: older compilers of torch don't understand a union in compiled code.
    return output[0] if isinstance(output, (tuple, list)) and output else output  # noqa: UP038


def _check_gamma(gamma: float, branches: str | None = None) -> None:
    if not 0 <= gamma <= 1 or (gamma == 0 and branches is None):
        named = ", or 0 where a part of the branches is named"
        raise ValueError(f"gamma must be above 0 and at most 1{named}, not {gamma}")


def _scale_gradients(
    model: nn.Module, names: list[str], gamma: float, nothing: str
) -> list[RemovableHandle]:
    """Multiply by gamma the gradient at the output of each module that is named.

    Raises:
        ValueError: none is, with `nothing` for its message.
    """
    if gamma == 1:
        return []
    if not names:
        raise ValueError(nothing)
    return [_register(model.get_submodule(name), _scale_gradient(gamma)) for name in names]


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


class _Scaled(torch.autograd.Function):
    """Multiplies the gradient at a tensor, where a hook on the tensor would not run."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, factor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def _no_hooks_run(tensor: Tensor) -> bool:
    """Say whether torch.func, forward mode, compiled or traced code differentiates a tensor."""
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return True
    return torch.jit.is_tracing() or forward_ad.unpack_dual(tensor).tangent is not None


def _scale_gradient(gamma: float) -> Callable:
    """Return a forward hook that multiplies the gradient at a module's output by gamma.

    It hooks the tensor: torch's full module hooks clash with ReLUs and additions in place.
    """
    # A tensor, since torch.compile makes a variable of a float that has changed; of no dimensions,
    # so that dtypes stay.
    factor = torch.tensor(gamma, dtype=torch.double)

    def forward_hook(module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple:
        tensor = main_output(output)
        if _no_hooks_run(tensor):
            tensor = _Scaled.apply(tensor, factor)
        elif tensor.requires_grad:
            if tensor._is_view():  # a later addition in place would take the gradient past the hook
                tensor = tensor.clone()
            tensor.register_hook(lambda grad: gamma * grad)
        return tensor if isinstance(output, Tensor) else (tensor, *output[1:])

    return forward_hook
