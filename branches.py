"""The residual branches of any network, found by watching one forward pass. Needs torch only.

A residual addition is one of which one operand, the branch, was computed from the other one or from
a term of it: x + f(x), or x + f(x) + g(x). A dense connection is a concatenation of such a pair.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

Size = tuple[int, int, int]


@dataclass
class Connection:
    """An addition or concatenation that has an identity skip, or an addition that has none.

    Attributes:
        kind: "addition", "concatenation" or "hidden", for a module that runs without gradients.
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

    @property
    def reason(self) -> str:
        """Why a residual branch is left out, where `module` is None."""
        if self.kind == "hidden":
            return "gradients are off there (use_reentrant=False makes checkpointing visible)"
        return "no module returns the branch at each of its calls"


def trace_connections(model: nn.Module, input_size: Size = (3, 224, 224)) -> list[Connection]:
    """Return the residual branches, those left out too, and the additions without a skip.

    One forward pass of a random image is watched; the connections are in its order. An addition
    whose operands both pass through layers, as in a block that downsamples, has no skip connection.

    Args:
        model: any network on 1 x C x H x W inputs; its parameters and modes are left as they are.
        input_size: C, H and W.

    Raises:
        ValueError: no gradient goes through the network.
    """
    watch = Watch(model, input_size)
    if not watch.differentiable:
        raise ValueError("no gradient goes through this network: it turns them off (no_grad, ...)")
    connections = [
        Connection(kind, place, None, branch is not None or kind == "hidden", candidates)
        for kind, place, branch, skip in watch.noted
        for candidates in (_candidates(branch, skip) if branch else [[]])
    ]
    _assign_modules(connections, watch.calls)
    # One module may return several branches, or one that is both added and concatenated, as in DPN.
    first = {connection.module: connection for connection in reversed(connections)}
    return [c for c in connections if c.module is None or first[c.module] is c]


def _candidates(branch: "_Value", skip: "_Value") -> list[list[str]]:
    """Return the names of the modules at whose output a branch can be scaled, the best one first.

    There is a list of names for each term of a branch that is a sum and that no module returns.
    """
    names = branch.names()
    # Where no module returned the branch, as in `out * self.scale`, go back to what was scaled.
    while len(branch.parents) == 1 and branch.parents[0] is not skip:
        branch = branch.parents[0]
        if branch.users > 1 and not branch.descends_from(skip):
            break
        names += branch.names()
    if names or not branch.terms or any(p is skip or p.users > 1 for p in branch.parents):
        return [names]
    return [names for parent in branch.parents for names in _candidates(parent, skip)]


def _assign_modules(connections: list[Connection], calls: Counter) -> None:
    """Choose the module to hook for each connection, so that each branch is scaled exactly once."""
    for connection in connections:
        connection.module = next((n for n in connection.candidates if calls[n] == 1), None)
    for connection in connections:
        for name in connection.candidates if connection.module is None else ():
            shared = [c for c in connections if name in c.candidates]
            if len(shared) == calls[name] and all(c.module is None for c in shared):
                for each in shared:
                    each.module = name


@dataclass(eq=False)
class _Value:
    """A tensor that was computed from the network's input, at one moment of its life.

    Attributes:
        terms: of a sum; those of x + f(x) + g(x) are x, f(x) and g(x); else none.
        users: how many values were computed from this one.
        returned_by: names of modules, and whether the module only handed the tensor on.
    """

    number: int
    parents: list["_Value"]
    terms: list["_Value"]
    users: int = 0
    returned_by: list[tuple[bool, str]] = field(default_factory=list)

    def names(self) -> list[str]:
        """Return the modules that returned this value, those that computed it first."""
        return [name for _, name in sorted(self.returned_by, key=lambda call: call[0])]

    def descends_from(self, other: "_Value") -> bool:
        seen, pending = set(), [self]
        while pending:
            for parent in pending.pop().parents:
                if parent is other:
                    return True
                if parent.number > other.number and parent.number not in seen:
                    seen.add(parent.number)
                    pending.append(parent)
        return False


class Watch(TorchFunctionMode):
    """Sees each tensor operation and module call of a forward pass; leaves the network as it is.

    Attributes:
        pixels, output: a random image, 1 x C x H x W, and what the network makes of it.
        differentiable: whether gradients reach the image.
        noted: of each connection its kind, the module in whose forward it happens, the branch and
            the skip connection; None for both if there is none.
        runs: of each call of a module its name and its input and output values.
        calls: how many times each module ran.
    """

    ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")
    CONCATENATIONS = ("cat", "concat", "concatenate")

    def __init__(self, model: nn.Module, input_size: Size):
        super().__init__()
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            raise ValueError("a part of this network is scripted or traced, which takes no hooks")
        self.noted: list[tuple[str, str, _Value | None, _Value | None]] = []
        self.runs: list[tuple[str, list[_Value], _Value | None]] = []
        self._values: dict[int, tuple[Tensor, _Value]] = {}  # the tensor is kept, so its id is too
        self._count = 0
        self._running: list[tuple[str, list[_Value], bool]] = []  # and whether gradients are on
        pixels = torch.rand(1, *input_size, generator=torch.Generator().manual_seed(0))
        self.pixels = pixels.to(next(model.parameters(), pixels))
        training = [(module, module.training) for module in model.modules()]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        handles = [h for name, m in model.named_modules() for h in self._hooks(m, name)]
        try:
            model.eval().requires_grad_(False)  # what then requires a gradient stems from the input
            with torch.enable_grad(), self:
                # A leaf could not be changed in place.
                image = self.pixels.clone().requires_grad_().clone()
                self._new_value(image, [])
                output = main_output(model(image))
            self.output, self.differentiable = output.detach(), output.requires_grad
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in training:
                module.training = mode
            for parameter in trained:
                parameter.requires_grad_(True)
        self.calls = Counter(name for name, _, _ in self.runs)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        tensors = list(_tensors((args, kwargs)))
        for tensor in tensors:
            if tensor.grad_fn and id(tensor) not in self._values and self._running:
                self._new_value(tensor, self._running[-1][1])  # by what torch functions don't show
        parents = self._values_of(tensors)
        before = [(t, None if t.is_inference() else t._version) for t in tensors]
        result = function(*args, **(kwargs or {}))
        if not parents:
            return result
        changed = [t for t, version in before if version is not None and t._version != version]
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
            for parent in parents:
                parent.users += 1
            self._values[id(tensor)] = tensor, _Value(self._count, parents, list(terms))

    def _values_of(self, tensors: Iterable[Tensor]) -> list[_Value]:
        known = [self._values[id(tensor)] for tensor in tensors if id(tensor) in self._values]
        return list(dict.fromkeys(value for _, value in known))

    def _hooks(self, module: nn.Module, name: str) -> list[RemovableHandle]:
        def enter(module, args, kwargs):
            values, on = self._values_of(_tensors((args, kwargs))), torch.is_grad_enabled()
            if values and not on and (not self._running or self._running[-1][2]):
                self.noted.append(("hidden", name, None, None))
            self._running.append((name, values, on))

        def leave(module, args, output):
            _, inputs, _ = self._running.pop()
            output = main_output(output)
            if isinstance(output, Tensor) and inputs and id(output) not in self._values:
                self._new_value(output, inputs)
            value = next(iter(self._values_of([output])), None)
            if value:
                value.returned_by.append((value in inputs, name))
            self.runs.append((name, inputs, value))

        first = module.register_forward_pre_hook(enter, with_kwargs=True)
        return [first, module.register_forward_hook(leave)]

    def _note_addition(self, operands: list[_Value]) -> list[_Value]:
        """Note an addition, and return its terms."""
        for skip, branch in (operands, operands[::-1]):
            for term in [skip, *skip.terms]:
                if branch.descends_from(term):
                    self._note("addition", branch, term)
                    return [*(skip.terms or [skip]), branch]
        self._note("addition", None, None)
        return [term for operand in operands for term in operand.terms or [operand]]

    def _note_concatenation(self, operands: list[_Value]) -> None:
        for branch in operands:
            if skip := next((v for v in operands if branch.descends_from(v)), None):
                self._note("concatenation", branch, skip)

    def _note(self, kind: str, branch: _Value | None, skip: _Value | None) -> None:
        self.noted.append((kind, self._running[-1][0], branch, skip))


def main_output(output: object) -> object:
    """Return a module's output, or the first of several (an attention returns its weights too)."""
    return output[0] if isinstance(output, tuple | list) and output else output


def _tensors(nested: object) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict | tuple | list):
        for item in nested.values() if isinstance(nested, dict) else nested:
            yield from _tensors(item)
