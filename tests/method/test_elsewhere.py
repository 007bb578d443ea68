"""SGM in other people's code: each row of docs/elsewhere.md has its test here."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

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


def same(z):
    return z


class Block(nn.Module):
    """A residual block as torchvision's, and where autograd itself scales gradients in a twin."""

    def __init__(self, after_branch, after_relu):
        super().__init__()
        self.conv1, self.conv2, self.relu = conv(), conv(), nn.ReLU(inplace=True)
        self.after_branch, self.after = after_branch, after_relu

    def forward(self, z):
        out = self.after_branch(self.conv2(self.after(self.relu(self.conv1(z)))))
        out = out + z
        return self.after(self.relu(out))


class Small(nn.Module):
    """A network with the names of torchvision's ResNets; of its blocks, layer1.0 is left out."""

    def __init__(self, after_branch=same, after_relu=same):
        super().__init__()
        self.conv, self.relu, self.after = conv(), nn.ReLU(), after_relu
        blocks = Block(after_branch, same), Block(after_branch, after_relu)
        self.layer1, self.fc = nn.Sequential(*blocks), nn.Linear(144, 5)
        self.reentrant = None

    def forward(self, pixels):
        z = self.after(self.relu(self.conv(pixels)))
        if self.reentrant is None:
            z = self.layer1(z)
        else:
            z = checkpoint(self.layer1, z, use_reentrant=self.reentrant)
        return self.fc(z.flatten(1))


def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().double().eval()


def twin(kind: str) -> nn.Module:
    torch.manual_seed(0)
    where = {"branch": {"after_branch": scaled}, "relu": {"after_relu": scaled}}[kind]
    return Small(**where).double().eval()


def register(network: nn.Module, kind: str) -> list:
    return register_sgm(network, "resnet18", GAMMA, kind, (4, 6, 6))


def loss(network, pixels, labels=LABELS):
    return nn.functional.cross_entropy(network(pixels), labels, reduction="sum")


def image_loss(network):
    return lambda pixels, label: loss(network, pixels[None], label[None])


def by_autograd(function, pixels=PIXELS):
    pixels = pixels.clone().requires_grad_()
    return torch.autograd.grad(function(pixels), pixels)[0]


def gradient(network):
    return by_autograd(lambda pixels: loss(network, pixels))


def assert_same(kind, ours, expected):
    """The released hooks divide by standard deviations, so that only the directions are equal."""
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
    network.reentrant = reentrant
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
            for name, child in module._modules.items():
                other._modules[name] = copies[child]
            for name, parameter in module._parameters.items():
                other._parameters[name] = parameter.clone()
        return copies[network]

    def part(k):
        return by_autograd(lambda x: loss(replicas[k], x, LABELS[k, None]), PIXELS[k, None])

    replicas = [replica(), replica()]
    with ThreadPoolExecutor() as threads:
        return torch.cat(list(threads.map(part, range(2))))


WAYS = {
    "autograd.grad": gradient,
    "backward": lambda net: input_gradient(net, PIXELS),
    "func.grad": lambda net: func.grad(lambda x: loss(net, x))(PIXELS),
    "func.vjp": lambda net: func.vjp(lambda x: loss(net, x), PIXELS)[1](PIXELS.new_ones(()))[0],
    "func.jacrev": lambda net: func.jacrev(lambda x: loss(net, x))(PIXELS),
    "functional_call": through_parameters,
    "vmap(grad)": lambda net: func.vmap(func.grad(image_loss(net)))(PIXELS, LABELS),
    "grad(vmap)": lambda net: func.grad(lambda x: func.vmap(image_loss(net))(x, LABELS).sum())(
        PIXELS
    ),
    "autograd of vmap": lambda net: by_autograd(
        lambda x: func.vmap(image_loss(net))(x, LABELS).sum()
    ),
    "compile": lambda net: gradient(torch.compile(net, backend="aot_eager", fullgraph=True)),
    "compile(grad)": lambda net: torch.compile(func.grad(lambda x: loss(net, x)), backend="eager")(
        PIXELS
    ),
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
    network, expected = small(), gradient(twin(kind))
    with hooked(register(network, kind)):
        assert_same(kind, WAYS[way](network), expected)
    assert torch.equal(input_gradient(network, PIXELS), gradient(small()))


def test_code_that_was_compiled_notices_hooks_that_come_change_and_go(kind):
    network, plain = small(), gradient(small())
    function = torch.compile(lambda pixels: loss(network, pixels), backend="eager")
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):  # as it is by default
        assert torch.equal(by_autograd(function), plain)
        for gamma in (0.9, GAMMA):
            with hooked(register_sgm(network, "resnet18", gamma, kind, (4, 6, 6))):
                ours = by_autograd(function)
                assert_same(kind, ours, gradient(network))
        assert_same(kind, ours, gradient(twin(kind)))
        assert torch.equal(by_autograd(function), plain)


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
def test_second_derivatives_are_those_of_scaled_branches(second):
    network = small()
    register(network, "branch")
    torch.testing.assert_close(second(network), penalty(twin("branch")))


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
def test_second_derivatives_of_released_hooks_are_those_of_torchs_legacy_hooks():
    network, oracle = small(), small()
    register(network, "relu")
    for relu in (oracle.relu, oracle.layer1[1].relu):
        relu.register_backward_hook(lambda _, grads, __: (GAMMA * grads[0],))
    for block in oracle.layer1:
        block.register_backward_hook(lambda _, grads, __: (grads[0] / grads[0].std(),))
    torch.testing.assert_close(penalty(network), penalty(oracle))


def dual(network):
    with forward_ad.dual_level():
        network(forward_ad.make_dual(PIXELS, PIXELS))


REFUSED = {
    "func.jvp": (lambda net: func.jvp(net, (PIXELS,), (PIXELS,)), NotImplementedError, "forward"),
    "func.jacfwd": (lambda net: func.jacfwd(net)(PIXELS), NotImplementedError, "forward"),
    "dual numbers": (dual, NotImplementedError, "forward mode"),
    "compile(vmap)": (
        lambda net: torch.compile(func.vmap(func.grad(image_loss(net))), backend="eager")(
            PIXELS, LABELS
        ),
        Exception,
        "vmap",
    ),
    "pickle": (pickle.dumps, AttributeError, "pickle local object"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_does_not_work_is_an_error(network, way):
    function, error, message = REFUSED[way]
    with pytest.raises(error, match=message):
        function(network)


def test_compiled_part_is_refused(kind):
    network = small()
    network.layer1[0] = torch.compile(network.layer1[0], backend="eager")
    with pytest.raises(ValueError, match="compile parts by .compile"):
        register(network, kind)


def test_weights_of_a_hooked_network_are_saved_as_before(network):
    assert list(network.state_dict()) == list(small().state_dict())


def test_copy_keeps_its_hooks_when_those_of_the_network_come_off(kind):
    network = small()
    with hooked(register(network, kind)):
        other = copy.deepcopy(network)
    assert_same(kind, gradient(other), gradient(twin(kind)))


def test_network_is_left_as_it_was(kind):
    network = small()
    before = {name: sorted(vars(module)) for name, module in network.named_modules()}
    with hooked(register(network, kind)):
        pass
    after = {name: sorted(vars(module)) for name, module in network.named_modules()}
    assert after == before
    assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())
    assert torch.equal(gradient(network), gradient(small()))
