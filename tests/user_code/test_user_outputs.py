"""Users' networks that are not just from float32 pixels to logits."""

import contextlib
import random

import numpy as np
import pytest
import torch
from conftest import input_gradient
from own_networks import PIXELS, load, returning
from small import ATTACK, EVALUATE, SELECT

from branches import residual_branches
from suite.images.labels import LabelledImage
from suite.networks.answer_checks import refuse_other_classes

OUTPUTS = {
    "tuple": "return out, x",
    "list": "return [out]",
    "nested": "return (out, x), x",
    "dict": "return {'features': x, 'logits': out}",
    "ModelOutput": "return Output(loss=None, logits=out)",
    "namedtuple": "return Named(x, out)",
    "namespace": "return types.SimpleNamespace(hidden=x, logits=out)",
    "dict in a tuple": "return [{'logits': out}]",
}


@pytest.mark.parametrize("expression", OUTPUTS.values(), ids=OUTPUTS)
def test_logits_are_taken_out_of_what_a_network_returns(tmp_path, caplog, expression):
    caplog.set_level("INFO")
    expected = load(tmp_path, "net = plain").accelerate()
    model = load(tmp_path, returning(expression))
    assert "5 values of its logits" in caplog.text or "first element's 5 values" in caplog.text
    assert torch.equal(model.accelerate()(PIXELS), expected(PIXELS))
    assert model.classes == 5
    assert torch.equal(input_gradient(model, PIXELS), input_gradient(expected, PIXELS))


OUTER = {  # of a network of five classes, what else it returns
    "features first": (
        "return torch.cat([out, -out], 1), out",
        4,
        "10 values, .* and 5, which fit",
    ),
    "logits of too few first": ("return out[:, :3], out", 4, "3 values, .* and 5, which fit"),
    "nested": ("return (torch.cat([out, -out], 1), out), x", 4, "10 values"),
    "features last": ("return out, torch.cat([out, -out], 1)", 4, None),
    "auxiliary logits": ("return out, out / 2", 4, None),
    "small head": ("return out, out[:, :2]", 4, None),
    "named": ("return Named(torch.cat([out, out], 1), out)", 4, None),
}


@pytest.mark.parametrize(("expression", "label", "reason"), OUTER.values(), ids=OUTER)
def test_first_output_is_refused_where_the_labels_fit_another_one(
    tmp_path, expression, label, reason
):
    model = load(tmp_path, returning(expression)).accelerate()
    images = [LabelledImage(tmp_path / "x.png", "x.png", index) for index in (0, label)]

    refused = pytest.raises(ValueError, match=f"net returns several outputs: {reason}")
    with refused if reason else contextlib.nullcontext():
        refuse_other_classes("net", model.classes, images, model.others)


def test_log_says_which_output_is_taken(tmp_path, caplog):
    load(tmp_path, returning("return out, torch.cat([out, out], 1), x"))
    said = "returns a tuple of 3: the first element's 5 values are taken for the logits"
    assert f"{said}, not the 10 of another one" in caplog.text


@pytest.mark.parametrize("command", [ATTACK, EVALUATE, SELECT, f"{ATTACK}ten {{x}}/nets.py:"])
def test_features_are_not_attacked_as_logits(run, folder, command):
    text = (folder / "nets.py").read_text()
    text += "\nclass Two(Residual):\n    def forward(self, x):\n"
    text += "        out = super().forward(x)\n        return torch.cat([out, -out], 1), out\n"
    (folder / "nets.py").write_text(text)
    status, out, err = run(f"{command}Two", x=folder)
    assert (status, out) == (1, "")
    assert f"{folder}/nets.py:Two returns several outputs: 20 values" in err.splitlines()[-1]


def test_classes_that_the_labels_do_not_reach_are_said(succeed, folder):
    assert (
        "nets.py:many has 6000 classes, and the labels go up to 5"
        in succeed(f"{ATTACK}many", x=folder)[1]
    )


WITHOUT_LOGITS = {
    "return {'features': x, 'out': out}": "returns a dict of features, out",
    "return ()": "returns a tuple of 0",
    "return None": "returns a NoneType",
    "return Attributes(3)": "returns a Attributes of 1",
    "return out.argmax(1)": "torch.int64 numbers of the shape 1 for",
    "return out.squeeze()": "numbers of the shape 5 for",
    "return out.sum()": "numbers of the shape a number for",
    "return x": "numbers of the shape 1x3x16x16",
    "return out.repeat(2, 1)": "numbers of the shape 2x5",
    "return out / absent": "a pass of 1x3x16x16 pixels fails .NameError",
    "raise RuntimeError('a\\nb')": "fails .RuntimeError: a b.",
    "raise KeyError('a')": "fails .KeyError: 'a'.",
}
EXPORTED = "torch.export.export(Plain(), (torch.rand(1, 3, 16, 16),)).module()"
SIZELESS = "nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))"
REFUSED = {returning(expression): reason for expression, reason in WITHOUT_LOGITS.items()} | {
    f"def net(): return {SIZELESS}": "1x3x224x224 pixels fails .*attribute input_size",
    "def net(): return Plain().to('meta')": "net.py:net has no weights: they are on the",
    f"def net(): return {EXPORTED}": "net.py:net has no evaluation mode .NotImplementedError",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_network_that_can_not_be_used_is_refused_in_one_line(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason) as error:
        load(tmp_path, text)
    assert f"{tmp_path}/net.py:net" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.double])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pixels_are_cast_to_a_network_s_dtype_and_logits_are_float32(tmp_path, dtype, precision):
    expected = load(tmp_path, "net = plain")
    model = load(tmp_path, f"def net(): return Plain().to({dtype})").accelerate(precision)
    logits = model(PIXELS)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected(PIXELS), atol=0.03, rtol=0.03)
    gradient = input_gradient(model, PIXELS)
    assert gradient.dtype == torch.float32
    exact = input_gradient(expected, PIXELS)
    assert torch.cosine_similarity(gradient.flatten(), exact.flatten(), 0) > 0.99


def test_network_that_casts_by_itself_gets_what_it_always_got(tmp_path):
    text = """
class Half(Plain):
    def forward(self, x):
        assert x.dtype == torch.float32
        return self.logits((x - 0.1).half())
def net(): return Half().half()
"""
    model = load(tmp_path, text)
    assert torch.equal(model(PIXELS), model.network(PIXELS).float())


def test_data_parallel_with_device_ids_runs_where_the_suite_puts_it(tmp_path):
    expected = load(tmp_path, "net = plain")
    text = """
def net():
    net = nn.DataParallel(Plain())
    net.device_ids, net.src_device_obj = [0, 1], torch.device("cuda:0")  # as where there are GPUs
    return nn.Sequential(net)
"""
    model = load(tmp_path, text).accelerate()
    torch.testing.assert_close(model(PIXELS), expected(PIXELS))


def test_first_pass_leaves_random_numbers_alone(tmp_path):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    text = "import random, numpy as np\n" + returning(
        "return out * (1 + 0 * (random.random() + np.random.rand() + torch.rand(1)))"
    )
    states = random.getstate(), np.random.get_state()
    load(tmp_path, text)
    drawn = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])
    load(tmp_path, "net = plain")
    assert draw() == drawn


def test_names_of_branches_are_those_of_the_user_s_modules(tmp_path):
    half, of_dict = "def net(): return Plain().half()", returning("return {'logits': out}")
    for text in ("net = plain", of_dict, half):
        model = load(tmp_path, text)
        assert [b.module for b in residual_branches(model.network, model.input_size)] == ["branch"]


FOUND = {
    "compiled": "def net(): return torch.compile(Plain())",
    "averaged": "def net(): return torch.optim.swa_utils.AveragedModel(Plain())",
    "lazy": """
def net():
    net = Plain()
    net.fc, net.norm = nn.LazyLinear(5), nn.LazyBatchNorm2d()
    return net
""",
    "default dtype": "def net():\n    torch.set_default_dtype(torch.float64)\n    return Plain()",
    "default device": "def net():\n    net = Plain()\n    torch.set_default_device('meta')\n"
    "    return net",
    "no gradients": "def net():\n    torch.set_grad_enabled(False)\n    return Plain()",
    "reentrant": "from torch.utils.checkpoint import checkpoint\nclass net(Plain):\n"
    "    def forward(self, x): return checkpoint(self.logits, x, use_reentrant=True)",
    "in place": "class net(Plain):\n    def forward(self, x): return self.logits(x.mul_(2))",
}
HARD_TO_SPEED_UP = {
    "view": "return nn.functional.linear(self.conv(x).view(len(x), -1)[:, :4], self.fc.weight)",
    "five dimensions": "return self.fc(self.conv3(x[:, :, None]).mean((2, 3, 4)))",
    "looks into its norms": "return self.logits(x) + self.norm.running_var.sum()",
    "detached in part": "return self.logits(x) + self.logits(x.detach())",
}
FOUND |= {
    name: f"""
class net(Plain):
    def __init__(self):
        super().__init__()
        self.conv3 = nn.Conv3d(3, 4, (1, 3, 3))
    def forward(self, x):
        {expression}
"""
    for name, expression in HARD_TO_SPEED_UP.items()
}


@pytest.mark.parametrize("text", FOUND.values(), ids=FOUND)
def test_other_kinds_of_networks_work(tmp_path, text):
    model = load(tmp_path, text)
    logits, gradient = model(PIXELS), input_gradient(model, PIXELS)
    assert logits.shape == (2, 5)
    assert (logits.dtype, logits.device.type) == (torch.float32, "cpu")
    model.accelerate()
    torch.testing.assert_close(model(PIXELS), logits)
    torch.testing.assert_close(input_gradient(model, PIXELS), gradient)
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("return out.view(1, 5)", "a pass of 2x3x16x16 pixels fails .RuntimeError"),
        ("return {1: out}[len(x)]", "a pass of 2x3x16x16 pixels fails .KeyError: 2"),
    ],
)
def test_network_that_fails_at_later_images_is_one_line(tmp_path, expression, reason):
    model = load(tmp_path, returning(expression)).accelerate()
    with pytest.raises(ValueError, match=reason) as error:
        model(PIXELS)
    assert f"{tmp_path}/net.py" in str(error.value)
    assert "\n" not in str(error.value)
