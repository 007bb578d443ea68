"""The measurements for a machine with a GPU run to their end where there is none."""

import importlib

import pytest
import torch
import torchvision
from conftest import ROOT, calibrated, input_gradient, shell

from suite.networks.folding import fold_batch_norms
from utils_sgm import register_sgm


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_smallest_measurement_writes_its_file(tmp_path):
    options = "--only first_step --archs resnet18 --images 2 --precisions fp32 --output results"
    done = shell(f"python benchmarks/gpu.py {options}", tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "results").iterdir()
    assert file.name == "first_step.md"
    written = file.read_text()
    assert written in done.stdout
    assert "| resnet18 | CPU | fp32 | 100.000 % | 100.000 % |" in written or (
        torch.cuda.is_available() and "| resnet18 | GPU | fp32 |" in written
    )
    assert "first_step: done after" in written


def test_what_is_left_when_time_is_over_is_said(tmp_path):
    done = shell("python benchmarks/gpu.py --part fast --minutes 0.1", tmp_path)
    assert done.returncode == 0
    left = "step profile runs levers pipeline"
    assert f"0.1 minutes were over: the rest is --only {left}" in done.stdout
    assert not list((tmp_path / "gpu_results").iterdir())


def test_failed_measurement_is_told_from_one_that_is_done(tmp_path):
    done = shell("python benchmarks/gpu.py --only resume --archs resnet19", tmp_path)
    assert done.returncode == 1
    assert "Unknown model resnet19" in (tmp_path / "gpu_results" / "resume.md").read_text()
    assert done.stdout.endswith("resume: failed\n")


def test_each_name_is_a_measurement(script):
    for part, names in script("gpu").PARTS.items():
        module = script(f"gpu_{part}")
        assert all(getattr(module, name).__doc__ for name in names)


def test_tests_without_weights_name_no_package_of_weights(script):
    for name in script("gpu_right").TESTS:
        text = (ROOT / name).read_text()
        assert not [word for word in ("foolbox", "efficientnet", "embedded") if word in text], name


def test_fused_blocks_have_the_logits_and_the_gradient_of_those_they_replace(script):
    network = calibrated(torchvision.models.resnet50(num_classes=10)).double()
    fold_batch_norms(network, (3, 64, 64))
    register_sgm(network, "resnet50", 0.5)
    pixels = torch.rand(2, 3, 64, 64, dtype=torch.double)
    logits, gradient = network(pixels), input_gradient(network, pixels)
    assert script("gpu_fused").fuse(network)
    torch.testing.assert_close(network(pixels), logits)
    torch.testing.assert_close(input_gradient(network, pixels), gradient)


def flags():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def own_flags():
    """What torch has by itself; it has that again afterwards."""
    before = flags()
    yield before
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_every_way_has_the_same_precision_but_torchs_own(script, monkeypatch, own_flags, precision):
    bench = script("bench_attack")
    monkeypatch.setattr(bench, "on_gpu", lambda: True)
    ways = bench.choose_ways(bench.get_parser().parse_args(["--levers", "--precision", precision]))
    assert ways[:2] == [bench.RELEASED, bench.DEFAULT]
    assert (bench.MEMORY in ways) == (precision == "fp32")
    bench.set_precision(bench.DEFAULT, precision)
    assert flags() == own_flags
    for way in bench.LEVERS:
        bench.set_precision(way, precision)
        assert flags() == (precision != "fp32", precision != "fp32")
