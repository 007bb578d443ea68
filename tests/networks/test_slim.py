import re

import numpy as np
import pytest
import torch
from slim_variables import SCOPES, empty_network, variable_names, variables_of

from suite.networks import slim


@pytest.fixture(scope="module")
def v3():
    return variables_of("inception_v3")


@pytest.fixture(scope="module")
def state(v3):
    return slim.convert_variables(v3, "inception_v3")


@pytest.mark.parametrize("architecture", slim.ARCHITECTURES)
def test_each_parameter_comes_from_one_variable_and_each_variable_is_used(architecture):
    names = variable_names(architecture)
    assert len(set(names.values())) == len(names)
    model = empty_network(architecture)
    for key in model.state_dict().keys() - set(names.values()):
        assert key.endswith((".bn.weight", ".bn.num_batches_tracked"))
    variables = variables_of(architecture)
    assert slim.guess_architecture(variables) == architecture
    state = slim.convert_variables(variables, architecture)
    model.load_state_dict(state, assign=True)  # strict, also about shapes
    for name, key in names.items():
        values = variables[SCOPES[architecture] + name]
        kept = values[..., 1:] if name.startswith("Logits/") else values
        assert np.isclose(state[key].double().sum(), kept.sum(dtype=float)), name


PLACES = {
    "inception_v3": """
        Conv2d_4a_3x3/BatchNorm/beta Conv2d_4a_3x3.bn.bias
        Mixed_5c/Branch_1/Conv_1_0c_5x5/weights Mixed_5c.branch5x5_2.conv
        Mixed_5d/Branch_3/Conv2d_0b_1x1/weights Mixed_5d.branch_pool.conv
        Mixed_6a/Branch_0/Conv2d_1a_1x1/weights Mixed_6a.branch3x3.conv
        Mixed_6a/Branch_1/Conv2d_1a_1x1/weights Mixed_6a.branch3x3dbl_3.conv
        Mixed_6d/Branch_2/Conv2d_0c_1x7/weights Mixed_6d.branch7x7dbl_3.conv
        Mixed_7a/Branch_1/Conv2d_1a_3x3/weights Mixed_7a.branch7x7x3_4.conv
        Mixed_7b/Branch_1/Conv2d_0b_3x1/weights Mixed_7b.branch3x3_2b.conv
        Mixed_7c/Branch_1/Conv2d_0c_3x1/weights Mixed_7c.branch3x3_2b.conv
        Logits/Conv2d_1c_1x1/biases fc.bias
    """,
    "inception_v4": """
        Mixed_3a/Branch_1/Conv2d_0a_3x3/weights features.3.conv.conv
        Mixed_5e/Branch_3/Conv2d_0b_1x1/weights features.9.branch3.1.conv
        Mixed_6h/Branch_2/Conv2d_0d_7x1/weights features.17.branch2.3.conv
        Mixed_7d/Branch_2/Conv2d_0e_3x1/weights features.21.branch2_3b.conv
        Mixed_7a/Branch_0/Conv2d_1a_3x3/BatchNorm/moving_mean features.18.branch0.1.bn.running_mean
        Logits/Logits/weights last_linear
    """,
    "inception_resnet_v2": """
        Repeat/block35_10/Branch_2/Conv2d_0c_3x3/BatchNorm/moving_variance
        repeat.9.branch2.2.bn.running_var
        Repeat_1/block17_1/Conv2d_1x1/biases repeat_1.0.conv2d.bias
        Mixed_7a/Branch_2/Conv2d_1a_3x3/weights mixed_7a.branch2.2.conv
        Repeat_2/block8_9/Conv2d_1x1/weights repeat_2.8.conv2d
        Block8/Branch_0/Conv2d_1x1/weights block8.branch0.conv
        Conv2d_7b_1x1/weights conv2d_7b.conv
    """,
}


@pytest.mark.parametrize("architecture", PLACES)
def test_variables_go_to_the_layers_that_slim_means(architecture):
    names = variable_names(architecture)
    places = PLACES[architecture].split()
    for variable, key in zip(places[::2], places[1::2], strict=True):
        assert names[variable] in (key, f"{key}.weight")
        assert (names[variable] == key) != variable.endswith("/weights")


@pytest.mark.parametrize("architecture", slim.ARCHITECTURES)
def test_kernels_are_those_in_the_names(architecture):
    state = empty_network(architecture).state_dict()
    for name, key in variable_names(architecture).items():
        layer = name.removesuffix("/weights")
        if layer == name or layer.startswith("Logits/"):
            continue
        height, width = layer[-3:].split("x")
        called_1x1 = layer.startswith("Mixed_6a") and layer.endswith("Conv2d_1a_1x1")
        expected = (3, 3) if called_1x1 else (int(height), int(width))
        assert tuple(state[key].shape[2:]) == expected, name


def test_convolutions_weights_are_transposed(v3, state):
    weights = v3["InceptionV3/Mixed_6b/Branch_1/Conv2d_0b_1x7/weights"]
    pixels = np.random.default_rng(1).random((1, 7, weights.shape[2]), dtype=np.float32)
    expected = np.einsum("hwi,hwio->o", pixels, weights)
    ours = torch.nn.functional.conv2d(
        torch.from_numpy(pixels).permute(2, 0, 1)[None], state["Mixed_6b.branch7x7_2.conv.weight"]
    )
    np.testing.assert_allclose(ours.flatten().numpy(), expected, rtol=1e-4)


def test_background_class_is_dropped(v3, state):
    v4 = variables_of("inception_v4")
    for variables, converted, layer, key in (
        (v3, state, "InceptionV3/Logits/Conv2d_1c_1x1", "fc"),
        (
            v4,
            slim.convert_variables(v4, "inception_v4"),
            "InceptionV4/Logits/Logits",
            "last_linear",
        ),
    ):
        weights = variables[f"{layer}/weights"].reshape(-1, 1001)
        assert np.array_equal(converted[f"{key}.weight"].numpy(), weights.T[1:])
        assert np.array_equal(converted[f"{key}.bias"].numpy(), variables[f"{layer}/biases"][1:])


@pytest.mark.parametrize("scope", ["", "model/InceptionV3/", "Ens3AdvInceptionV3/Logits/"])
def test_scope_may_have_any_name(v3, state, scope):
    renamed = {re.sub("^InceptionV3/", scope, name): array for name, array in v3.items()}
    assert slim.guess_architecture(renamed) == "inception_v3"
    converted = slim.convert_variables(renamed, "inception_v3")
    assert all(torch.equal(converted[key], state[key]) for key in state)


def test_wrong_variables_are_listed(v3):
    wrong = dict(v3)
    missing = "InceptionV3/Mixed_6c/Branch_0/Conv2d_0a_1x1/BatchNorm/beta"
    del wrong[missing]
    wrong["InceptionV3/Mixed_6c/Branch_0/Conv2d_0a_1x1/BatchNorm/gamma"] = np.ones(192)
    wrong["elsewhere/weights"] = np.ones(3)
    wrong["InceptionV3/Logits/Conv2d_1c_1x1/biases"] = np.ones(1000)
    with pytest.raises(ValueError, match="not those of inception_v3") as error:
        slim.convert_variables(wrong, "inception_v3")
    text = str(error.value)
    assert "inception_v3: InceptionV3/Logits/Conv2d_1c_1x1/biases is 1000, not 1001; " in text
    assert f"; missing {missing}; unexpected InceptionV3/" in text
    assert text.endswith("BatchNorm/gamma, elsewhere/weights")


def test_files_without_exactly_one_network_are_refused(v3):
    with pytest.raises(ValueError, match="not an Inception of TF-Slim"):
        slim.guess_architecture({"resnet_v2_101/conv1/weights"})
    with pytest.raises(ValueError, match="in the scopes InceptionV3/ and Other/"):
        slim.convert_variables(v3 | {"Other/Conv2d_1a_3x3/weights": np.ones(1)}, "inception_v3")


def test_pools_leave_the_padding_out_and_batch_norms_have_slims_epsilon():
    network = slim.slim_network("inception_v3")
    block, seen = network.Mixed_5b, []
    hook = block.branch_pool.conv.register_forward_hook(lambda *call: seen.append(call[1][0]))
    block(torch.ones(1, 192, 5, 5))
    hook.remove()
    torch.testing.assert_close(seen[0], torch.ones(1, 192, 5, 5))
    for architecture in slim.ARCHITECTURES:
        network = empty_network(architecture)
        assert not network.training
        for module in network.modules():
            assert getattr(module, "eps", 1e-3) == 1e-3
            assert not getattr(module, "count_include_pad", False)
