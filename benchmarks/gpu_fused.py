"""Ways that might be faster on a GPU, and that the suite does not take: see gpu.py."""

from collections.abc import Callable

import torch
from gpu_fast import alternated, seconds_of
from gpu_shared import GPU, choose_device, head, load, make_attack, row
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torchvision.models.resnet import Bottleneck

from suite.networks.acceleration import Frozen
from suite.networks.classifier import Classifier

TRIES = "cudnn.benchmark"


def ways(args) -> None:
    """Attack steps with SGM as they are, and in ways that may save memory traffic.

    "Fused" is a ResNet-50, -101 or -152 whose biases, ReLUs and additions are in cuDNN's
    convolutions; "compiled" is torch.compile of the network. The first step of each, with what it
    compiles or tries out, has its own column.
    """
    head("network", "precision", "way", "first step, s", "ms/step", "times as fast")
    for arch in args.archs:
        for precision in args.precisions:
            works = {name: _work(args, arch, precision, name) for name in WAYS}
            works = {name: work for name, work in works.items() if work}
            first = [seconds_of(work) for work in works.values()]
            times = alternated(list(works.values()), args.rounds)
            for name, begin, seconds in zip(works, first, times, strict=True):
                cells = f"{begin:.1f}", f"{1000 * seconds:.1f}", f"{times[0] / seconds:.2f}"
                row(arch, precision, name, *cells)


def _compiled(model: Classifier) -> None:
    model.network.compile()


def _in_default_layout(model: Classifier) -> None:
    model.to(memory_format=torch.contiguous_format)


def _compiled_in_default_layout(model: Classifier) -> None:
    _in_default_layout(model)
    _compiled(model)


def fuse(model: nn.Module) -> bool:
    """Give a network's bottleneck blocks, with folded batch norms, the class below."""
    blocks = [module for module in model.modules() if type(module) is Bottleneck]
    for block in blocks:
        block.__class__ = FusedBottleneck
    return bool(blocks)


# Each changes a network, and returns False where it does not apply.
WAYS: dict[str, Callable[[Classifier], bool | None]] = {
    "as it is": lambda model: None,
    TRIES: lambda model: None,
    "fused": fuse,
    "compiled": _compiled,
    "default layout": _in_default_layout,
    "default layout, compiled": _compiled_in_default_layout,
}


def _work(args, arch: str, precision: str, name: str) -> Callable[[], object] | None:
    device = choose_device(precision)
    model = load(args, arch).accelerate(precision).to(device)
    attack = make_attack(model, arch, steps=1)
    if WAYS[name](model) is False:
        return None
    torch.manual_seed(0)
    pixels = torch.rand(args.batch_sizes[0], 3, 224, 224).to(device)
    labels = torch.arange(len(pixels)).to(device)

    def work() -> Tensor:
        torch.backends.cudnn.benchmark = name == TRIES
        return attack.perturb(pixels, labels)

    return work


class FusedBottleneck(Bottleneck):
    """A bottleneck block with hooks on its first two batch norms, as the authors' are.

    What is folded does nothing. Behind a ReLU a hook multiplies the same gradient as before it.
    """

    def forward(self, features: Tensor) -> Tensor:
        skip = features if self.downsample is None else self.downsample(features)
        branch = self.bn1(_Fused.apply(features, self.conv1, None))
        branch = self.bn2(_Fused.apply(branch, self.conv2, None))
        return _Fused.apply(branch, self.conv3, skip)


class _Fused(torch.autograd.Function):
    """A convolution with its bias, an addition and a ReLU, whose weights get no gradient."""

    @staticmethod
    def forward(ctx, features: Tensor, conv: nn.Conv2d, skip: Tensor | None) -> Tensor:
        geometry = conv.stride, conv.padding, conv.dilation
        kept = conv.weights(features) if isinstance(conv, Frozen) else (conv.weight, conv.bias)
        weight, bias = (each.to(features.dtype) for each in kept)
        if not GPU:
            sums = conv2d(features, weight, bias, *geometry, conv.groups)
            output = torch.relu(sums if skip is None else sums + skip)
        elif skip is None:
            output = torch.cudnn_convolution_relu(features, weight, bias, *geometry, conv.groups)
        else:
            options = weight, skip, 1, bias, *geometry, conv.groups
            output = torch.cudnn_convolution_add_relu(features, *options)
        ctx.conv, ctx.adds = conv, skip is not None
        ctx.save_for_backward(features, output, weight)
        return output

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, Tensor | None]:
        features, output, weight = ctx.saved_tensors
        conv = ctx.conv
        grad = torch.ops.aten.threshold_backward(grad, output, 0)
        geometry = conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups
        (to_features, _, _) = torch.ops.aten.convolution_backward(
            grad, features, weight, None, *geometry, [True, False, False]
        )
        return to_features, None, grad if ctx.adds else None
