"""A GPU that is not there: its tensors have shapes and no values, and what they cause is noted.

Tensors on the CPU stay real. To combine them with the device's raises an error, as CUDA does. The
device is a Python backend of torch's privateuse1, so that autograd runs without CUDA, and its
tensors are FakeTensors. What a program reads from it is zero.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import library
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "fakegpu"
DEVICE = f"{NAME}:0"
ROOT = Path(__file__).parent.parent
OURS = tuple(str(ROOT / name) for name in ("suite", "attack_iter.py", "utils_sgm.py"))
Generator = torch.Generator
# Operators that compute nothing.
FREE = {
    *("detach", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("_unsafe_view", "lift_fresh", "is_same_size", "set_", "resize_", "device"),
}
# Functions whose arguments autocast casts to bfloat16.
LOWERED = {"conv2d", "conv_transpose2d", "linear", "matmul", "__matmul__", "addmm", "bmm"}


if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch has no backends in Python", allow_module_level=True)


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def is_available(self):
        return False  # to what looks for a device of its own accord, as nn.DataParallel does


backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend())
# Autocast does nothing by itself; `Functions` casts.
_all_operators = library.Library("_", "IMPL")
_all_operators.fallback(library.fallthrough_kernel, "AutocastPrivateUse1")


class Event(NamedTuple):
    """What happened.

    Attributes:
        kind: "kernel"; "upload" and "download", copies that the host need not wait for; "blocking
            upload"; "wait", of the host for the device; "collect", a wait for an event.
        name: of the operator.
        place: the line of the suite that caused it, if it is no kernel; empty in a backward pass.
        size: number of bytes that were copied.
    """

    kind: str
    name: str
    place: str
    size: int


class FakeGPU(TorchDispatchMode):
    """The device, while this mode is on; `events` is what happened, in order."""

    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.events: list[Event] = []

    def __enter__(self):
        self.functions = Functions()
        self.functions.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.functions.__exit__(*error)

    def note(self, kind: str, name: str, size: int = 0) -> None:
        self.events.append(Event(kind, name, "" if kind == "kernel" else _place(), size))

    def kinds(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]

    def kernels(self) -> Counter:
        """Return how many kernels of each name there were."""
        return Counter(event.name for event in self.kinds("kernel"))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = function._schema.name.partition("::")[2]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_host = [x for x in tensors if not isinstance(x, FakeTensor)]
        to = torch.device(kwargs.get("device") or "cpu").type if "device" in kwargs else None
        if len(on_host) == len(tensors) and to != NAME:
            with _disable_current_modes():
                return function(*args, **kwargs)
        if name == "_local_scalar_dense":
            self.note("wait", name)
            return 0.0 if tensors[0].is_floating_point() else tensors[0].dtype != torch.bool and 0
        if name == "equal":
            self.note("wait", name)
            return False
        if to == "cpu":
            return self._downloaded(name, tensors[0], kwargs)
        if name == "copy_" and args[0] in on_host:
            self.note("wait", name)
            return args[0].zero_()
        if on_host and name in ("_to_copy", "copy_"):
            pinned = getattr(on_host[0], "is_in_pinned_memory", False)
            goes_on = kwargs.get("non_blocking") or args[2:3] == (True,)
            kind = "upload" if pinned and goes_on else "blocking upload"
            self.note(kind, name, on_host[0].nbytes)
        elif any(x.dim() for x in on_host):
            where = [(tuple(x.shape), str(x.device)) for x in tensors]
            raise RuntimeError(f"{name} of tensors on different devices: {where}")
        if name == "_to_copy" and on_host:
            return self._uploaded(tensors[0], kwargs)
        # Numbers on the host, of no dimensions, go with a kernel's arguments.
        args, kwargs = tree_map_only(torch.Tensor, self._on_device, (args, kwargs))
        args = tree_map_only(Generator, lambda _: None, args)
        kwargs.pop("generator", None)
        with self.fake:
            result = function(*args, **kwargs)
            if name == "convolution":
                result = _laid_out(result, *args[:2])
            elif name == "convolution_backward" and result[0] is not None:
                result = (_laid_out(result[0], args[0], args[2]), *result[1:])
        if name in ("nonzero", "unique_dim", "_unique2", "masked_select"):
            self.note("wait", name)
        views = [r for r in function._schema.returns if r.alias_info and not r.alias_info.is_write]
        if not views and name not in FREE:
            self.note("kernel", name)
            if name == "convolution" and args[2] is not None:
                self.note("kernel", "bias of convolution")  # which cuDNN does not add
            if name == "convolution_backward" and not _is_dense(args[0]):
                self.note("kernel", "copy for convolution_backward")  # which cuDNN needs
        return result

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.fake.from_tensor(tensor)

    def _uploaded(self, tensor: torch.Tensor, kwargs: dict) -> torch.Tensor:
        layout = kwargs.get("memory_format") or torch.preserve_format
        with _disable_current_modes():
            like = torch.empty_like(tensor, device="meta", memory_format=layout)
        dtype = kwargs.get("dtype") or tensor.dtype
        with self.fake:
            return torch.empty_strided(like.shape, like.stride(), dtype=dtype, device=DEVICE)

    def _downloaded(self, name: str, tensor: torch.Tensor, kwargs: dict) -> torch.Tensor:
        self.note("download" if kwargs.get("non_blocking") else "wait", name, tensor.nbytes)
        with _disable_current_modes():
            return torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=kwargs.get("dtype") or tensor.dtype
            ).zero_()


class Functions(TorchFunctionMode):
    """What CUDA's autocast does, where it is on: it keeps no cast of a frozen weight."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.tolist and isinstance(args[0], FakeTensor):
            return args[0].cpu().tolist()  # FakeTensors have none

        def lowered(tensor: torch.Tensor) -> torch.Tensor:
            on_device = tensor.device.type == NAME and tensor.dtype == torch.float32
            return tensor.to(torch.bfloat16) if on_device else tensor

        if function.__name__ in LOWERED and torch.is_autocast_enabled(NAME):
            args, kwargs = tree_map_only(torch.Tensor, lowered, (args, kwargs or {}))
        return function(*args, **(kwargs or {}))


class CudaEvent:
    """What takes the place of torch.cuda.Event."""

    def __init__(self, gpu: FakeGPU, enable_timing: bool = False):
        self.gpu = gpu

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        self.gpu.note("collect", "synchronize")

    def elapsed_time(self, end: "CudaEvent") -> float:
        return 1.0


def _laid_out(result: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    """Return a convolution's result as cuDNN lays it out, by its features and weights."""
    last = torch.channels_last
    if any(x.is_contiguous(memory_format=last) and not x.is_contiguous() for x in inputs):
        return torch.empty_like(result, memory_format=last)
    return torch.empty_like(result, memory_format=torch.contiguous_format)


def _is_dense(tensor: torch.Tensor) -> bool:
    layouts = torch.contiguous_format, torch.channels_last
    return any(tensor.is_contiguous(memory_format=layout) for layout in layouts)


def _place() -> str:
    frame = sys._getframe(2)
    while frame:
        file = frame.f_code.co_filename
        if file.startswith(OURS) and not file.endswith("/devices.py"):
            return f"{file.removeprefix(str(ROOT))}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@contextlib.contextmanager
def in_use(monkeypatch) -> Iterator[FakeGPU]:
    """Let the suite run on the device."""
    from suite.running import devices

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        pinned = tensor.clone()
        pinned.is_in_pinned_memory = True
        return pinned

    gpu = FakeGPU()
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": Generator())
    monkeypatch.setattr(torch.cuda, "Event", partial(CudaEvent, gpu))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "none")
    monkeypatch.setattr(devices, "choose_device", lambda *_: DEVICE)
    with gpu:
        yield gpu
