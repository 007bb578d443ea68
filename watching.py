"""One forward pass, watched: which values were computed from which, and how.

Needs torch and utils_sgm.py.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from utils_sgm import main_output

ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
CONCATENATIONS = {"cat", "concat", "concatenate"}
# What moves, repeats or drops values, or puts constants beside them, and changes none.
CUTS = ("__getitem__", "select", "narrow", "index_select", "gather")
PIECES = ("chunk", "split", "tensor_split", "unbind")
FILLS = ("__setitem__", "copy_", "pad", "stack")
REPEATS = ("expand", "expand_as", "repeat", "repeat_interleave", "tile", "unfold")
SHAPES = ("reshape", "reshape_as", "view", "view_as", "flatten", "unflatten", "squeeze", "ravel")
AXES = ("unsqueeze", "permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t")
PROPERTIES = ("__get__",)  # as x.T and x.mT
ORDERS = ("flip", "roll", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle")
COPIES = ("clone", "contiguous", "to", "type", "type_as", "float", "double", "half", "bfloat16")
MOVES = CONCATENATIONS.union(CUTS, PIECES, FILLS, REPEATS, SHAPES, AXES, PROPERTIES, ORDERS, COPIES)
POOLS = {
    f"{adaptive}{kind}_pool{n}d"
    for adaptive in ("", "adaptive_")
    for kind in ("avg", "max")
    for n in (1, 2, 3)
}


@dataclass(eq=False)
class Value:
    """A tensor that was computed from the network's input, at one moment of its life.

    Attributes:
        terms: of a sum; those of x + f(x) + g(x) are x, f(x) and g(x); else none.
        kept: which share of its parents' values an operation of MOVES kept, 0 for one of POOLS;
            None for an operation that computes.
        origins: the values of which such operations alone made this one, the nearest first, with
            the share of them that it still carries.
        users: how many values were computed from this one.
        returned_by: names of modules, and whether the module only handed the tensor on.
    """

    number: int
    parents: list["Value"]
    shape: torch.Size
    terms: list["Value"] = field(default_factory=list)
    kept: Fraction | None = None
    origins: dict["Value", Fraction] = field(init=False)
    users: int = 0
    returned_by: list[tuple[bool, str]] = field(default_factory=list)

    def __post_init__(self):
        lines = [{}]
        if self.kept is not None:
            lines = [{parent: 1} | parent.origins for parent in self.parents]
        common = [value for value in lines[0] if all(value in line for line in lines)]
        # The parts of a concatenation add up: chunks put together again are the whole.
        self.origins = {v: self.kept * sum(line[v] for line in lines) for v in common}

    def names(self) -> list[str]:
        """Return the modules that returned this value, those that computed it first."""
        return [name for _, name in sorted(self.returned_by, key=lambda call: call[0])]

    def descends_from(self, other: "Value") -> bool:
        seen, pending = set(), [self]
        while pending:
            for parent in pending.pop().parents:
                if parent is other:
                    return True
                if parent.number > other.number and parent not in seen:
                    seen.add(parent)
                    pending.append(parent)
        return False


def carried(skip: Value, branch: Value) -> tuple[Value, bool] | None:
    """Return what a skip connection carries past a branch, and whether all of its values.

    None if the branch was not computed from what the skip carries, or only moves it as well.
    """
    for origin, share in ({skip: 1} | skip.origins).items():
        if origin in branch.origins:  # as are those before it
            return None
        if branch.descends_from(origin):
            return origin, share >= 1
    return None


class Watch(TorchFunctionMode):
    """Sees each tensor operation and module call of a forward pass; leaves the network as it is.

    Attributes:
        pixels, output: the example, or a random image, 1 x C x H x W, and its logits.
        differentiable: whether gradients reach the image.
        noted: of each connection its kind, the module in whose forward it happens, the branch and
            the value that the skip connection carries past it. No branch if there is none, and no
            value either if there is no skip connection.
        additions: of each addition of two values, the module in whose forward it happens, and which
            of the two is the branch, 0 or 1; None if neither is.
        runs: of each call of a module its name and its input and output values.
        calls: how many times each module ran.
    """

    def __init__(
        self, model: nn.Module, input_size: tuple[int, int, int], example: Tensor | None = None
    ):
        super().__init__()
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            raise ValueError("a part of this network is scripted or traced, which takes no hooks")
        self.noted: list[tuple[str, str, Value | None, Value | None]] = []
        self.additions: list[tuple[str, int | None]] = []
        self.runs: list[tuple[str, list[Value], Value | None]] = []
        self._values: dict[int, tuple[Tensor, Value]] = {}  # the tensor is kept, so its id is too
        self._count = 0
        self._running: list[tuple[str, list[Value], bool]] = []  # and whether gradients are on
        pixels = torch.rand(1, *input_size, generator=torch.Generator().manual_seed(0))
        pixels = pixels if example is None else example.detach()
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
                output = model(image)
            logits = logits_of(output)
            if logits is None:
                kind = type(output).__name__
                raise ValueError(f"the network returns a {kind}, in which nothing is called logits")
            self.output, self.differentiable = logits.detach(), logits.requires_grad
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
        name = function.__name__
        if name == "mul" and any(isinstance(a, int | float) and a == 0 for a in args):
            return result.detach()  # x * 0 is a constant, and pads shortcuts in some networks
        changed = [t for t, version in before if version is not None and t._version != version]
        made = [t for t in _tensors(result) if all(t is not other for other in tensors)]
        terms = []
        if name in ADDITIONS and len(parents) == 2:
            terms = self._note_addition(parents)
        elif name in CONCATENATIONS:
            self._note_concatenation(parents)
        for tensor in [*changed, *made]:
            self._new_value(tensor, parents, terms=terms, kept=_kept(name, tensor, parents))
        return result

    def _new_value(self, tensor: Tensor, parents: list[Value], **how) -> None:
        if tensor.requires_grad:
            self._count += 1
            for parent in parents:
                parent.users += 1
            self._values[id(tensor)] = tensor, Value(self._count, parents, tensor.shape, **how)

    def _values_of(self, tensors: Iterable[Tensor]) -> list[Value]:
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

    def _note_addition(self, operands: list[Value]) -> list[Value]:
        """Note an addition, and return its terms."""
        place = self._running[-1][0]
        orders = operands, operands[::-1]
        ways = [(skip, branch, t) for skip, branch in orders for t in (skip, *skip.terms)]
        found = [(skip, branch, c) for skip, branch, t in ways if (c := carried(t, branch))]
        for skip, branch, (source, whole) in found:
            if whole:
                self._note("addition", branch, source)
                self.additions.append((place, operands.index(branch)))
                return [*(skip.terms or [skip]), branch]
        self._note("addition", None, found[0][2][0] if found else None)
        self.additions.append((place, None))
        return [term for operand in operands for term in operand.terms or [operand]]

    def _note_concatenation(self, operands: list[Value]) -> None:
        for branch in operands:
            found = [c for skip in operands if (c := carried(skip, branch))]
            source = next((source for source, whole in found if whole), None)
            if source:
                self._note("concatenation", branch, source)

    def _note(self, kind: str, branch: Value | None, source: Value | None) -> None:
        self.noted.append((kind, self._running[-1][0], branch, source))


def logits_of(output: object) -> Tensor | None:
    """Return the logits in a network's output, None if there are none.

    These are the output itself, the first of several, or what it calls `logits`.
    """
    while not isinstance(output, Tensor):
        if getattr(output, "logits", None) is not None:
            output = output.logits
        elif isinstance(output, Mapping) and "logits" in output:
            output = output["logits"]
        elif isinstance(output, tuple | list) and output:
            output = output[0]
        else:
            return None
    return output


def _kept(name: str, made: Tensor, parents: list[Value]) -> Fraction | None:
    if name in POOLS:
        return Fraction(0)
    given = sum(parent.shape.numel() for parent in parents)
    return min(Fraction(1), Fraction(made.numel(), max(given, 1))) if name in MOVES else None


def _tensors(nested: object) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict | tuple | list):
        for item in nested.values() if isinstance(nested, dict) else nested:
            yield from _tensors(item)
