"""What attacks with more passes a step need, are called and cost."""

import logging
from dataclasses import replace

import pytest
import torch
from bases import ALL, BASES, MI, Small, images, pool

from suite.attack.attacker import Attacker
from suite.attack.pool import Pool
from suite.attack.settings import Attack
from suite.attack.sources import Source


def test_admix_needs_a_pool_of_several_classes_and_of_the_images_size():
    natural, labels = images()
    attack, sources = replace(MI, admix=1), [Source(Small())]
    with pytest.raises(ValueError, match="it needs a pool of them, as of read_pool"):
        Attacker(attack, sources)
    with pytest.raises(ValueError, match="of other classes, but all 9 are of one class"):
        Attacker(attack, sources, Pool(pool().pixels, torch.full((9,), 2)))
    attacker = Attacker(attack, sources, Pool(pool().pixels[..., :-1], pool().labels))
    with pytest.raises(ValueError, match=r"images of \(6, 6\) pixels, .* mixes in are \(6, 5\)"):
        attacker(natural, labels)


def test_unknown_labels_of_a_pool_are_what_the_sources_answer():
    network, known = Small(), pool()
    answers = network(known.pixels / 255).argmax(1)
    unknown = Pool(known.pixels, torch.where(torch.arange(9) < 5, -1, answers))
    results = [
        Attacker(replace(MI, admix=2), [Source(network)], each)(*images())
        for each in (unknown, Pool(known.pixels, answers))
    ]
    assert torch.equal(*results)


def test_targeted_admix_mixes_in_no_image_of_the_own_class():
    natural, targets = images()
    two, own = Pool(pool().pixels[:2], torch.tensor([0, 1])), torch.zeros(3).long()
    other = Pool(torch.stack([two.pixels[0].flip(2), two.pixels[1]]), two.labels)
    attack = replace(MI, admix=2, targeted=True)
    results = [
        Attacker(attack, [Source(Small())], mixed)(natural, targets, classes=classes)
        for mixed, classes in ((two, own), (other, own), (two, 1 - own))
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nesterov": True}, "needs a --momentum above 0"),
        ({"nesterov": True, "momentum": 1, "num_steps": 1}, "--nesterov takes something from"),
        ({"variance": 3, "num_steps": 1}, "--variance takes something from the step before"),
        ({"loss": "hinge"}, "not 'hinge'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Attacker(Attack(**settings), [Source(Small())])


@pytest.mark.parametrize(
    ("attack", "name", "evaluations"),
    [
        (BASES["NI"], "NI-FGSM", 1),
        (BASES["VMI"], "VMI-FGSM", 4),
        (BASES["VNI"], "VNI-FGSM", 3),
        (BASES["SI"], "MI-FGSM+SI", 3),
        (BASES["Admix"], "MI-FGSM+SI+Admix", 4),
        (BASES["BSR"], "MI-FGSM+BSR", 3),
        (BASES["VT without momentum"], "PGD+VT", 3),
        (ALL, "VNI-FGSM+SI+Admix+BSR+DI+TI", 24),
        (replace(MI, targeted=True, loss="logit"), "targeted MI-FGSM+logit", 1),
    ],
)
def test_attack_has_the_field_s_name_and_says_what_it_costs(attack, name, evaluations, caplog):
    assert (attack.name, attack.evaluations) == (name, evaluations)
    caplog.set_level(logging.INFO)
    Attacker(attack, [Source(Small())], pool())
    said = f"{name}: {evaluations} gradient evaluations a step, of which PGD takes 1"
    assert (said in caplog.text) == (evaluations > 1)


def test_passes_that_are_averaged_have_hooks_that_rescale_none_of_them():
    import torchvision

    network = torchvision.models.resnet18().eval().requires_grad_(False)
    for attack, hooks in ((MI, "relu"), (BASES["NI"], "relu"), (BASES["SI"], "branch")):
        attacker = Attacker(attack, [Source(network, 0.5, name="resnet18")])
        assert attacker.hooks == [hooks]
        for handle in attacker.handles:
            handle.remove()
