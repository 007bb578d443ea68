"""Faster convolutions and dense blocks on a CPU, equal up to rounding."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, pad, pixel_shuffle, pixel_unshuffle
from torchvision.models import densenet


class Stem(nn.Conv2d):
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
        return nn.Conv2d.forward(stem, pixels)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        weight = ctx.stem.unshuffled.to(grad.dtype)  # bfloat16 under autocast
        padded = pixel_shuffle(conv_transpose2d(grad, weight), 2)
        (top, left), (height, width) = ctx.stem.padding, ctx.shape[2:]
        bottom, right = height + top - padded.shape[2], width + left - padded.shape[3]
        return pad(padded, (-left, right, -top, bottom)), None


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution that stays in oneDNN, however few the images and the threads.

    On one thread and with fewer than 16 images, torch computes it elsewhere, which is slower,
    unless it is dilated. Dilation does not change a kernel of one weight.
    """

    def forward(self, features: Tensor) -> Tensor:
        apart = 2 if features.is_cpu else 1
        return conv2d(features, self.weight, self.bias, dilation=apart, groups=self.groups)


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


def speed_up(network: nn.Module) -> None:
    """Give modules of a frozen network the classes above; names, weights and hooks stay."""
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
