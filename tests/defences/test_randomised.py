"""Random defences: where images come to lie, how passes are averaged, votes, generators."""

import math

import pytest
import torch
from torch import nn

from suite.defences.defended import Defended, for_batch, load_defended
from suite.defences.randomised import RandomPadding, Smoothing, with_abstentions
from suite.networks.classifier import load_model
from suite.running.random_numbers import image_generators


class Answers:
    """Gives its answers one after another, and keeps what it was asked."""

    def __init__(self, answers):
        self.answers, self.asked = iter(answers), []

    def __call__(self, pixels):
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
    image = pixels.flip(3) if flipped else pixels
    rows, columns = (torch.arange(size) * length // size for length in own)
    expected = torch.full((1, 3, 331, 331), 0.5)
    expected[:, :, top : top + size, left : left + size] = image[:, :, rows][..., columns]
    assert RandomPadding().drawn(pixels, image_generators(0, "a")).equal(expected)


@pytest.mark.parametrize("own", [(224, 224), (30, 50), (353, 347)])
def test_padding_of_a_batch_on_a_gpu_is_that_of_each_image(own):
    pixels, names = torch.rand(30, 3, *own, requires_grad=True), [str(n) for n in range(30)]
    draws = [
        torch.rand(4, dtype=torch.double, generator=each).tolist()
        for each in image_generators(0, names)
    ]
    expected = RandomPadding().drawn(pixels, image_generators(0, names))
    found = RandomPadding().drawn_together(pixels, draws)
    assert torch.equal(found, expected)
    weights = torch.rand_like(found)
    gradients = [torch.autograd.grad((weights * x).sum(), pixels)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_padding_draws_many_sizes_and_both_directions():
    generators = image_generators(0, [str(n) for n in range(40)])
    halves = torch.ones(40, 3, 2, 2) * torch.tensor([0.0, 1.0])
    placed = RandomPadding().drawn(halves, generators)
    sizes = (placed[:, 0] != 0.5).any(1).sum(1)
    assert 310 <= sizes.min() < 315 < 325 < sizes.max() <= 330
    flipped = placed[:, 0, 165, 120] == 1
    assert 10 < flipped.sum() < 30


def test_padding_averages_the_probabilities_of_thirty_passes(monkeypatch):
    monkeypatch.setattr(RandomPadding, "smallest", 10)
    monkeypatch.setattr(RandomPadding, "padded", 31)
    answers = torch.randn(30, 2, 5)
    network = Answers(answers)
    logits = RandomPadding()(torch.rand(2, 3, 8, 8), network, image_generators(0, "ab"))
    torch.testing.assert_close(logits.softmax(1), answers.softmax(2).mean(0))
    assert len(network.asked) == 30
    assert len({float(pixels.sum()) for pixels in network.asked}) > 20  # a new draw each time


@pytest.mark.parametrize("votes", [(17, 3, 0), (18, 2, 0), (11, 0, 0), (10, 0, 0), (60, 29, 11)])
def test_vote_abstains_where_the_majority_may_be_chance(votes):
    first, second, _ = votes
    throws = first + second
    # Of as many throws of a coin so few heads, or fewer.
    one_sided = sum(math.comb(throws, k) for k in range(second + 1)) / 2**throws
    shares = with_abstentions(torch.tensor([votes, (0, 0, 50)]).float(), max(50, sum(votes)))
    expected = [*(n / sum(votes) for n in votes), 0] if 2 * one_sided <= 0.001 else [0, 0, 0, 1]
    assert shares.tolist() == [pytest.approx(expected), [0, 0, 1, 0]]


def smoothed(answers, pixels, size=(8, 8)):
    """Return the logits of smoothing with noise of 0.5, and what the network was asked."""
    network = Answers(answers)
    generators = image_generators(0, map(str, range(len(pixels))))
    return Smoothing(size, 0.5, len(answers))(pixels, network, generators), network.asked


def test_smoothing_counts_the_copies_votes():
    chosen = torch.tensor([[2, 0]] * 19 + [[1, 0]] * 1 + [[2, 1]] * 20)  # of two images
    logits, _ = smoothed(nn.functional.one_hot(chosen, 4).float(), torch.rand(2, 3, 8, 8))
    torch.testing.assert_close(logits[0].exp(), torch.tensor([0, 1 / 40, 39 / 40, 0, 0]))
    assert logits[1].argmax() == 4  # 20 to 20
    assert logits.isfinite().all()


def test_noise_is_as_large_as_said_in_the_network_s_size_and_is_not_clipped():
    grey = torch.full((1, 3, 200, 200), 0.25)
    _, asked = smoothed([torch.zeros(1, 4)] * 11, grey, size=(64, 64))
    noise = torch.cat(asked) - 0.25
    assert noise.shape == (11, 3, 64, 64)
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(0.5, abs=0.01)


def test_smoothing_hides_no_logits_that_are_not_finite():
    answers = torch.zeros(11, 2, 4)
    answers[3, 1, 2] = torch.nan
    logits, _ = smoothed(answers, torch.rand(2, 3, 8, 8))
    assert logits.isfinite().all(1).tolist() == [True, False]


@pytest.mark.parametrize("defence", [RandomPadding(), Smoothing((8, 8), 0.5, 1000)])
def test_where_a_gradient_is_wanted_one_pass_answers(defence):
    network = Answers([torch.zeros(1, 4)])
    defence(torch.rand(1, 3, 8, 8).requires_grad_(), network, image_generators(0, "a"))
    assert len(network.asked) == 1


def test_smoothing_of_a_network_that_crops_a_margin_off_is_refused():
    name = "ta-bench/tv_resnet50"
    with torch.device("meta"):
        network = load_model(name, pretrained=False)
    with pytest.raises(ValueError, match=f"{name} enlarges and crops images"):
        Defended(network, name, [("smooth", (0.25, 100))])


@pytest.fixture
def sides(tmp_path):
    """The name of a network that adds the height of what it gets to the average of each channel."""
    (tmp_path / "nets.py").write_text("""
import torch

class sides(torch.nn.Module):
    input_size = 299

    def forward(self, pixels):
        return pixels.mean((2, 3)) + pixels.shape[2]
""")
    return f"{tmp_path}/nets.py:sides"


@pytest.mark.parametrize(
    ("stack", "side"),
    [("rp+", 331), ("rp+bits:8+", 331), ("smooth:0.1:11+rp+", 331), ("rp+smooth:0.1:11+", 299)],
)
def test_network_of_299_pixels_sees_all_that_was_padded_but_for_noise(sides, stack, side):
    network = load_defended(stack + sides).accelerate()
    answer = network(torch.rand(1, 3, 40, 40).requires_grad_())
    assert (answer - side).abs().max() < 1.5


def test_module_for_a_batch_draws_from_its_generators(sides):
    network, pixels = load_defended(f"rp+{sides}"), torch.rand(2, 3, 40, 40, requires_grad=True)
    one = for_batch(network, image_generators(0, "ab"))
    drawn, again = one(pixels), one(pixels)
    assert drawn.equal(network(pixels, image_generators(0, "ab")))
    assert not drawn.equal(again)
    assert not drawn.equal(for_batch(network, image_generators(1, "ab"))(pixels))
    assert drawn[:1].equal(for_batch(network, image_generators(0, "a"))(pixels[:1]))
    three = [for_batch(network, image_generators(0, "ab")) for _ in range(2)]
    copies = pixels[[0, 1, 0]]
    assert three[0](copies).equal(three[1](copies))
    assert not one.training


@pytest.mark.parametrize("defences", ["", "bits:4+"])
def test_module_for_a_batch_is_the_network_where_nothing_is_random(sides, defences):
    network = load_defended(defences + sides)
    assert for_batch(network, image_generators(0, "ab")) is network
