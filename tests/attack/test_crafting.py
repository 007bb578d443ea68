"""The attack on folders: what is saved, and what happens where memory is short."""

import json

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import ATTACK, folder

from suite.attack.attacks import make_attack, perturb, random_start
from suite.images import pictures
from suite.running.random_numbers import image_generators

__all__ = ["folder"]


@settings(max_examples=200, deadline=None)
@given(
    epsilon=st.floats(0, 64),
    step=st.floats(0, 64),
    steps=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_no_pixel_leaves_the_ball_or_the_range(epsilon, step, steps, seed):
    from suite.attack.attacks import perturb

    generator = torch.Generator().manual_seed(seed)
    natural = torch.randint(0, 256, (2, 3, 5, 5), generator=generator, dtype=torch.uint8)
    weights = torch.randn(75, 4, generator=generator)
    attack = make_attack(lambda x: x.flatten(1) @ weights, epsilon, step, steps, momentum=seed % 2)
    labels = torch.tensor([0, 1])
    pixels = pictures.to_float(natural)
    start = random_start(pixels, epsilon, image_generators(seed, "ab"))
    result = perturb(attack, pixels, labels, epsilon, start if seed % 3 else None)
    saved = pictures.to_uint8(result, natural, epsilon)
    assert saved.dtype == torch.uint8
    assert abs(saved.int() - natural.int()).max() <= epsilon


def test_run_out_of_memory_goes_on_with_smaller_batches(run, folder, monkeypatch):
    perturb = perturb

    def limited(attack, pixels, *args):
        if len(pixels) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return perturb(attack, pixels, *args)

    attack = f"{ATTACK}ten --rand-init --di-prob 0.5 --json"
    assert run(f"{attack} --output-dir {{x}}/3 --batch-size 3", x=folder)[0] == 0
    monkeypatch.setattr(attacks, "perturb", limited)
    status, out, err = run(f"{attack} --output-dir {{x}}/6", x=folder)
    assert (status, json.loads(out)["images"]) == (0, 6)
    assert "memory is short: 3 images at a time now (DefaultCPUAllocator" in err
    for file in (folder / "3").glob("*.png"):
        assert file.read_bytes() == (folder / "6" / file.name).read_bytes()
