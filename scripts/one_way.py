"""Networks whose gradient takes one way at their last residual additions; for figure1.py."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from suite.user_code.input_sizes import input_size
from watching import ADDITIONS, Watch


class OneWay(nn.Module):
    """A network whose gradient takes one way at its last junctions; its logits are unchanged.

    A junction is a residual addition z + f(z) whose skip connection carries every value of z.
    "skip" makes the gradient that of z + f(z).detach(), "residual" that of z.detach() + f(z).

    Args:
        network: from pixels in [0, 1], N x 3 x H x W, to logits; frozen, in evaluation mode.
        ways: one for each of the last junctions, in the order of a forward pass: "skip", "residual"
            or "both".

    Attributes:
        places: the modules in whose forward these junctions are.

    Raises:
        ValueError: the network has fewer junctions. Dense connections are not counted, because they
            concatenate.
    """

    def __init__(self, network: nn.Module, ways: Sequence[str]):
        super().__init__()
        self.network = network
        self.training = network.training
        additions = Watch(network, input_size(network)).additions
        junctions = [number for number, (_, branch) in enumerate(additions) if branch is not None]
        if len(junctions) < len(ways):
            raise ValueError(
                f"the network has {len(junctions)} residual additions with an identity skip, and "
                f"{len(ways)} are needed (dense connections do not count: they concatenate)"
            )
        last = junctions[len(junctions) - len(ways) :]
        self.places = [additions[number][0] for number in last]
        self._additions = len(additions)
        self._detached = {}
        for number, way in zip(last, ways, strict=True):
            branch = additions[number][1]
            if way != "both":
                self._detached[number] = branch if way == "skip" else 1 - branch

    def forward(self, pixels: Tensor) -> Tensor:
        with _Detaching(self._detached) as additions:
            logits = self.network(pixels)
        if logits.requires_grad and additions.count != self._additions:
            raise ValueError(
                f"the network makes {additions.count} additions in one pass and {self._additions} "
                "in another, so that its last ones can't be identified"
            )
        return logits


class _Detaching(TorchFunctionMode):
    """Detaches an operand of some additions, which are counted as `Watch` does.

    Args:
        detached: the operand, 0 or 1, by the number of its addition.
    """

    def __init__(self, detached: dict[int, int]):
        super().__init__()
        self.count = 0
        self._detached = detached

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.__name__ in ADDITIONS:
            given = [*args, *kwargs.values()]
            operands = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
            if len(operands) == 2 and operands[0] is not operands[1]:
                if self.count in self._detached:
                    loose = operands[self._detached[self.count]]
                    in_place = function.__name__ in ("add_", "__iadd__") and loose is args[0]
                    cut = _without_gradient(loose, in_place)
                    args = [cut if x is loose else x for x in args]
                    kwargs = {key: cut if x is loose else x for key, x in kwargs.items()}
                self.count += 1
        return function(*args, **kwargs)


def _without_gradient(tensor: Tensor, in_place: bool) -> Tensor:
    """Return a tensor without its gradient; itself if the addition changes it in place."""
    if in_place and not tensor._is_view():  # a view can't be detached in place
        return tensor.detach_()
    return tensor.detach()
