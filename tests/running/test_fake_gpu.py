"""The GPU that is not there notices what a real one would suffer from."""

from collections import Counter

import pytest
import torch
from fake_gpu import DEVICE


def on_device(tensor):
    return tensor.pin_memory().to(DEVICE, non_blocking=True)


@pytest.mark.parametrize(
    "read",
    [
        torch.Tensor.item,
        torch.Tensor.tolist,
        bool,
        float,
        torch.Tensor.cpu,
        lambda x: x.equal(x),
        lambda x: torch.zeros(1).copy_(x),
        lambda x: str(x.to("cpu")),
    ],
)
def test_reading_from_the_device_is_a_wait(gpu, read):
    read(on_device(torch.ones(1)))
    assert [event.kind for event in gpu.events if event.kind != "kernel"] == ["upload", "wait"]


@pytest.mark.parametrize(
    ("copy", "kind"),
    [
        (lambda x: x.to(DEVICE), "blocking upload"),
        (lambda x: x.to(DEVICE, non_blocking=True), "blocking upload"),
        (lambda x: x.pin_memory().to(DEVICE), "blocking upload"),
        (on_device, "upload"),
    ],
)
def test_only_a_pinned_copy_without_waiting_does_not_block(gpu, copy, kind):
    copy(torch.ones(8))
    assert [(event.kind, event.size) for event in gpu.events] == [(kind, 32)]


def test_devices_are_not_mixed(gpu):
    with pytest.raises(RuntimeError, match="on different devices"):
        on_device(torch.ones(2)) + torch.ones(2)
    assert (on_device(torch.ones(2)) + torch.tensor(2)).shape == (2,)  # a number is an argument
    assert (torch.ones(2) + torch.ones(2)).tolist() == [2, 2]


def test_kernels_are_counted_in_the_backward_pass_too_and_views_are_none(gpu):
    pixels = on_device(torch.ones(2, 3)).requires_grad_()
    gpu.events.clear()
    pixels.T[:2].exp()[None].sum().backward()
    # It begins with ones; exp is its own derivative; the leaf gets a copy.
    backward = Counter(ones_like=1, mul=1, slice_backward=1, copy_=1)
    assert gpu.kernels() == Counter(exp=1, sum=1) + backward


def test_autocast_casts_a_frozen_weight_in_each_pass(gpu):
    layer = torch.nn.Linear(2, 2, bias=False).requires_grad_(False).to(DEVICE)
    features = on_device(torch.ones(1, 2))
    with torch.autocast("fakegpu", torch.bfloat16):
        gpu.events.clear()
        assert layer(features).dtype == torch.bfloat16
        layer(features)
    assert gpu.kernels()["_to_copy"] == 4
