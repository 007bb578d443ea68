"""The residual branches of any network, found by watching one forward pass. Needs torch only.

A residual addition is an addition of which one operand was computed from the other one, or from a
term of it: x + f(x), or x + f(x) + g(x). A dense connection is a concatenation with such a pair.
The operand that was computed is the branch.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

logger = logging.getLogger(__name__)
Size = tuple[int, int, int]


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


def residual_branches(model: nn.Module, input_size: Size = (3, 224, 224)) -> list[Connection]:
    """Return the residual branches of a network, in the order in which a forward pass runs them.

    One forward pass of a random image is watched. A branch that no module returns at each of its
    calls is left out, and a warning is logged.

    Args:
        model: any network on 1 x C x H x W inputs; its parameters and modes are left as they are.
        input_size: C, H and W.
    """
    found = [c for c in trace_connections(model, input_size) if c.residual]
    left_out = [c.place or "the network itself" for c in found if c.module is None]
    if left_out:
        places = ", ".join(dict.fromkeys(left_out))
        logger.warning(
            f"left out {len(left_out)} of {len(found)} residual branches, because no module "
            f"returns them at each of its calls, in: {places}"
        )
    return [c for c in found if c.module]


def trace_connections(model: nn.Module, input_size: Size = (3, 224, 224)) -> list[Connection]:
    """Return the residual branches, those left out too, and the additions without a skip.

    An addition whose operands both pass through layers, as in a block that downsamples, has no
    skip connection. See `residual_branches`.
    """
    watch = Watch(model, input_size)
    connections = [
        Connection(kind, place, residual=branch is not None, candidates=candidates)
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
        number: values are numbered as they are made.
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
        noted: of each connection its kind, the module in whose forward it happens, the branch and
            the skip connection; None for both if there is none.
        runs: of each call of a module its name and its input and output values.
        calls: how many times each module ran.
    """

    ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")
    CONCATENATIONS = ("cat", "concat", "concatenate")

    def __init__(self, model: nn.Module, input_size: Size):
        super().__init__()
        self.noted: list[tuple[str, str, _Value | None, _Value | None]] = []
        self.runs: list[tuple[str, list[_Value], _Value | None]] = []
        self._values: dict[int, tuple[Tensor, _Value]] = {}  # the tensor is kept, so its id is too
        self._count = 0
        self._running: list[tuple[str, list[_Value]]] = []
        pixels = torch.rand(1, *input_size, generator=torch.Generator().manual_seed(0))
        self.pixels = pixels.to(next(model.parameters(), pixels))
        training = [module for module in model.modules() if module.training]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        handles = [h for name, m in model.named_modules() for h in self._hooks(m, name)]
        try:
            model.eval().requires_grad_(False)  # what then requires a gradient stems from the input
            with torch.enable_grad(), self:
                # A leaf could not be changed in place.
                image = self.pixels.clone().requires_grad_().clone()
                self._new_value(image, [])
                self.output = main_output(model(image)).detach()
        finally:
            for handle in handles:
                handle.remove()
            for module in training:
                module.training = True
            for parameter in trained:
                parameter.requires_grad_(True)
        self.calls = Counter(name for name, _, _ in self.runs)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        tensors = list(_tensors((args, kwargs)))
        parents = self._values_of(tensors)
        before = [(tensor, tensor._version) for tensor in tensors]
        result = function(*args, **(kwargs or {}))
        if not parents:
            return result
        changed = [tensor for tensor, version in before if tensor._version != version]
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
            self._running.append((name, self._values_of(_tensors((args, kwargs)))))

        def leave(module, args, output):
            _, inputs = self._running.pop()
            output = main_output(output)
            if isinstance(output, Tensor) and inputs and id(output) not in self._values:
                self._new_value(output, inputs)  # by what torch functions don't show
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
            skip = next((value for value in operands if branch.descends_from(value)), None)
            if skip:
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
