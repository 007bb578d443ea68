"""Defences that draw: where images come to lie, how passes are averaged and votes counted."""

import math

import pytest
import torch
from torch import nn

from suite.defences.defence_names import Defence
from suite.defences.defended import Defended, load_defended
from suite.defences.randomised import RandomPadding, Smoothing, with_abstentions
from suite.networks.classifier import load_model
from suite.running.random_numbers import image_generators


class Answers(nn.Module):
    """Gives its answers one after another, and keeps what it was asked."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.asked = iter(answers), []

    def forward(self, pixels):
        self.asked.append(pixels)
        return next(self.answers)


@pytest.mark.parametrize(
    ("draws", "size", "top", "left", "flipped"),
    [
        ((0.0, 0.0, 0.0, 0.0), 310, 0, 0, True),
        ((0.9999, 0.0, 0.9999, 0.6), 330, 0, 1, False),
        ((0.5, 0.5, 0.9999, 0.9), 320, 6, 11, False),
        ((0.0, 0.9999, 0.5, 0.4), 310, 21, 11, True),
    ],
)
@pytest.mark.parametrize("own", [(224, 224), (30, 50), (353, 347)])
def test_padding_puts_an_image_where_the_draws_say(
    monkeypatch, draws, size, top, left, flipped, own
):
    pixels = torch.rand(1, 3, *own)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(draws))
    padding = RandomPadding(nn.Identity())
    padding.generators = image_generators(0, "a")
    image = pixels.flip(3) if flipped else pixels
    rows, columns = (torch.arange(size) * length // size for length in own)
    expected = torch.full((1, 3, 331, 331), 0.5)
    expected[:, :, top : top + size, left : left + size] = image[:, :, rows][..., columns]
    assert padding.drawn(pixels).equal(expected)


def test_padding_draws_many_sizes_and_both_directions():
    padding = RandomPadding(nn.Identity())
    padding.generators = image_generators(0, [str(n) for n in range(40)])
    placed = padding.drawn(torch.ones(40, 3, 2, 2) * torch.tensor([0.0, 1.0]))
    sizes = (placed[:, 0] != 0.5).any(1).sum(1)
    assert 310 <= sizes.min() < 315 < 325 < sizes.max() <= 330
    flipped = placed[:, 0, 165, 120] == 1
    assert 10 < flipped.sum() < 30


def test_padding_averages_the_probabilities_of_thirty_passes(monkeypatch):
    monkeypatch.setattr(RandomPadding, "smallest", 10)
    monkeypatch.setattr(RandomPadding, "padded", 31)
    answers = torch.randn(30, 2, 5)
    padding = RandomPadding(Answers(answers))
    padding.generators = image_generators(0, "ab")
    logits = padding(torch.rand(2, 3, 8, 8))
    torch.testing.assert_close(logits.softmax(1), answers.softmax(2).mean(0))
    assert len(padding.behind.asked) == 30
    assert len({float(pixels.sum()) for pixels in padding.behind.asked}) > 20  # anew each time


def one_sided(first, second):
    """Return the probability of so few heads or fewer in as many throws of a coin."""
    throws = first + second
    return sum(math.comb(throws, k) for k in range(second + 1)) / 2**throws


@pytest.mark.parametrize("votes", [(17, 3, 0), (18, 2, 0), (11, 0, 0), (10, 0, 0), (60, 29, 11)])
def test_vote_abstains_where_the_majority_may_be_chance(votes):
    shares = with_abstentions(torch.tensor([votes, (0, 0, 50)]).float())
    if 2 * one_sided(*votes[:2]) > 0.001:
        expected = [0, 0, 0, 1]
    else:
        expected = [*(n / sum(votes) for n in votes), 0]
    assert shares.tolist() == [pytest.approx(expected), [0, 0, 1, 0]]


def test_smoothing_counts_the_copies_votes():
    chosen = torch.tensor([[2, 0]] * 19 + [[1, 0]] * 1 + [[2, 1]] * 20)  # of two images
    smoothing = Smoothing(Answers(nn.functional.one_hot(chosen, 4).float()), (8, 8), 0.5, 40)
    smoothing.generators = image_generators(0, "ab")
    logits = smoothing(torch.rand(2, 3, 8, 8))
    torch.testing.assert_close(logits[0].exp(), torch.tensor([0, 1 / 40, 39 / 40, 0, 0]))
    assert logits[1].argmax() == 4  # 20 to 20
    assert logits.isfinite().all()


def test_noise_is_as_large_as_said_in_the_network_s_size_and_is_not_clipped():
    smoothing = Smoothing(Answers([torch.zeros(1, 4)] * 11), (64, 64), 0.5, 11)
    smoothing.generators = image_generators(0, "a")
    smoothing(torch.full((1, 3, 200, 200), 0.25))
    noise = torch.cat(smoothing.behind.asked) - 0.25
    assert noise.shape == (11, 3, 64, 64)
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(0.5, abs=0.01)


def test_smoothing_hides_no_logits_that_are_not_finite():
    answers = torch.zeros(11, 2, 4)
    answers[3, 1, 2] = torch.nan
    smoothing = Smoothing(Answers(answers), (8, 8), 0.5, 11)
    smoothing.generators = image_generators(0, "ab")
    assert smoothing(torch.rand(2, 3, 8, 8)).isfinite().all(1).tolist() == [True, False]


@pytest.mark.parametrize("kind", [RandomPadding, lambda net: Smoothing(net, (8, 8), 0.5)])
def test_where_a_gradient_is_wanted_one_pass_answers(kind):
    network = Answers([torch.zeros(1, 4)])
    defence = kind(network)
    defence.generators = image_generators(0, "a")
    defence(torch.rand(1, 3, 8, 8).requires_grad_())
    assert len(network.asked) == 1


def test_smoothing_of_a_network_that_crops_a_margin_off_is_refused():
    name = "ta-bench/tv_resnet50"
    with torch.device("meta"):
        network = load_model(name, pretrained=False)
    with pytest.raises(ValueError, match=f"{name} enlarges what it gets and crops it"):
        Defended(network, name, [Defence("smooth", (0.25, 100))])


@pytest.mark.parametrize(
    ("stack", "side"),
    [("rp+", 331), ("rp+bits:8+", 331), ("smooth:0.1:11+rp+", 331), ("rp+smooth:0.1:11+", 299)],
)
def test_network_of_299_pixels_sees_all_that_was_padded_but_for_noise(tmp_path, stack, side):
    (tmp_path / "nets.py").write_text("""
import torch

class Sides(torch.nn.Module):
    input_size = 299

    def forward(self, pixels):
        return pixels.mean((2, 3)) + pixels.shape[2]

def sides(): return Sides()
""")
    network = load_defended(f"{stack}{tmp_path}/nets.py:sides").accelerate()
    answer = network(torch.rand(1, 3, 40, 40).requires_grad_())
    assert (answer - side).abs().max() < 1.5
