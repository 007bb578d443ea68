"""The example of docs/attacks.md that changes the backward pass otherwise than SGM does."""

import torch
from conftest import example, input_gradient, pixels_of
from torch import nn

from suite.networks.classifier import load_model

CODE = example("docs/attacks.md", "def linear(")


def test_example_propagates_linearly_through_later_activations():
    names = {}
    exec(CODE, names)
    linear, oracle = names["net"]("blocks.6"), load_model("efficientnet_lite0")
    later = [oracle.network.bn2, oracle.network.blocks[6][0]]
    for module in (each for part in later for each in part.modules()):
        if isinstance(module, nn.ReLU6):
            module.inplace = False
            module.register_full_backward_hook(lambda module, grads, outputs: outputs)
    pixels = torch.rand(2, 3, 224, 224)
    torch.testing.assert_close(linear(pixels), oracle(pixels))
    expected = input_gradient(oracle, pixels)
    torch.testing.assert_close(input_gradient(linear, pixels), expected)
    plain = input_gradient(load_model("efficientnet_lite0"), pixels)
    assert not torch.allclose(expected, plain)


def test_example_is_attacked_with_sgm_and_without(succeed, folder):
    (folder / "linbp.py").write_text(CODE)
    attack = "attack_iter --input-dir {x}/nat --num-steps 1 --no-cuda --output-dir {x}/"
    sources = {"linbp": "{x}/linbp.py:net", "plain": "efficientnet_lite0"}
    images = []
    for name, source in sources.items():
        for gamma in (1, 0.5):
            succeed(f"{attack}{name}{gamma} --arch {source} --gamma {gamma}", x=folder)
            pixels = pixels_of(folder / f"{name}{gamma}")
            images.append(b"".join(pixels[file].tobytes() for file in sorted(pixels)))
    assert len(set(images)) == 4
