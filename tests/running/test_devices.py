import inspect
import json

import pytest
import torch
from conftest import SCRIPTS, STEPS

from suite.networks.classifier import Classifier, load_model
from suite.results.targets import Targets
from suite.running import devices, precision, runs


def limited(most, calls):
    """A function whose memory suffices for so many images."""

    def function(part):
        calls.append(part.stop - part.start)
        if part.stop - part.start > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return list(range(part.start, part.stop))

    return function


def test_batch_is_halved_until_it_fits_and_no_image_is_lost(caplog):
    parts, calls = devices.Parts(), []
    results = parts(limited(5, calls), 16)
    assert sum(results, []) == list(range(16))
    assert calls == [16, 8, 4, 4, 4, 4]
    assert "memory is short: 4 images at a time now (CUDA out of memory" in caplog.text
    calls.clear()
    assert sum(parts(limited(5, calls), 10), [])[-1] == 11  # what fitted once is kept to
    assert calls == [4, 4, 4]


def test_error_at_one_image_and_other_errors_are_raised():
    with pytest.raises(torch.OutOfMemoryError):
        devices.Parts()(limited(0, []), 4)

    def broken(part):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        devices.Parts()(broken, 4)


@pytest.mark.parametrize(
    ("message", "short"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("could not create a primitive", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_memory_is_short_if_the_error_says_so(message, short):
    assert devices.out_of_memory(RuntimeError(message)) == short


def test_process_without_a_gpu_is_refused_where_others_have_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(devices.ranks, "gather", lambda value: [value, value])
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="more processes here than there are GPUs, of which 1 "):
        devices.choose_device(no_cuda=False)


def test_process_to_which_one_gpu_alone_is_visible_takes_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    other = f"{devices.platform.node()} 0"
    monkeypatch.setattr(devices.ranks, "gather", lambda value: [other, value])
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert devices.choose_device(no_cuda=False, precision="tf32") == "cuda:0"


@pytest.mark.parametrize(
    ("device", "wanted", "size"), [("cpu", None, 16), ("cuda:0", None, 64), ("cuda:1", 3, 3)]
)
def test_batch_size_is_fixed_for_each_kind_of_device(device, wanted, size):
    assert devices.batch_size(device, wanted) == size


def test_decoders_take_the_cores_that_are_there(monkeypatch):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda process: range(48), raising=False)
    assert devices.decoders() == 48
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert devices.decoders() == 12
    assert devices.decoders(3) == 3


def test_bfloat16_leaves_pixels_gradient_and_logits_float32():
    model = load_model("efficientnet_lite0").accelerate("bf16")
    seen = []
    model.network.conv_head.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    pixels = torch.rand(2, 3, 224, 224, requires_grad=True)
    logits = model(pixels)
    logits.sum().backward()
    exact = load_model("efficientnet_lite0")(pixels)
    assert (seen, logits.dtype, pixels.grad.dtype) == ([torch.bfloat16], *[torch.float32] * 2)
    assert 0 < abs(logits - exact).max() < 0.1 * abs(exact).max()


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "vit_b_16"])
def test_weights_kept_in_bfloat16_are_those_that_autocast_casts(arch):
    model = load_model(f"torchvision/{arch}", pretrained=False).accelerate("bf16")
    pixels = torch.rand(1, 3, 224, 224, requires_grad=True)
    results = []
    for lowered in (True, False):
        if not lowered:
            for module in model.modules():
                for name in [n for n in module._buffers if n.endswith("_bfloat16")]:
                    delattr(module, name)
        logits = model(pixels)
        results.append((logits, *torch.autograd.grad(logits.square().sum(), pixels)))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_success_at_lower_precision_agrees_with_float32s(succeed, natural, tmp_path):
    """The 95 % intervals overlap on the source, where hardly any image withstands."""
    names = ("fp32", "bf16")  # without a GPU, tf32 is fp32
    attack = "attack_iter --input-dir {nat} --gamma 0.5 --num-steps 1 --step-size 16"
    for name in names:
        options = f"--output-dir {{out}}/{name} --precision {name}"
        succeed(f"{attack} {options}", nat=natural, out=tmp_path)
    folders = " ".join(f"{{out}}/{name}" for name in names)
    evaluation = f"evaluate --input-dir {folders} --arch efficientnet_lite0 --json"
    rows = json.loads(succeed(evaluation, out=tmp_path)[0])
    exact, rounded = (row["targets"]["efficientnet_lite0"]["success"] for row in rows)
    assert exact["rate"] > 80
    assert max(exact["low"], rounded["low"]) <= min(exact["high"], rounded["high"])


def test_run_that_goes_on_on_another_gpu_is_warned_of(tmp_path, caplog):
    for gpu in "AAB":
        assert not caplog.text
        run = {"options": {}, "device": "cuda", "hardware": {"gpu": gpu, "cudnn": 91}}
        with runs.output_folder(tmp_path, run, overwrite=False):
            pass
    assert "was begun with gpu A, and goes on with B" in caplog.text
    assert "cudnn" not in caplog.text


def test_gpu_begins_the_next_batch_before_this_one_is_worked_on():
    events = []

    def batches():
        yield "a"
        yield "b"
        raise ValueError("broken")

    def launch(batch):
        events.append(f"launch {batch}")
        return batch

    ahead = devices.ahead(batches(), launch, "cuda:0")
    events += next(ahead), next(ahead)
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
    assert events == ["launch a", "launch b", "a", "b"]
    events.clear()
    for batch in devices.ahead("ab", launch, "cpu"):
        events.append(batch)
    assert events == ["launch a", "a", "launch b", "b"]


def test_default_precision_is_one():
    functions = (devices.choose_device, Classifier.accelerate, Targets)
    found = {inspect.signature(each).parameters["precision"].default for each in functions}
    found |= {SCRIPTS[name].get_parser().get_default("precision") for name in STEPS}
    assert found == {precision.DEFAULT}
