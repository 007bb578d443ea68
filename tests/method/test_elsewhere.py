"""SGM in other people's code: each row of docs/elsewhere.md has its test here."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch._dynamo
from blocks import GAMMA
from torch import func, nn
from torch.autograd import forward_ad
from twins import (
    LABELS,
    PIXELS,
    assert_same,
    by_autograd,
    by_backward,
    gradient,
    image_loss,
    loss,
    register,
    small,
    twin,
)

from utils_sgm import register_sgm

KINDS = pytest.mark.parametrize("kind", ["relu", "branch"])


def checkpointed(network, reentrant):
    network.reentrant = reentrant
    return by_backward(network)


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
    "backward": by_backward,
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
@KINDS
@pytest.mark.parametrize("way", WAYS)
def test_gradient_is_scaled_whoever_takes_it(kind, way):
    network, expected = small(), gradient(twin(kind))
    handles = register(network, kind)
    assert_same(kind, WAYS[way](network), expected)
    for handle in handles:
        handle.remove()
    assert torch.equal(by_backward(network), gradient(small()))


@KINDS
def test_code_that_was_compiled_notices_hooks_that_come_change_and_go(kind):
    network, plain = small(), gradient(small())
    function = torch.compile(lambda pixels: loss(network, pixels), backend="eager")
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):  # as it is by default
        assert torch.equal(by_autograd(function), plain)
        for gamma in (0.9, GAMMA):
            handles = register_sgm(network, "resnet18", gamma, kind, (4, 6, 6))
            ours = by_autograd(function)
            assert_same(kind, ours, gradient(network))
            for handle in handles:
                handle.remove()
        assert_same(kind, ours, gradient(twin(kind)))
        assert torch.equal(by_autograd(function), plain)


@KINDS
def test_autocast_scales_in_its_precision(kind):
    network, oracle = small().float(), twin(kind).float()
    register(network, kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, expected = (by_backward(n, PIXELS.float()) for n in (network, oracle))
    similar = nn.functional.cosine_similarity(ours.flatten(), expected.flatten(), 0)
    assert similar > 0.9999  # the plain gradient's is 0.993


@KINDS
@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_without_gradients_answers_are_the_same(kind, off):
    network, plain = small(), small()(PIXELS)
    register(network, kind)
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


@KINDS
@pytest.mark.parametrize("way", REFUSED)
def test_what_does_not_work_is_an_error(kind, way):
    network = small()
    register(network, kind)
    function, error, message = REFUSED[way]
    with pytest.raises(error, match=message):
        function(network)


@KINDS
def test_compiled_part_is_refused(kind):
    network = small()
    network.layer1[0] = torch.compile(network.layer1[0], backend="eager")
    with pytest.raises(ValueError, match="compile parts by .compile"):
        register(network, kind)


@KINDS
def test_weights_of_a_hooked_network_are_saved_as_before(kind):
    network = small()
    register(network, kind)
    assert list(network.state_dict()) == list(small().state_dict())


@KINDS
def test_copy_keeps_its_hooks_when_those_of_the_network_come_off(kind):
    network = small()
    handles = register(network, kind)
    other = copy.deepcopy(network)
    for handle in handles:
        handle.remove()
    assert_same(kind, gradient(other), gradient(twin(kind)))


@KINDS
def test_network_is_left_as_it_was(kind):
    network = small()
    before = {name: sorted(vars(module)) for name, module in network.named_modules()}
    for handle in register(network, kind):
        handle.remove()
    after = {name: sorted(vars(module)) for name, module in network.named_modules()}
    assert after == before
    assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())
    assert torch.equal(gradient(network), gradient(small()))
