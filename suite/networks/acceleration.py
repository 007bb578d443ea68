"""Faster layers and dense blocks of frozen networks, equal up to rounding."""

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    conv2d,
    conv_transpose2d,
    linear,
    pad,
    pixel_shuffle,
    pixel_unshuffle,
)
from torchvision.models import densenet


class Frozen(nn.Module):
    """A layer that can keep its weights in bfloat16 beside those in float32.

    Autocast casts a frozen weight in each pass: it keeps casts only of weights that require
    gradients.
    """

    def lower(self) -> None:
        for name in ("weight", "bias", "unshuffled", "scale"):
            tensor = getattr(self, name, None)
            if tensor is not None and tensor.dtype == torch.float32:  # autocast casts no others
                lowered = tensor.detach().bfloat16()
                self.register_buffer(f"{name}_bfloat16", lowered, persistent=False)

    def kept(self, name: str, in_bfloat16: bool) -> Tensor | None:
        """Return a parameter or buffer, in bfloat16 if that is wanted and there."""
        tensor = getattr(self, name)
        return getattr(self, f"{name}_bfloat16", tensor) if in_bfloat16 else tensor

    def weights(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight and the bias, as autocast wants them where it is on."""
        casts = torch.is_autocast_enabled(features.device.type)
        return self.kept("weight", casts), self.kept("bias", casts)


class FrozenLinear(Frozen, nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return linear(features, *self.weights(features))


class FrozenConv2d(Frozen, nn.Conv2d):
    def forward(self, features: Tensor) -> Tensor:
        return self._conv_forward(features, *self.weights(features))


class Stem(FrozenConv2d):
    """A first convolution with stride 2, whose gradient is computed with stride 1.

    That gradient has as few channels as the pixels, which leaves most of a vector unit idle. With
    2 x 2 pixels taken as one pixel of four times the channels, the same convolution has half the
    kernel size and stride 1. Only the input gets a gradient.
    """

    def unshuffle(self) -> None:
        to_even = [end for length in self.kernel_size[::-1] for end in (0, length % 2)]
        unshuffled = pixel_unshuffle(pad(self.weight.detach(), to_even), 2)
        self.register_buffer("unshuffled", unshuffled, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return _Strided.apply(pixels, self)


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pixels: Tensor, stem: Stem) -> Tensor:
        ctx.stem, ctx.shape = stem, pixels.shape
        return FrozenConv2d.forward(stem, pixels)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        weight = ctx.stem.kept("unshuffled", grad.dtype == torch.bfloat16).to(grad.dtype)
        padded = pixel_shuffle(conv_transpose2d(grad, weight), 2)
        (top, left), (height, width) = ctx.stem.padding, ctx.shape[2:]
        bottom, right = height + top - padded.shape[2], width + left - padded.shape[3]
        return pad(padded, (-left, right, -top, bottom)), None


class Pointwise(FrozenConv2d):
    """A 1 x 1 convolution that stays in oneDNN, however few the images and the threads.

    On one thread and with fewer than 16 images, torch computes it elsewhere, which is slower,
    unless it is dilated. Dilation does not change a kernel of one weight.
    """

    def forward(self, features: Tensor) -> Tensor:
        apart = 2 if features.is_cpu else 1
        return conv2d(features, *self.weights(features), dilation=apart, groups=self.groups)


class DenseBlock(densenet._DenseBlock):
    """A dense block whose layers add to one concatenation instead of making it anew each time.

    The backward pass then also has one addition per layer, not one per pair of layers.
    """

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.values():
            features = torch.cat([features, layer(features)], 1)
        return features


class DenseLayer(densenet._DenseLayer):
    """A dense layer that does not copy what is concatenated already."""

    def bn_function(self, inputs: list[Tensor]) -> Tensor:
        features = inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1)
        return self.conv1(self.relu1(self.norm1(features)))


LOWERED = {nn.Conv2d: FrozenConv2d, nn.Linear: FrozenLinear}


def speed_up(network: nn.Module, bfloat16: bool = False) -> None:
    """Give modules of a frozen network the classes above; names, weights and hooks stay.

    Args:
        bfloat16: whether it will run under autocast.
    """
    for module in network.modules():
        if _is_strided_on_pixels(module):
            module.__class__ = Stem
            module.unshuffle()
        elif _is_pointwise(module):
            module.__class__ = Pointwise
        elif type(module) is densenet._DenseBlock:
            module.__class__ = DenseBlock
        elif type(module) is densenet._DenseLayer:
            module.__class__ = DenseLayer
        elif bfloat16 and type(module) in LOWERED:
            module.__class__ = LOWERED[type(module)]
        # A hook may change the weights.
        if bfloat16 and isinstance(module, Frozen) and not module._forward_pre_hooks:
            module.lower()


def _is_strided_on_pixels(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.in_channels <= 4
        and min(module.kernel_size) > 3  # a 3 x 3 one gains nothing
        and module.stride == (2, 2)
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not module._forward_pre_hooks  # which may change the weights
    )


def _is_pointwise(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == module.stride == (1, 1)
        and module.padding in ((0, 0), "same", "valid")
    )
