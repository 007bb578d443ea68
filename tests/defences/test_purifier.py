"""The purifier against the list of its authors' layers."""

import pytest
import torch
from torch.nn.functional import conv2d

from suite.defences.purifier import Purifier, load_purifier


def weights(blocks=2):
    """Return random weights under the names that the released files have."""
    shapes = {"conv_first": (64, 3), "conv_last": (3, 64)}
    for n in range(blocks):
        shapes |= {f"recon_trunk.{n}.conv{i}": (64, 64) for i in (1, 2)}
    kernels = {f"{layer}.weight": torch.randn(*shape, 3, 3) for layer, shape in shapes.items()}
    biases = {f"{layer}.bias": torch.randn(shape[0]) for layer, shape in shapes.items()}
    return {key: 0.1 * tensor for key, tensor in (kernels | biases).items()}


def test_purifier_of_16_blocks_has_the_1_2_million_parameters_that_the_authors_state():
    assert sum(p.numel() for p in Purifier(16).parameters()) == pytest.approx(1.2e6, rel=0.02)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_purifier_does_what_its_layers_say(tmp_path, prefix):
    own, pixels = weights(), torch.rand(2, 3, 12, 16)
    torch.save({prefix + key: tensor for key, tensor in own.items()}, tmp_path / "NRP_resG.pth")

    def layer(name, x):
        return conv2d(x, own[f"{name}.weight"], own[f"{name}.bias"], padding=1)

    x = layer("conv_first", pixels)
    x = torch.where(x > 0, x, 0.1 * x)
    for n in range(2):
        x = x + layer(f"recon_trunk.{n}.conv2", layer(f"recon_trunk.{n}.conv1", x).clamp(min=0))
    expected = layer("conv_last", x).clamp(0, 1)
    torch.testing.assert_close(load_purifier(tmp_path / "NRP_resG.pth")(pixels), expected)
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda own: {"RRDB_trunk.0.RDB1.conv1.weight": torch.zeros(2)}, "holds no NRP_resG"),
        (lambda own: own | {"conv_last.bias": torch.zeros(1)}, "does not fit NRP_resG"),
        (lambda own: {k: v for k, v in own.items() if "conv_first" not in k}, "does not fit"),
    ],
)
def test_file_of_another_network_is_refused(tmp_path, changed, said):
    torch.save(changed(weights(1)), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"other.pth.*{said}|other.pth {said}"):
        load_purifier(tmp_path / "other.pth")
