from functools import partial

import pytest
import torch
import torchvision
from blocks import GAMMA, JOINS, NETWORKS, PLUS, Net, assert_scaled_as_by_autograd, classifier
from conftest import calibrated, hooked, input_gradient
from torch import nn

from branches import residual_branches, trace_connections
from suite.networks.classifier import Classifier, load_model
from utils_sgm import register_hook_for_branches, register_sgm


def built(name: str) -> Classifier:
    """Return a network without numbers: where its branches are, its operations alone tell."""
    import pretrainedmodels.models  # noqa: F401  whose ResNeXt is built when it is imported

    with_numbers = name in ("torchvision/regnet_y_400mf", "resnext101_32x4d")
    with torch.device("cpu" if with_numbers else "meta"):
        return load_model(name, pretrained=False)


# Counted from the networks' definitions: blocks whose skip carries every value. The branches'
# number, the first one's module and the last one's.
TABLE = """
resnet18 5 layer1.0.bn2 layer4.1.bn2
resnet34 13 layer1.0.bn2 layer4.2.bn2
resnet50 12 layer1.1.bn3 layer4.2.bn3
resnet101 29 layer1.1.bn3 layer4.2.bn3
resnet152 46 layer1.1.bn3 layer4.2.bn3
densenet121 6+12+24+16
    features.denseblock1.denselayer1.conv2 features.denseblock4.denselayer16.conv2
densenet201 6+12+48+32
    features.denseblock1.denselayer1.conv2 features.denseblock4.denselayer32.conv2
senet154 2+7+35+2 layer1.1.se_module layer4.2.se_module
se_resnext50_32x4d 12 layer1.1.se_module layer4.2.se_module
resnext101_32x4d 29 features.4.1.0.0.2 features.7.2.0.0.2
inceptionresnetv2 10+20+9+1 repeat.0.conv2d block8.conv2d
dpn92 2+3+19+2 features.conv2_2.c1x1_c.conv features.conv5_3.c1x1_c.conv
xception 8 block4.rep.8 block11.rep.8
polynet 10*2+10*(3+2)+5*(3+2) stage_a.0.blocks.0.conv2d.bn stage_c.9.blocks.1.conv2d.bn
torchvision/mobilenet_v2 1+2+3+2+2 features.3.conv.3 features.16.conv.3
torchvision/swin_t 2*(2+2+6+2) features.1.0.attn features.7.1.mlp.3
torchvision/convnext_tiny 3+3+9+3 features.1.0.stochastic_depth features.7.2.stochastic_depth
torchvision/regnet_y_400mf 0+2+5+5
    trunk_output.block2.block2-1.f.c.1 trunk_output.block4.block4-5.f.c.1
torchvision/maxvit_t 4*(2+2+5+2)+(1+1+4+1)
    blocks.0.layers.0.layers.window_attention.attn_layer.1.merge
    blocks.3.layers.1.layers.grid_attention.mlp_layer.3
timm/vit_base_patch16_224 2*12 blocks.0.attn.proj blocks.11.mlp.fc2
timm/swin_tiny_patch4_window7_224 2*(2+2+6+2) layers.0.blocks.0.drop_path1 layers.3.blocks.1.mlp.fc2
timm/deit_tiny_patch16_224 2*12 blocks.0.attn.proj blocks.11.mlp.fc2
timm/mixer_b16_224 2*12 blocks.0.mlp_tokens.fc2 blocks.11.mlp_channels.fc2
timm/convnext_tiny 18 stages.0.blocks.0.drop_path stages.3.blocks.2.drop_path
timm/tf_efficientnet_lite0 1+1+2+2+3 blocks.1.1.bn3 blocks.5.3.bn3
timm/convit_tiny 2*12 blocks.0.attn.proj blocks.11.mlp.fc2
timm/mobilevit_s 2+2*(2+4+3)+3 stages.1.1.conv3_1x1.bn stages.4.1.conv_proj.bn.act
timm/res2net50_14w_8s 12*(6+1) layer1.1.bns.1 layer4.2.bn3
cifar10/resnet56 9+8+8 layer1.0.bn2 layer3.8.bn2
cifar10/resnet20 3+2+2 layer1.0.bn2 layer3.2.bn2
timm/inception_resnet_v2 10+20+9+1 repeat.0.conv2d block8.conv2d
"""
# PolyNet has stages of 2-way blocks, of 3-way and 2-way in turn, and the same again; MobileViT two
# inverted residuals, nine transformer blocks and three concatenations with the input; and Res2Net
# twelve blocks with an identity skip, in each of which six of seven layers follow another one.
COLUMNS = (TABLE.split()[n::4] for n in range(4))
BRANCHES = {name: expected for name, *expected in zip(*COLUMNS, strict=True)}


@pytest.mark.parametrize("name", BRANCHES)
def test_branches_of_known_networks(name):
    model, (count, first, last) = built(name), BRANCHES[name]
    found = [branch.module for branch in residual_branches(model.network, model.input_size)]
    assert len(found) == len(set(found)) == eval(count)
    assert (found[0], found[-1]) == (first, last)


@pytest.mark.parametrize(
    "name",
    ["vgg16_bn", "alexnet", "squeezenet1_1", "inceptionv4", "torchvision/shufflenet_v2_x0_5"],
)
def test_networks_without_skip_connections_have_no_branches(name):
    model = built(name)
    assert trace_connections(model.network, model.input_size) == []


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("join", JOINS)
def test_gradient_is_the_one_of_a_network_with_scaled_branches(network, join):
    function, modules = NETWORKS[network]
    assert_scaled_as_by_autograd(partial(Net, function), modules, JOINS[join])


class Dense(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch
        self.layers = nn.ModuleList(nn.Conv2d(4 + 2 * n, 2, 3, padding=1) for n in range(3))
        self.transition = nn.Conv2d(10, 4, 1)

    def forward(self, z):
        features = [z]
        for layer in self.layers:
            features.append(self.branch(layer(torch.relu(torch.cat(features, 1)))))
        return self.transition(torch.cat(features, 1))


def res2net(net, z, branch):
    """Part of the channels feeds the next part's layer, and both are concatenated."""
    first, second = z.chunk(2, 1)
    first = net.of_two(first)
    return torch.cat([first, branch(net.of_other_two(first + second))], 1)


@pytest.mark.parametrize(("network", "modules"), [(Dense, 3), (partial(Net, res2net), 1)])
def test_dense_connections_are_scaled_once(network, modules):
    assert_scaled_as_by_autograd(network, modules)


def no_skip(net, z, _):
    """What looks like a residual and is none: two layered paths, gating, positions, a mask."""
    z = net.f(z) + net.g(z)
    z = z * torch.sigmoid(net.g(z)) + net.gamma
    return z + torch.zeros_like(z) + net.g(z).detach() + (z > 0).float()


def test_additions_without_a_skip_connection_are_left_alone():
    connections = trace_connections(classifier(Net(no_skip)), (3, 6, 6))
    assert [(c.kind, c.residual, c.module, c.place) for c in connections] == [
        ("addition", False, None, "1")
    ]


def untied(net, z, _):
    """The branch comes from a module that is called elsewhere too."""
    z = net.f(z)
    return z + net.f(z)


def test_branch_of_no_module_is_not_guessed_at(caplog):
    network = classifier(Net(untied))
    assert residual_branches(network, (3, 6, 6)) == []
    assert "left out 1 of 1 residual branches" in caplog.text
    with pytest.raises(ValueError, match="gamma would do nothing"):
        register_hook_for_branches(network, GAMMA, (3, 6, 6))


def test_modules_can_be_named_by_hand():
    network = classifier(Net(NETWORKS["two terms"][0], PLUS))
    pixels = torch.rand(2, 3, 6, 6, dtype=torch.double)
    with hooked(register_sgm(network, "mine", GAMMA, branches=r"1\.[fg]")) as handles:
        by_hand = input_gradient(network, pixels)
    assert len(handles) == 2
    register_sgm(network, "mine", GAMMA, input_size=(3, 6, 6))
    assert torch.equal(input_gradient(network, pixels), by_hand)
    with pytest.raises(ValueError, match="no module has a name that matches 'x'"):
        register_sgm(network, "mine", GAMMA, branches="x")


def test_network_is_left_as_it_was():
    network = torchvision.models.resnet18()
    network.layer1.eval()
    network.fc.requires_grad_(False)
    before = [module.training for module in network.modules()]
    statistics = network.bn1.running_mean.clone()
    residual_branches(network, (3, 32, 32))
    assert [module.training for module in network.modules()] == before
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert frozen == ["fc.weight", "fc.bias"]
    assert torch.equal(network.bn1.running_mean, statistics)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize(
    ("arch", "left_out_of_released"),
    [
        ("resnet18", "layer1.0.bn2"),
        ("resnet50", None),
        ("resnet101", r"layer3\.[12]0.bn3"),
        ("densenet121", None),
    ],
)
def test_released_hooks_agree_with_the_formula(arch, left_out_of_released):
    """They do but for the blocks that the released code leaves out because of their names."""
    model = calibrated(torchvision.models.get_model(arch)).double()
    pixels = torch.rand(2, 3, 32, 32, dtype=torch.double)
    with hooked(register_sgm(model, arch, 0.4, "relu")):
        released = input_gradient(model, pixels)
    everywhere = "|".join(b.module for b in residual_branches(model, (3, 32, 32)))
    if left_out_of_released:
        with hooked(register_hook_for_branches(model, 0.4, branches=everywhere)):
            assert not input_gradient(model, pixels).sign().equal(released.sign())
        everywhere = f"(?!{left_out_of_released})({everywhere})"
    register_hook_for_branches(model, 0.4, branches=everywhere)
    formula = input_gradient(model, pixels)
    assert formula.sign().equal(released.sign())
    cosine = nn.functional.cosine_similarity(formula.flatten(), released.flatten(), 0)
    assert cosine == pytest.approx(1, abs=1e-12)
