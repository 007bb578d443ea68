"""SGM in other people's code: tests of docs/sgm.md, some of them in test_utils_sgm.py."""

import copy
import pickle
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch._dynamo
from blocks import GAMMA, conv, scaled
from conftest import hooked, input_gradient
from torch import func, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from utils_sgm import register_sgm

PIXELS = torch.rand(2, 4, 6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(2)  # as those of input_gradient

eager = partial(torch.compile, backend="eager")


class Block(nn.Module):
    """A residual block as torchvision's."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.conv2 = conv(), nn.BatchNorm2d(4), conv()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, z):
        return self.relu(self.conv2(self.relu(self.bn1(self.conv1(z)))) + z)


def small() -> nn.Module:
    """A network with the names of torchvision's ResNets; of its blocks, layer1.0 is left out."""
    torch.manual_seed(0)
    modules = {"conv": conv(), "relu": nn.ReLU(), "layer1": nn.Sequential(Block(), Block())}
    modules |= {"flatten": nn.Flatten(), "fc": nn.Linear(144, 5)}
    return nn.Sequential(OrderedDict(modules)).double().eval()


def twin(kind: str) -> nn.Module:
    """The same network, in which autograd itself scales gradients; those of each ReLU in "relu"."""
    network = small()
    names = {"branch": ("layer1.0.conv2", "layer1.1.conv2"), "relu": ("relu", "layer1.1.relu")}
    for name in names[kind]:
        network.get_submodule(name).register_forward_hook(lambda _, __, output: scaled(output))
    return network


def register(network: nn.Module, kind: str, gamma: float = GAMMA) -> list:
    return register_sgm(network, "resnet18", gamma, kind, (4, 6, 6))


def loss(network, pixels, labels=LABELS):
    return nn.functional.cross_entropy(network(pixels), labels, reduction="sum")


def image_loss(network):
    return lambda pixels, label: loss(network, pixels[None], label[None])


def sum_of_image_losses(network):
    return lambda pixels: func.vmap(image_loss(network))(pixels, LABELS).sum()


def by_autograd(function, pixels=PIXELS):
    pixels = pixels.clone().requires_grad_()
    return torch.autograd.grad(function(pixels), pixels)[0]


def gradient(network):
    return by_autograd(lambda pixels: loss(network, pixels))


def assert_same(kind, ours, expected):
    """The ReLU after an addition scales both ways, so that only the directions are equal."""
    if kind == "relu":
        ours, expected = (nn.functional.normalize(g.flatten(1)) for g in (ours, expected))
    torch.testing.assert_close(ours, expected)


@pytest.fixture(params=["relu", "branch"])
def kind(request):
    return request.param


@pytest.fixture
def network(kind):
    """A small network with hooks."""
    network = small()
    register(network, kind)
    return network


def checkpointed(network, reentrant):
    forward = network.layer1.forward
    network.layer1.forward = partial(checkpoint, forward, use_reentrant=reentrant)
    return input_gradient(network, PIXELS)


def compiled_in_parts(network):
    for block in network.layer1:
        block.compile(backend="eager")
    return gradient(network)


def through_parameters(network):
    parameters = dict(network.named_parameters())
    return func.grad(
        lambda pixels: loss(lambda x: func.functional_call(network, parameters, (x,)), pixels)
    )(PIXELS)


def in_replicas(network):
    """As nn.DataParallel: shallow copies with their own parameters, each in a thread."""

    def replica():
        copies = {module: module._replicate_for_data_parallel() for module in network.modules()}
        for module, other in copies.items():
            other._modules |= {name: copies[child] for name, child in module._modules.items()}
            other._parameters |= {name: p.clone() for name, p in module._parameters.items()}
        return copies[network]

    def part(k):
        return by_autograd(lambda x: loss(replicas[k], x, LABELS[k, None]), PIXELS[k, None])

    replicas = [replica(), replica()]
    with ThreadPoolExecutor() as threads:
        return torch.cat(list(threads.map(part, range(2))))


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.utils.counters.clear()


OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)
WAYS = {
    "autograd.grad": gradient,
    "backward": lambda net: input_gradient(net, PIXELS),
    "func.grad": lambda net: func.grad(lambda x: loss(net, x))(PIXELS),
    "func.vjp": lambda net: func.vjp(lambda x: loss(net, x), PIXELS)[1](PIXELS.new_ones(()))[0],
    "func.jacrev": lambda net: func.jacrev(lambda x: loss(net, x))(PIXELS),
    "functional_call": through_parameters,
    "vmap(grad)": lambda net: func.vmap(func.grad(image_loss(net)))(PIXELS, LABELS),
    "grad(vmap)": lambda net: func.grad(sum_of_image_losses(net))(PIXELS),
    "autograd of vmap": lambda net: by_autograd(sum_of_image_losses(net)),
    "compile": lambda net: gradient(torch.compile(net, backend="aot_eager", fullgraph=True)),
    "compile(grad)": lambda net: eager(func.grad(lambda x: loss(net, x)))(PIXELS),
    "compiled in parts": compiled_in_parts,
    "checkpoint": lambda net: checkpointed(net, False),
    "re-entrant checkpoint": lambda net: checkpointed(net, True),
    "DataParallel without GPUs": lambda net: gradient(nn.DataParallel(net)),
    "replicas": in_replicas,
    "deepcopy": lambda net: gradient(copy.deepcopy(net)),
    "jit.trace": lambda net: gradient(torch.jit.trace(net, PIXELS, check_trace=False)),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_gradient_is_scaled_whoever_takes_it(kind, way):
    if "compile" in way and OLD:
        pytest.skip("this torch may crash where hooks come and go in compiled code")
    network, expected = small(), gradient(twin(kind))
    with hooked(register(network, kind)):
        assert_same(kind, WAYS[way](network), expected)
    assert torch.equal(input_gradient(network, PIXELS), gradient(small()))


@pytest.mark.skipif(OLD, reason="refused there, see the next test")
def test_code_that_was_compiled_notices_hooks_that_come_change_and_go(kind):
    network, plain = small(), gradient(small())
    function = eager(lambda pixels: loss(network, pixels))
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):  # as it is by default
        assert torch.equal(by_autograd(function), plain)
        for gamma in (0.9, GAMMA):
            with hooked(register(network, kind, gamma)):
                ours = by_autograd(function)
                assert_same(kind, ours, gradient(network))
        assert_same(kind, ours, gradient(twin(kind)))
        assert torch.equal(by_autograd(function), plain)


def test_old_torch_that_has_compiled_code_takes_no_hooks(kind, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.8.0+cpu")
    for handle in register(small(), kind):
        handle.remove()
    monkeypatch.setitem(torch._dynamo.utils.counters, "frames", {"total": 1})
    with pytest.raises(ValueError, match=r"torch 2\.8\.0\+cpu may crash .* torch 2\.12 or newer"):
        register(small(), kind)


def test_autocast_scales_in_its_precision(kind, network):
    networks = network.float(), twin(kind).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, expected = (input_gradient(each, PIXELS.float()) for each in networks)
    similar = nn.functional.cosine_similarity(ours.flatten(), expected.flatten(), 0)
    assert similar > 0.9999  # the plain gradient's is 0.993


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_without_gradients_answers_are_the_same(network, off):
    plain = small()(PIXELS)
    with off():
        assert torch.equal(network(PIXELS), plain)
        assert torch.equal(func.vmap(lambda x: network(x[None])[0])(PIXELS), plain)


def test_registering_where_no_gradient_is_possible_is_an_error():
    with torch.inference_mode(), pytest.raises(ValueError, match="no gradient goes through"):
        register(small(), "branch")


@pytest.mark.skipif(OLD, reason="torch exports otherwise there")
def test_exported_network_has_the_plain_gradient_as_the_page_warns():
    network, plain = small(), gradient(small())
    register(network, "branch")
    torch.testing.assert_close(gradient(torch.export.export(network, (PIXELS,)).module()), plain)


def penalty(network):
    """The second derivative, of the squared gradient."""
    pixels = PIXELS.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(network, pixels), pixels, create_graph=True)
    return torch.autograd.grad(first.square().sum(), pixels)[0]


def nested(network):
    first = func.grad(lambda x: loss(network, x))
    return func.grad(lambda x: first(x).square().sum())(PIXELS)


@pytest.mark.parametrize("second", [penalty, nested])
def test_second_derivatives_are_those_of_scaled_branches(kind, network, second):
    assert_same(kind, second(network), penalty(twin(kind)))


def dual(network):
    with forward_ad.dual_level():
        network(forward_ad.make_dual(PIXELS, PIXELS))


REFUSED = {
    "func.jvp": (lambda net: func.jvp(net, (PIXELS,), (PIXELS,)), NotImplementedError, "forward"),
    "func.jacfwd": (lambda net: func.jacfwd(net)(PIXELS), NotImplementedError, "forward"),
    "dual numbers": (dual, NotImplementedError, "forward mode"),
    "compile(vmap)": (
        lambda net: eager(func.vmap(func.grad(image_loss(net))))(PIXELS, LABELS),
        Exception,
        "vmap",
    ),
    "pickle": (pickle.dumps, AttributeError, "local object"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_does_not_work_is_an_error(network, way):
    function, error, message = REFUSED[way]
    with pytest.raises(error, match=message):
        function(network)


def test_copy_keeps_its_hooks_when_those_of_the_network_come_off(kind):
    network = small()
    with hooked(register(network, kind)):
        other = copy.deepcopy(network)
    assert_same(kind, gradient(other), gradient(twin(kind)))


def test_state_dict_is_as_before_and_nothing_stays_when_hooks_come_off(kind):
    network, untouched = small(), small()
    with hooked(register(network, kind)):
        assert list(network.state_dict()) == list(untouched.state_dict())
    for module, other in zip(network.modules(), untouched.modules(), strict=True):
        assert vars(module).keys() == vars(other).keys()
        assert not {**module._forward_hooks, **module._backward_hooks}
