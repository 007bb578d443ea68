"""The neural representation purifier (Naseer et al., CVPR 2020), from its authors' weights."""

from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from suite.networks.checkpoints import read_state_dict


class Purifier(nn.Module):
    """The smaller of the authors' purifiers, NRP_resG: a residual network from pixels to pixels.

    Layers, their names, and the slope 0.1 after the first one are those of the released weights, as
    Muzammal-Naseer/NRP (commit f27fe40) loads them. Its output is clipped to [0, 1]. Attacks go
    through its gradient.

    Args:
        blocks: number of residual blocks, each of two convolutions without batch norm.
    """

    def __init__(self, blocks: int):
        super().__init__()
        self.conv_first = nn.Conv2d(3, 64, 3, padding=1)
        self.recon_trunk = nn.Sequential(*(_Block() for _ in range(blocks)))
        self.conv_last = nn.Conv2d(64, 3, 3, padding=1)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        features = leaky_relu(self.conv_first(pixels), 0.1)
        return self.conv_last(self.recon_trunk(features)).clamp(0, 1)


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.conv2(relu(self.conv1(features)))


def load_purifier(file: Path) -> Purifier:
    """Return the purifier with the weights of a file, which also determine its number of blocks.

    Raises:
        OSError, ValueError: the file is not usable, or holds another network.
    """
    tensors = read_state_dict(file)
    blocks = len({key.split(".")[1] for key in tensors if key.startswith("recon_trunk.")})
    if not blocks:
        raise ValueError(
            f"{file} holds no NRP_resG, whose keys begin with conv_first, recon_trunk and conv_last"
            f": it has {', '.join(list(tensors)[:3])} (the authors' larger NRP.pth is not read)"
        )
    network = Purifier(blocks)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{file} does not fit NRP_resG: {' '.join(str(error).split())}") from error
    return network
