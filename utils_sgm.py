"""The Skip Gradient Method (SGM), as hooks on any torch.nn.Module. Needs torch and nothing else.

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
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

logger = logging.getLogger(__name__)

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")


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
        arch: name of the network; only the released hooks ("relu") depend on it.
        gamma: decay factor of the residual gradients, in (0, 1]; 1 registers nothing.
        hooks: "relu", the hooks as the authors released them, for torchvision's ResNets and
            DenseNets; "branch", the paper's formula, for any residual network; "auto", "relu" where
            the authors' hooks exist and "branch" elsewhere.
        input_size, branches: see `register_hook_for_branches`.

    Raises:
        ValueError: gamma out of range, no released hooks for `arch`, or no residual branch found.
    """
    hooks = choose_hooks(arch, hooks, branches)
    if hooks == "branch":
        return register_hook_for_branches(model, gamma, input_size, branches)
    register = register_hook_for_resnet if arch in RESNETS else register_hook_for_densenet
    return register(model, arch, gamma)


def choose_hooks(arch: str, hooks: str = "auto", branches: str | None = None) -> str:
    """Return "relu" or "branch", whichever `register_sgm` uses with these arguments.

    Raises:
        ValueError: the combination does not exist.
    """
    released = arch in RESNETS + DENSENETS
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
            handles.append(module.register_forward_hook(_on_backward(lambda grad: factor * grad)))
        if "layer" in parent:
            handles.append(module.register_forward_hook(_on_backward(_divide_by_std)))
    return _not_empty(handles, f"no ReLU of a torchvision ResNet in this {arch}")


def register_hook_for_densenet(model: nn.Module, arch: str, gamma: float) -> list[RemovableHandle]:
    """Register the authors' released hooks on a torchvision DenseNet; return their handles.

    The backward of each ReLU, but for those in transitions, is multiplied by gamma ** 0.5, since a
    dense layer has two of them.

    Args:
        arch: "densenet121", "densenet161", "densenet169" or "densenet201".
        gamma: decay factor, in (0, 1]; 1 registers nothing.
    """
    _check_gamma(gamma)
    if gamma == 1:
        return []
    factor = gamma**0.5
    handles = [
        module.register_forward_hook(_on_backward(lambda grad: factor * grad))
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
        names = [name for name, _ in model.named_modules() if re.fullmatch(branches, name)]
        nothing = f"no module has a name that matches {branches!r}: gamma would do nothing"
    hook = _scale_gradient(gamma)
    handles = [model.get_submodule(name).register_forward_hook(hook) for name in names]
    return _not_empty(handles, nothing)


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be above 0 and at most 1, not {gamma}")


def _not_empty(handles: list[RemovableHandle], message: str) -> list[RemovableHandle]:
    if not handles:
        raise ValueError(message)
    return handles


def _on_backward(function: Callable[[Tensor], Tensor]) -> Callable:
    """Return a forward hook that applies `function` to the gradient behind a module's last step.

    This is what torch's deprecated `register_backward_hook` did, which the released hooks use.
    """

    def forward_hook(module: nn.Module, args: tuple, output: Tensor) -> None:
        if output.grad_fn is not None:
            output.grad_fn.register_hook(
                lambda grads_in, grads_out: (function(grads_in[0]), *grads_in[1:])
            )

    return forward_hook


def _divide_by_std(grad: Tensor) -> Tensor:
    std = grad.std()
    return grad / torch.where(std > 0, std, 1)  # where every gradient is zero, 0 / 0 would be NaN


def _scale_gradient(gamma: float) -> Callable:
    """Return a forward hook that multiplies the gradient at a module's output by gamma.

    It hooks the tensor, because torch's full module hooks clash with the in-place ReLUs and
    additions of most residual networks.
    """

    def forward_hook(
        module: nn.Module, args: tuple, output: Tensor | tuple
    ) -> Tensor | tuple | None:
        tensor = _main_output(output)
        if not tensor.requires_grad:
            return output
        if tensor._is_view():  # a later addition in place would take the gradient past the hook
            tensor = tensor.clone()
        tensor.register_hook(lambda grad: gamma * grad)
        return tensor if isinstance(output, Tensor) else (tensor, *output[1:])

    return forward_hook


def _main_output(output: object) -> object:
    """Return a module's output, or the first of several (an attention returns its weights too)."""
    return output[0] if isinstance(output, tuple | list) and output else output


@dataclass
class Connection:
    """An addition or concatenation that has an identity skip, or an addition that has none.

    Attributes:
        kind: "addition" or "concatenation".
        place: name of the module in whose forward it happens; empty for the network itself.
        module: name of the module that returns the residual branch, the one to hook; None if there
            is no residual branch or if no module's every call returns one.
        residual: whether one operand was computed from another one, or a term of it.
    """

    kind: str
    place: str
    module: str | None = None
    residual: bool = True
    candidates: list[str] = field(default_factory=list, repr=False)


def residual_branches(
    model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)
) -> list[Connection]:
    """Return the residual branches of a network, in the order in which a forward pass runs them.

    One forward pass of a random image is watched. A branch is an operand of an addition, or of a
    concatenation, that was computed from another operand. A branch that can't be tied to one module
    is left out, and logged as a warning.

    Args:
        model: any network on 1 x C x H x W inputs; its parameters and modes are left as they are.
        input_size: C, H and W.
    """
    branches = []
    for connection in trace_connections(model, input_size):
        if connection.module:
            branches.append(connection)
        elif connection.residual:
            logger.warning(
                "left out: the %s in %r has a residual branch that no module returns at each of "
                "its calls; name modules by hand to scale it",
                connection.kind,
                connection.place,
            )
    return branches


def trace_connections(
    model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)
) -> list[Connection]:
    """Return `residual_branches`, those that no module returns, and additions without a skip."""
    parameters = list(model.parameters())
    pixels = torch.rand(1, *input_size, generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(parameters[0]) if parameters else pixels
    training = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    watch = _Watch(model)
    try:
        model.eval().requires_grad_(False)  # what then requires a gradient stems from the input
        with torch.enable_grad(), watch:
            model(watch.start(pixels))
    finally:
        watch.remove()
        for module, mode in training:
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)
    _assign_modules([c for c in watch.connections if c.residual], watch.calls)
    first = {
        c.module: c for c in reversed(watch.connections)
    }  # DPN adds and concatenates one branch
    return [c for c in watch.connections if c.module is None or first[c.module] is c]


def _assign_modules(connections: list[Connection], calls: Counter) -> None:
    """Choose the module to hook for each connection, so that each branch is scaled exactly once."""
    for connection in connections:
        once = (name for name in connection.candidates if calls[name] == 1)
        connection.module = next(once, None)
    for connection in connections:
        for name in connection.candidates if connection.module is None else ():
            shared = [c for c in connections if name in c.candidates]
            if len(shared) == calls[name] and all(c.module is None for c in shared):
                for c in shared:
                    c.module = name
                break


@dataclass(eq=False)
class _Value:
    """A tensor that was computed from the network's input, at one moment of its life."""

    number: int
    parents: list["_Value"]
    terms: list["_Value"]
    returned_by: list[tuple[bool, str]] = field(default_factory=list)

    def descends_from(self, other: "_Value") -> bool:
        seen, pending = set(), [self]
        while pending:
            value = pending.pop()
            for parent in value.parents:
                if parent is other:
                    return True
                # Values are numbered as they are made: an older one can't stem from `other`.
                if parent.number > other.number and parent.number not in seen:
                    seen.add(parent.number)
                    pending.append(parent)
        return False


class _Watch(TorchFunctionMode):
    """Sees each tensor operation and each module call of a forward pass, and notes connections."""

    ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")
    CONCATENATIONS = ("cat", "concat", "concatenate")

    def __init__(self, model: nn.Module):
        super().__init__()
        self.connections: list[Connection] = []
        self.calls = Counter()
        self._values: dict[int, tuple[Tensor, _Value]] = {}  # the tensor is kept, so its id is too
        self._count = 0
        self._running: list[tuple[str, list[_Value]]] = []
        self._handles = []
        for name, module in model.named_modules():
            enter, leave = self._module_hooks(name)
            self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(leave))

    def start(self, pixels: Tensor) -> Tensor:
        pixels = pixels.requires_grad_().clone()  # a leaf could not be changed in place
        self._new_value(pixels, [])
        return pixels

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = list(_tensors((args, kwargs)))
        parents = self._values_of(tensors)
        versions = [tensor._version for tensor in tensors]
        result = function(*args, **kwargs)
        if not parents:
            return result
        changed = [t for t, version in zip(tensors, versions, strict=True) if t._version != version]
        made = [t for t in _tensors(result) if all(t is not other for other in tensors)]
        terms = []
        if function.__name__ in self.ADDITIONS and len(parents) == 2:
            terms = self._note_addition(parents)
        elif function.__name__ in self.CONCATENATIONS:
            self._note_concatenation(parents)
        for tensor in [*changed, *made]:
            self._new_value(tensor, parents, terms)
        return result

    def _new_value(self, tensor: Tensor, parents: list[_Value], terms: list[_Value] = ()) -> None:
        if tensor.requires_grad:
            self._count += 1
            self._values[id(tensor)] = tensor, _Value(self._count, parents, list(terms))

    def _values_of(self, tensors: list[Tensor]) -> list[_Value]:
        values = (self._values.get(id(tensor), (None, None))[1] for tensor in tensors)
        return list(dict.fromkeys(value for value in values if value))

    def _module_hooks(self, name: str) -> tuple[Callable, Callable]:
        def enter(module, args, kwargs):
            self._running.append((name, self._values_of(_tensors((args, kwargs)))))

        def leave(module, args, output):
            _, inputs = self._running.pop()
            self.calls[name] += 1
            output = _main_output(output)
            if not isinstance(output, Tensor):
                return
            if (
                id(output) not in self._values and inputs
            ):  # computed where torch functions aren't seen
                self._new_value(output, inputs)
            for value in self._values_of([output]):
                value.returned_by.append((value in inputs, name))

        return enter, leave

    def _note_addition(self, operands: list[_Value]) -> list[_Value]:
        """Note an addition, and return its terms; those of x + f(x) + g(x) are x, f(x) and g(x)."""
        for skip, branch in (operands, operands[::-1]):
            for term in [skip, *skip.terms]:
                if branch.descends_from(term):
                    self._note("addition", branch, term)
                    return [*(skip.terms or [skip]), branch]
        self.connections.append(Connection("addition", self._place(), residual=False))
        return [term for operand in operands for term in operand.terms or [operand]]

    def _note_concatenation(self, operands: list[_Value]) -> None:
        for branch in operands:
            skip = next((value for value in operands if branch.descends_from(value)), None)
            if skip:
                self._note("concatenation", branch, skip)

    def _note(self, kind: str, branch: _Value, skip: _Value) -> None:
        candidates = [name for _, name in sorted(branch.returned_by, key=lambda call: call[0])]
        # Where no module returned the branch, as in `out * self.scale`, go back to what was scaled.
        while len(branch.parents) == 1 and branch.parents[0] is not skip:
            branch = branch.parents[0]
            candidates += [name for _, name in sorted(branch.returned_by, key=lambda call: call[0])]
        self.connections.append(Connection(kind, self._place(), candidates=candidates))

    def _place(self) -> str:
        return self._running[-1][0]


def _tensors(nested: object) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict):
        yield from _tensors(list(nested.values()))
    elif isinstance(nested, tuple | list):
        for item in nested:
            yield from _tensors(item)
