import pytest
import torch

import images
import models
from attacks import make_attack
from utils_sgm import register_sgm


@pytest.fixture(scope="module")
def model():
    model = models.load_model("efficientnet_lite0")
    register_sgm(model.network, "efficientnet_lite0", 0.5)
    return model


@pytest.fixture(scope="module")
def batch(natural):
    listed = images.list_images(natural)[:3]
    _, pixels = next(images.read_batches(listed, 3))
    return images.to_float(pixels), torch.tensor([image.label for image in listed])


@pytest.mark.parametrize("momentum", [0, 1])
def test_result_does_not_depend_on_the_batch(model, batch, momentum):
    pixels, labels = batch
    attack = make_attack(model, 16, 2, 3, momentum)
    together = attack.perturb(pixels, labels)
    alone = torch.cat([attack.perturb(pixels[i : i + 1], labels[i : i + 1]) for i in range(3)])
    # Rounding flips the sign of a few gradients near zero, and a flip can be 2 x 3 steps of 2/255.
    assert (abs(together - alone) > 1e-3 / 255).float().mean() < 0.02


@pytest.mark.parametrize("momentum", [0, 1])
def test_input_is_unchanged_and_result_is_repeatable(model, batch, momentum):
    pixels, labels = batch
    before = pixels.clone()
    attack = make_attack(model, 16, 2, 2, momentum)
    first = attack.perturb(pixels, labels)
    assert torch.equal(pixels, before)
    assert torch.equal(first, attack.perturb(pixels, labels))


@pytest.mark.parametrize("momentum", [0, 0.7])
def test_steps_on_a_linear_network_are_the_closed_form(momentum):
    """With two classes the gradient's direction never changes, so each step adds its sign."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    network.requires_grad_(False)
    direction = (network[1].weight[1] - network[1].weight[0]).view(1, 3, 2, 2).sign()
    pixels = torch.full((1, 3, 2, 2), 0.5)
    adversarial = make_attack(network, 8, 3, 2, momentum).perturb(pixels, torch.tensor([0]))
    torch.testing.assert_close(adversarial, pixels + 6 / 255 * direction)
    adversarial = make_attack(network, 8, 3, 5, momentum).perturb(pixels, torch.tensor([0]))
    torch.testing.assert_close(adversarial, pixels + 8 / 255 * direction)


def test_momentum_accumulates_gradients_of_norm_1():
    """MI-FGSM's g = momentum * g + gradient / |gradient|_1, on a network with a known gradient."""

    class Recorder(torch.nn.Module):
        """Linear logits (z, 0), z = scale * <w, x>, whose gradient shrinks as x moves."""

        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, x):
            self.seen.append(x.detach().clone())
            return torch.stack([(x**2 * weights).flatten(1).sum(1), torch.zeros(len(x))], 1)

    torch.manual_seed(1)
    weights = torch.randn(1, 3, 2, 2)
    pixels = torch.rand(1, 3, 2, 2) * 0.05 + 0.001
    network = Recorder()
    make_attack(network, 200, 40, 4, 1.0).perturb(pixels, torch.tensor([0]))
    x, g = pixels.clone(), torch.zeros_like(pixels)
    for seen in network.seen:
        torch.testing.assert_close(seen, x)
        gradient = -2 * x * weights  # but for a positive factor, which the norm takes away
        g = g + gradient / gradient.abs().sum()
        x = (x + 40 / 255 * g.sign()).clamp(0, 1)
