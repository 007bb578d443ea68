"""Several networks that answer to the same images."""

import pytest
import torch

from suite import images, networks, results
from suite.images import pictures
from suite.running import devices


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


def test_batch_is_copied_once_for_all_networks(batches, monkeypatch):
    copied, to_device = [], devices.to_device
    monkeypatch.setattr(
        devices, "to_device", lambda pixels, device: copied.append(1) or to_device(pixels, device)
    )
    archs = ["efficientnet_lite0", "efficientnet_lite1"]
    answers = list(results.Committee(archs, {}, "cpu").answers(batches))
    assert len(copied) == len(answers) == len(batches)
    assert all(list(each) == archs for _, _, each in answers)
