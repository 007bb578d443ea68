"""The residual branches of any network, found by watching one forward pass.

Needs torch and, beside it, watching.py.

A residual addition is one of which one operand, the branch, was computed from the other one or from
a term of it: x + f(x), or x + f(x) + g(x); or from what the other one moves, all of its values:
pad(x) + f(x). One that drops or pools values, pad(x[:, :, ::2, ::2]) + f(x), is no skip
connection: gamma would take away the only gradient of what it drops. A dense connection is a
concatenation of such a pair.
"""

import logging
import re
from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor, nn

from watching import Value, Watch

logger = logging.getLogger(__name__)


@dataclass
class Connection:
    """An addition or concatenation that has a residual branch, or an addition that has none.

    Attributes:
        kind: "addition", "concatenation" or "hidden", for a module that runs without gradients.
        place: name of the module in whose forward it happens; empty for the network itself.
        module: name of the module that returns the residual branch, the one to hook; None if there
            is no residual branch or if no module's every call returns one.
        residual: whether one operand was computed from what another one carries on as a whole,
        in_part: or only from what another one carries on in part, dropping or pooling values.
    """

    kind: str
    place: str
    module: str | None = None
    residual: bool = True
    in_part: bool = False
    candidates: list[str] = field(default_factory=list, repr=False)

    @property
    def reason(self) -> str:
        """Why there is nothing to hook, where `module` is None."""
        if self.kind == "hidden":
            return "gradients are off there (use_reentrant=False makes checkpointing visible)"
        if self.residual:
            return "no module returns the branch at each of its calls"
        return "its skip connection drops or pools values" if self.in_part else "no skip connection"


def residual_branches(
    model: nn.Module,
    input_size: tuple[int, int, int] = (3, 224, 224),
    example: Tensor | None = None,
) -> list[Connection]:
    """Return the residual branches that can be hooked, in the order in which a pass runs them.

    A warning is logged of those that can't be; for the arguments see `trace_connections`.
    """
    found = [c for c in trace_connections(model, input_size, example) if c.residual]
    left_out = [c for c in found if c.module is None]
    for why in dict.fromkeys(connection.reason for connection in left_out):
        places = [c.place or "the network itself" for c in left_out if c.reason == why]
        logger.warning(
            f"left out {len(places)} of {len(found)} residual branches, because {why}, in: "
            f"{', '.join(dict.fromkeys(places))}"
        )
    return [c for c in found if c.module]


def matching_modules(model: nn.Module, pattern: str) -> list[str]:
    """Return the names of the modules whose whole names match a regular expression."""
    try:
        return [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error


def trace_connections(
    model: nn.Module,
    input_size: tuple[int, int, int] = (3, 224, 224),
    example: Tensor | None = None,
) -> list[Connection]:
    """Return the residual branches, those left out too, and the additions without one.

    One forward pass of a random image is watched; the connections are in its order. An addition
    whose operands both pass through layers, as where a block downsamples by a convolution, has no
    skip connection.

    Args:
        model: any network; its parameters and modes are left as they are.
        input_size: C, H and W of the images that it takes.
        example: a batch to pass instead, of whatever shape it takes.

    Raises:
        ValueError: the pass fails, or no gradient goes through the network.
    """
    try:
        watch = Watch(model, input_size, example)
    except (RuntimeError, TypeError, IndexError, AssertionError) as error:
        shape = "x".join(map(str, (1, *input_size) if example is None else example.shape))
        raise ValueError(
            f"a forward pass of a {shape} batch fails ({' '.join(str(error).split())}): pass the "
            "input_size that the network takes, or a batch as its example"
        ) from error
    if not watch.differentiable:
        raise ValueError("no gradient goes through this network: it turns them off (no_grad, ...)")
    connections = [
        Connection(
            kind, place, None, bool(branch) or kind == "hidden", bool(source and not branch), names
        )
        for kind, place, branch, source in watch.noted
        for names in (_candidates(branch, source) if branch else [[]])
    ]
    _assign_modules(connections, watch.calls)
    # One module may return several branches, or one that is both added and concatenated, as in DPN.
    first = {connection.module: connection for connection in reversed(connections)}
    return [c for c in connections if c.module is None or first[c.module] is c]


def _candidates(branch: Value, source: Value) -> list[list[str]]:
    """Return the names of the modules at whose output a branch can be scaled, the best one first.

    There is a list of names for each term of a branch that is a sum and that no module returns. The
    source is the value that the skip connection carries past the branch.
    """
    names = branch.names()
    # Where no module returned the branch, as in `out * self.scale`, go back to what was scaled.
    while len(branch.parents) == 1 and branch.parents[0] is not source:
        branch = branch.parents[0]
        if branch.users > 1 and not branch.descends_from(source):
            break
        names += branch.names()
    if names or not branch.terms or any(p is source or p.users > 1 for p in branch.parents):
        return [names]
    return [names for parent in branch.parents for names in _candidates(parent, source)]


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
