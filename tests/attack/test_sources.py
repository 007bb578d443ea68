"""The attack on tensors, which attack_iter.py takes over folders; sources and their hooks."""

import logging
from dataclasses import replace

import pytest
import torch
from bases import ALL, MI, Small, generators, images, perturbed, pool
from conftest import hooked
from small import ATTACK

from suite.attack.loop import GradientAttack
from suite.attack.pool import Pool, read_pool
from suite.attack.settings import Attack
from suite.attack.sources import Source, Sources
from suite.images.folders import list_images
from suite.images.pictures import read_batches, to_float, to_uint8
from suite.networks.classifier import load_model


@pytest.mark.parametrize(
    ("options", "attack"),
    [
        ("", Attack(num_steps=2)),
        ("--momentum 1 --ti-kernel 5", Attack(num_steps=2, momentum=1, ti_kernel=5)),
        (
            "--rand-init --di-prob 1 --seed 3 --epsilon 8 --step-size -1",
            Attack(8, 4, num_steps=2, rand_init=True, di_prob=1, seed=3),
        ),
    ],
)
def test_script_saves_what_the_attack_on_tensors_returns(run, folder, options, attack):
    assert run(f"{ATTACK}ten --gamma 0.5 {options}", x=folder)[0] == 0
    listed = list_images(folder / "nat")
    (_, pixels), (_, saved) = read_batches([listed, list_images(folder / "adv")])
    source = Source(load_model(f"{folder}/nets.py:ten").accelerate(), 0.5)
    source.register_sgm()
    labels = torch.tensor([image.label for image in listed])
    drawn = generators([image.name for image in listed], attack.seed)
    result = GradientAttack(attack, [source.network]).perturb(to_float(pixels), labels, drawn)
    assert torch.equal(to_uint8(result, pixels, attack.epsilon), saved)


def test_any_module_can_be_a_source():
    module, (natural, labels) = Small(), images()
    attack, source = GradientAttack(Attack(num_steps=1), [module]), Source(module, gamma=0.1)
    plain = attack.perturb(natural, labels)
    with hooked(source.register_sgm()) as handles:
        assert (source.hooks, len(handles)) == ("branch", 1)
        assert not torch.equal(attack.perturb(natural, labels), plain)
        logits = Sources([source]).logits(natural, ["a", "b", "c"])
    torch.testing.assert_close(logits, module(natural))
    assert torch.equal(attack.perturb(natural, labels), plain)


def test_random_numbers_depend_on_seed_and_place_where_none_are_given():
    natural, labels = images()
    first, again, other = (
        perturbed(Small(), natural, labels, num_steps=1, step_size=0, rand_init=True, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0] - natural[0], first[1] - natural[1])


def test_network_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="mine is in training mode"):
        Source(Small().train(), name="mine")


def test_ensembles_are_named_by_their_members():
    both = [Source(Small(), name="a"), Source(Small(), name="b")]
    names = [
        Sources(both).name,
        Sources(both, "gradients").name,
        Sources(both[:1], "gradients").name,
    ]
    assert names == ["a + b", "a + b (gradients)", "a"]


def test_attack_says_how_many_gradients_make_a_step(caplog):
    caplog.set_level(logging.INFO)
    for attack in (MI, ALL):
        GradientAttack(attack, [Small()], pool())
    said = f"{ALL.name}: {ALL.evaluations} gradient evaluations a step, of which PGD takes 1"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_admix_needs_a_pool_of_several_classes_and_of_the_images_size():
    natural, labels = images()
    attack, networks = replace(MI, admix=1), [Small()]
    with pytest.raises(ValueError, match="it needs a pool of them, see read_pool"):
        GradientAttack(attack, networks)
    with pytest.raises(ValueError, match="of other classes, but all 9 are of one class"):
        Pool(pool().pixels, torch.full((9,), 2))
    narrow = GradientAttack(attack, networks, Pool(pool().pixels[..., :-1], pool().labels))
    with pytest.raises(ValueError, match=r"images of \(6, 6\) pixels, .* mixes in are \(6, 5\)"):
        narrow.perturb(natural, labels)


def test_absent_labels_of_a_pool_are_what_the_sources_answer(folder):
    sources = Sources([Source(load_model(f"{folder}/nets.py:ten"))])
    listed = [replace(image, label=None) for image in list_images(folder / "nat")]
    listed[2] = replace(listed[2], label=3)
    found = read_pool(listed, 0, sources)
    expected = sources.networks[0](to_float(found.pixels)).argmax(1)
    expected[2] = 3
    assert torch.equal(found.labels, expected)


def test_targeted_admix_mixes_in_no_image_of_the_own_class():
    natural, targets = images()
    two, own = Pool(pool().pixels[:2], torch.tensor([0, 1])), torch.zeros(3).long()
    other = Pool(torch.stack([two.pixels[0].flip(2), two.pixels[1]]), two.labels)
    attack = replace(MI, admix=2, targeted=True)
    results = [
        GradientAttack(attack, [Small()], mixed).perturb(natural, targets, classes=classes)
        for mixed, classes in ((two, own), (other, own), (two, 1 - own))
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
