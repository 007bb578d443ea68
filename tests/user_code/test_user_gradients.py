"""Users' networks through which no gradient goes, and those that take no hooks."""

import pytest
import torch
from conftest import input_gradient
from own_networks import PIXELS, load, returning

from suite.attack.loop import GradientAttack
from suite.attack.settings import Attack
from suite.attack.sources import Source

QUANTISED = "def net(): return torch.ao.quantization.quantize_dynamic(Plain().eval(), {nn.Linear})"
GRADIENTLESS = {
    "no_grad": returning("with torch.no_grad(): return self.logits(x)"),
    "inference_mode": returning("with torch.inference_mode(): return self.logits(x)"),
    "detach": returning("return self.fc(self.conv(x.detach().requires_grad_()).mean((2, 3)))"),
    "data": returning("return self.logits(x.data)"),
    "numpy": returning("return self.logits(torch.from_numpy(x.detach().numpy()))"),
    "dict": returning("return {'logits': out.detach()}"),
    "quantised": QUANTISED,
}


def attacked(model, pixels, gamma=1):
    Source(model, gamma).register_sgm()
    return GradientAttack(Attack(num_steps=1), [model]).perturb(pixels, torch.tensor([1, 2]))


@pytest.mark.parametrize("text", GRADIENTLESS.values(), ids=GRADIENTLESS)
@pytest.mark.filterwarnings("ignore")
def test_network_without_gradients_is_a_target_but_no_source(tmp_path, text):
    expected, model = load(tmp_path, "net = plain"), load(tmp_path, text).accelerate()
    assert model.classes == 5
    with torch.no_grad():
        assert model(PIXELS).shape == (2, 5)
        if "detach().req" not in text and text is not QUANTISED:
            torch.testing.assert_close(model(PIXELS), expected(PIXELS))
    for gamma in (1, 0.5):
        with pytest.raises(ValueError, match="gradients do not reach the pixels") as error:
            attacked(model, PIXELS, gamma)
        assert f"{tmp_path}/net.py:net" in str(error.value)
        assert "\n" not in str(error.value)


STATIC = """
from torch.ao import quantization as q
def net():
    net = nn.Sequential(
        q.QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU(), q.DeQuantStub(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    net[6].qconfig = None
    for part in (net[0], net[1], net[3]):
        part.qconfig = q.get_default_qconfig("x86")
    q.prepare(net, inplace=True)
    net(torch.rand(2, 3, 16, 16))
    q.convert(net, inplace=True)
    net.input_size = 16
    return net
"""


@pytest.mark.filterwarnings("ignore")
def test_quantised_network_is_a_target(tmp_path):
    model = load(tmp_path, STATIC).accelerate()
    with torch.no_grad():
        assert model(PIXELS).shape == (2, 5)
    with pytest.raises(ValueError, match="gradients do not reach the pixels"):
        input_gradient(model, PIXELS)
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="quantised network takes no --checkpoint"):
        load(tmp_path, QUANTISED, checkpoint=tmp_path / "file.pth")


SCRIPTED = {
    "scripted": "torch.jit.script(Plain())",
    "traced": "torch.jit.trace(Plain().eval(), torch.rand(1, 3, 16, 16))",
    "frozen": "torch.jit.freeze(torch.jit.script(Plain().eval()))",
    "inside": "nn.Sequential(nn.Identity(), torch.jit.script(Plain()))",
    "tuple": "torch.jit.script(Two())",
}
TWO = """
class Two(Plain):
    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).mean((2, 3))), x
"""


@pytest.mark.parametrize("text", SCRIPTED.values(), ids=SCRIPTED)
@pytest.mark.filterwarnings("ignore")
def test_scripted_network_is_attacked_as_it_is(tmp_path, text, caplog):
    caplog.set_level("INFO")
    text = f"{TWO}def net(): return {text}"
    size = 224 if "freeze" in text else 16
    model = load(tmp_path, text).accelerate()
    assert model.input_size == (3, size, size)
    assert "batch norms are not folded" in caplog.text
    pixels = torch.rand(2, 3, size, size)
    assert torch.equal(model(pixels), model.network(pixels))
    assert not torch.equal(attacked(model, pixels), pixels)
    if "freeze" not in text:
        torch.save(model.network.state_dict(), tmp_path / "own.pth")
        again = load(tmp_path, text, checkpoint=tmp_path / "own.pth")
        torch.testing.assert_close(again(pixels), model(pixels))
