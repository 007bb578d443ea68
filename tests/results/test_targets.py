"""Several networks that answer to the same images."""

import pytest
import torch

from suite.images.folders import in_batches, list_images
from suite.images.pictures import read_batches, to_float
from suite.networks.classifier import Classifier, predict_logits
from suite.results import targets
from suite.results.targets import Targets


@pytest.fixture
def batches(folder):
    return list(read_batches(in_batches(list_images(folder / "nat"), 2)))


@pytest.fixture
def archs(folder):
    return [f"{folder}/nets.py:{name}" for name in ("ten", "thousand")]


def test_batch_norms_are_folded_before_a_network_moves():
    """A GPU's TF32 rounds more than folding may change."""
    model = Targets(["efficientnet_lite0"], {}, "meta").networks["efficientnet_lite0"]
    assert not [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_networks_that_do_not_fit_together_take_turns_and_answer_the_same(
    batches, archs, monkeypatch, caplog
):
    expected = [answers for _, _, answers in Targets(archs, {}, "cpu").answers(batches)]
    there, most = set(), 0
    to = Classifier.to

    def moved(model, device=None, **options):
        if device:
            (there.add if device == "cpu:0" else there.discard)(model)
        return to(model, *([device] * bool(device)), **options)

    def crowded(model, pixels):
        nonlocal most
        if len(there) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        most = max(most, len(there))
        return predict_logits(model, pixels)

    monkeypatch.setattr(targets, "predict_logits", crowded)
    monkeypatch.setattr(Classifier, "to", moved)
    in_turn = Targets(archs, {}, "cpu:0")
    assert [answers for _, _, answers in in_turn.answers(batches)] == expected
    assert "they take turns" in caplog.text
    assert most == 1


def test_answer_is_the_class_and_the_probability_of_the_label(batches, archs):
    asked = Targets(archs, {}, "cpu")
    for batch, pixels, answers in asked.answers(batches):
        with torch.no_grad():
            logits = asked.networks[archs[1]](to_float(pixels)).double()
        exponentials = logits.exp()
        for row, image, answer in zip(exponentials, batch, answers[archs[1]], strict=True):
            assert answer.index == row.argmax()
            expected = row[image.label] / row.sum()
            assert answer.probability == pytest.approx(expected.item(), abs=1e-6)


def test_image_without_a_label_has_no_probability(folder, archs):
    (folder / "nat" / "labels.csv").unlink()
    asked = Targets(archs[:1], {}, "cpu").answers(read_batches([list_images(folder / "nat")]))
    ((_, _, answers),) = asked
    assert [answer.probability for answer in answers[archs[0]]] == [None] * 6
