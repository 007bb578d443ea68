import pytest
import torch
from torch.nn.functional import cross_entropy

from suite.attack.losses import SummedLoss

LOGITS = torch.tensor([[1.0, 4.0, 2.0], [3.0, 0.0, -1.0]])


@pytest.mark.parametrize(("kind", "value"), [("logit", -4 - -1), ("margin", (2 - 4) + (3 - -1))])
def test_losses_by_hand(kind, value):
    assert SummedLoss(kind)(LOGITS, torch.tensor([1, 2])) == value


@pytest.mark.parametrize("kind", ["cross-entropy", "logit", "margin"])
def test_each_network_of_an_ensemble_has_a_loss_and_labels_may_be_unknown(kind):
    ensemble = torch.stack([LOGITS, LOGITS + torch.randn(2, 3) / 10], 1)
    loss = SummedLoss(kind)
    expected = sum(SummedLoss(kind)(ensemble[:, n], torch.tensor([1, 2])) for n in (0, 1))
    torch.testing.assert_close(loss(ensemble, torch.tensor([-1, 2])), expected)
    torch.testing.assert_close(loss.first, ensemble.mean(1))
    loss.begin()
    assert loss.first is None


def test_cross_entropy_is_torch_s():
    labels = torch.tensor([1, 2])
    assert SummedLoss()(LOGITS, labels) == cross_entropy(LOGITS, labels, reduction="sum")


def test_other_losses_are_refused():
    with pytest.raises(ValueError, match="one of cross-entropy, logit, margin, not 'hinge'"):
        SummedLoss("hinge")
