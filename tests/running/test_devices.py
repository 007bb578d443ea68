import json

import pytest
import torch

from suite import images, networks, results
from suite.attack import attacks
from suite.images import pictures
from suite.running import devices


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
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory.",
            False,
        ),
    ],
)
def test_memory_is_short_if_the_error_says_so(message, short):
    assert devices.out_of_memory(RuntimeError(message)) == short


def test_process_without_a_gpu_is_refused_where_others_have_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="more processes here than there are GPUs, of which 1 "):
        devices.choose_device(no_cuda=False)


def test_batch_size_is_found_by_trying_on_a_gpu_alone():
    assert devices.find_batch_size("cuda:0", devices.Parts(), limited(20, [])) == 16
    assert devices.find_batch_size("cuda:0", devices.Parts(), limited(999, [])) == 64
    assert devices.find_batch_size("cpu", devices.Parts(), limited(0, [])) == 16


def test_run_out_of_memory_goes_on_with_smaller_batches(run, natural, tmp_path, monkeypatch):
    perturb = attacks.perturb

    def limited(attack, pixels, *args):
        if len(pixels) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return perturb(attack, pixels, *args)

    attack = "attack_iter --input-dir {nat} --num-steps 1 --rand-init --di-prob 0.5 --json"
    assert run(f"{attack} --output-dir {{out}}/3 --batch-size 3", nat=natural, out=tmp_path)[0] == 0
    monkeypatch.setattr(attacks, "perturb", limited)
    status, out, err = run(f"{attack} --output-dir {{out}}/6", nat=natural, out=tmp_path)
    assert (status, json.loads(out)["images"]) == (0, 6)
    assert "memory is short: 3 images at a time now (DefaultCPUAllocator" in err
    for file in (tmp_path / "3").glob("*.png"):
        assert file.read_bytes() == (tmp_path / "6" / file.name).read_bytes()


def test_bfloat16_leaves_pixels_gradient_and_logits_float32():
    model = networks.load_model("efficientnet_lite0").accelerate("bf16")
    seen = []
    model.network.conv_head.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    pixels = torch.rand(2, 3, 224, 224, requires_grad=True)
    logits = model(pixels)
    logits.sum().backward()
    exact = networks.load_model("efficientnet_lite0")(pixels)
    assert (seen, logits.dtype, pixels.grad.dtype) == ([torch.bfloat16], *[torch.float32] * 2)
    assert 0 < abs(logits - exact).max() < 0.1 * abs(exact).max()


def test_success_at_lower_precision_agrees_with_float32s(run, tmp_path):
    """The 95 % intervals of 17 images overlap."""
    assert run("select_images --data embedded --output-dir {out}/natural", out=tmp_path)[0] == 0
    names = ("fp32", "tf32", "bf16")
    for name in names:
        attack = f"attack_iter --input-dir {{out}}/natural --output-dir {{out}}/{name} --gamma 0.5"
        status, _, err = run(f"{attack} --num-steps 4 --precision {name}", out=tmp_path)
        assert status == 0, err
    folders = " ".join(f"{{out}}/{name}" for name in names)
    evaluation = f"evaluate --input-dir {folders} --arch efficientnet_lite1 --json"
    rows = json.loads(run(evaluation, out=tmp_path)[1])
    exact, *lower = (row["targets"]["efficientnet_lite1"]["success"] for row in rows)
    assert rows[0]["images"] == 17
    for rounded in lower:
        assert max(exact["low"], rounded["low"]) <= min(exact["high"], rounded["high"])


@pytest.fixture
def batches(natural):
    return list(pictures.read_batches(images.batches(images.list_images(natural), 2)))


def test_batch_norms_are_folded_before_a_network_moves():
    """A GPU's TF32 rounds more than folding may change."""
    model = results.Committee(["efficientnet_lite0"], {}, "meta").networks["efficientnet_lite0"]
    assert not [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_networks_that_do_not_fit_together_take_turns_and_answer_the_same(
    batches, monkeypatch, caplog
):
    archs = ["efficientnet_lite0", "efficientnet_lite1"]
    together = results.Committee(archs, {}, "cpu")
    expected = [answers for _, _, answers in together.answers(batches)]
    there, most = set(), 0
    predict, to = networks.predict, networks.Classifier.to

    def moved(model, device=None, **options):
        if device:
            (there.add if device == "cpu:0" else there.discard)(model)
        return to(model, *([device] * bool(device)), **options)

    def crowded(model, pixels):
        nonlocal most
        if len(there) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        most = max(most, len(there))
        return predict(model, pixels)

    monkeypatch.setattr(networks, "predict", crowded)
    monkeypatch.setattr(networks.Classifier, "to", moved)
    in_turn = results.Committee(archs, {}, "cpu:0")
    assert [answers for _, _, answers in in_turn.answers(batches)] == expected
    assert "they take turns" in caplog.text
    assert most == 1
