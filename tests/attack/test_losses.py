import pytest
import torch
from torch.nn.functional import cross_entropy

from suite.attack.losses import LOSS_FUNCTIONS
from suite.attack.settings import LOSSES, Attack

LOGITS = torch.tensor([[1.0, 4.0, 2.0], [3.0, 0.0, -1.0]])
LABELS = torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("logit", -4 - -1),
        ("margin", (2 - 4) + (3 - -1)),
        ("cross-entropy", cross_entropy(LOGITS, LABELS, reduction="sum")),
    ],
)
def test_losses_are_those_by_hand_and_torch_s(kind, value):
    assert LOSS_FUNCTIONS[kind](LOGITS, LABELS) == value


def test_losses_have_their_names_in_the_settings_and_others_are_refused():
    assert tuple(LOSS_FUNCTIONS) == LOSSES
    with pytest.raises(ValueError, match="one of cross-entropy, logit, margin, not 'hinge'"):
        Attack(loss="hinge")
