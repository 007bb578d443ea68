"""Folding the batch norms of a frozen network into its convolutions.

In evaluation mode a batch norm multiplies each channel by a number and adds another one. Where a
convolution's output goes to it and nowhere else, both numbers fit into the convolution's weights.
"""

import logging
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from suite.networks.acceleration import Frozen
from suite.running import devices
from suite.user_code.user_file import message_line
from watching import Watch, logits_of

logger = logging.getLogger(__name__)


class ChannelAffine(Frozen):
    """A batch norm in evaluation mode as one multiplication and addition.

    Unlike torch's batch norm it does not keep its input for the backward pass.

    Args:
        owns_gradient: whether the gradient at the output may be changed in place, since nothing
            else uses it.
    """

    def __init__(self, norm: nn.BatchNorm2d, owns_gradient: bool = False):
        super().__init__()
        self.owns_gradient = owns_gradient
        weight = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight.detach()
        bias = torch.zeros_like(weight) if norm.bias is None else norm.bias.detach()
        scale = weight * (norm.running_var + norm.eps).rsqrt()
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", (bias - norm.running_mean * scale)[:, None, None])
        # The mean and the variance of a batch norm that does nothing else.
        self.register_buffer("zeros", torch.zeros_like(scale), persistent=False)
        self.register_buffer("ones", torch.ones_like(scale), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return _Affine.apply(features, self)


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, affine: ChannelAffine) -> Tensor:
        ctx.affine = affine
        if features.dtype not in (torch.bfloat16, torch.float16):
            return torch.addcmul(affine.shift, features, affine.scale).to(features.dtype)
        # Under autocast: one pass, without a copy in float32 and without rounding the factors.
        scale, shift = affine.scale.flatten(), affine.shift.flatten()
        return batch_norm(features, affine.zeros, affine.ones, scale, shift, eps=0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        scale = ctx.affine.kept("scale", grad.dtype == torch.bfloat16).to(grad.dtype)
        return grad.mul_(scale) if ctx.affine.owns_gradient else grad * scale, None


@torch.no_grad()
def fold_batch_norms(network: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> int:
    """Fold batch norms into the convolutions before them; return the number of classes.

    Batch norms that follow no convolution become a multiplication and an addition. The logits stay
    equal up to rounding: a network is left as it was if they would not, or if its forward pass
    can't be watched. Modules keep their names, so that hooks find their places.

    Args:
        network: frozen, in evaluation mode; changed in place.
        input_size: C, H and W of an input.
    """
    drawn = torch.get_rng_state()
    try:
        watch = Watch(network, input_size)
    except Exception as error:  # the network may work where it can't be watched
        if devices.out_of_memory(error):
            raise
        reason = message_line(error)
        logger.info("%s: batch norms are not folded (%s)", type(network).__name__, reason)
        pixels = torch.zeros(1, *input_size)
        pixels = pixels.to(next(network.parameters(), pixels))
        return logits_of(network(pixels)).flatten(1).shape[1]
    # Without hooks, which can change a module's weights or its output.
    plain = {
        name: module
        for name, module in network.named_modules()
        if not module._forward_pre_hooks and not module._forward_hooks
    }
    convolutions = {
        output: name
        for name, _, output in watch.runs
        if type(plain.get(name)) is nn.Conv2d and watch.calls[name] == 1
    }
    # A ReLU's backward pass makes a new tensor.
    into_relu = {
        inputs[0]
        for name, inputs, _ in watch.runs
        if isinstance(plain.get(name), nn.ReLU) and inputs and inputs[0].users == 1
    }
    folded = {}
    for name, inputs, output in watch.runs:
        norm = plain.get(name)
        if not isinstance(norm, nn.BatchNorm2d) or norm.training or norm.running_mean is None:
            continue
        if watch.calls[name] > 1 or not inputs:
            continue
        before = convolutions.get(inputs[0]) if inputs[0].users == 1 else None
        if before:
            folded[before] = fuse_conv_bn_eval(plain[before], norm)
        affine = nn.Identity() if before else ChannelAffine(norm, output in into_relu)
        # timm's batch norms have their activation inside.
        inside = dict(norm.named_children())
        folded[name] = nn.Sequential(OrderedDict(affine=affine, **inside)) if inside else affine
    for name, module in folded.items():
        network.set_submodule(name, module)
    if folded and watch.output.isfinite().all() and not _is_equal(network, watch, drawn):
        for name in folded:
            network.set_submodule(name, plain[name])
        logger.warning("%s: its batch norms can't be folded, it stays slow", type(network).__name__)
    return watch.output.flatten(1).shape[1]


def _is_equal(network: nn.Module, watch: Watch, drawn: Tensor) -> bool:
    torch.set_rng_state(drawn)  # a user's network may draw
    try:
        output = logits_of(network(watch.pixels))
    except (AttributeError, RuntimeError, TypeError):  # it may look into its batch norms
        return False
    return (output - watch.output).abs().max() <= 1e-3 * watch.output.abs().max()
