"""What attacks are called, and how many gradients a step of them takes."""

from dataclasses import replace

import pytest
from bases import ALL, BASES, MI

from suite.attack.settings import DEFAULTS, OPTIONS, Attack, add_options
from suite.running.cli import Parser


@pytest.mark.parametrize(
    ("attack", "name", "evaluations"),
    [
        (Attack(), "PGD", 1),
        (Attack(momentum=0.5), "MI-FGSM", 1),
        (Attack(num_steps=1, step_size=16), "FGSM", 1),
        (Attack(num_steps=1), "PGD", 1),
        (Attack(momentum=1, di_prob=0.5, ti_kernel=15, targeted=True), "targeted MI-FGSM+DI+TI", 1),
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
def test_attack_has_the_field_s_name_and_its_number_of_gradients(attack, name, evaluations):
    assert (attack.name, attack.evaluations) == (name, evaluations)


def test_command_line_has_the_settings_with_their_defaults():
    parser = Parser()
    add_options(parser)
    args = parser.parse_args([])
    assert vars(args) | {"attack": None} == DEFAULTS
    assert Attack(**vars(args)) == Attack()
    assert len(OPTIONS) == len(vars(args))
