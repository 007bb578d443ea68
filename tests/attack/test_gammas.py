"""Published gammas: the numbers are those of the papers and of the repositories that are cited."""

import pytest

from suite.attack.gammas import UNKNOWN, chosen_gammas, published_gamma


@pytest.mark.parametrize(
    ("arch", "num_steps", "gamma", "where"),
    [
        ("resnet152", 10, 0.2, "ICLR 2020"),
        ("torchvision/resnet18@IMAGENET1K_V1", 10, 0.2, "ICLR 2020"),
        ("timm/resnet50.a1_in1k", 2, 0.2, "ICLR 2020"),
        ("resnet34", 1, 0.5, "ICLR 2020"),
        ("densenet201", 10, 0.5, "ICLR 2020"),
        ("torchvision/densenet121", 1, 0.7, "ICLR 2020"),
        ("timm/convnext_base.fb_in22k_ft_in1k", 100, 0.2, "TA-Bench"),
        ("timm/deit3_base_patch16_224.fb_in1k", 100, 0.2, "TA-Bench"),
        ("timm/beit_base_patch16_224", 100, 0.4, "TA-Bench"),
        ("timm/tf_efficientnetv2_m.in21k_ft_in1k", 100, 0.1, "TA-Bench"),
        ("timm/swin_base_patch4_window7_224.ms_in1k", 100, 0.4, "TA-Bench"),
        ("timm/vit_base_patch16_224.augreg_in1k", 10, 0.6**0.5, "TPAMI 2026"),
        ("timm/mixer_b16_224", 10, 0.6**0.5, "TPAMI 2026"),
        ("tpami/mixer_b16_224", 10, 0.6**0.5, "TPAMI 2026"),
        ("jpeg:75+bits+resnet152", 10, 0.2, "ICLR 2020"),
        ("inceptionv3", 10, 0.6, r"--branches 'Mixed.*\.bn'"),
        ("timm/vit_base_patch16_224", 1, UNKNOWN, "nothing is published"),
        ("efficientnet_lite0", 10, UNKNOWN, "nothing is published"),
        ("cifar10/resnet20", 10, UNKNOWN, "nothing is published"),
        ("resnet18.py:make", 10, UNKNOWN, "nothing is published"),
    ],
)
def test_published_gamma(arch, num_steps, gamma, where):
    found, origin = published_gamma(arch, num_steps)
    assert found == pytest.approx(gamma, abs=5e-4)
    assert where in origin


def test_each_source_has_its_own():
    archs = ["resnet50", "densenet201"]
    gammas, origins = chosen_gammas(["auto"], archs, 10)
    assert (gammas, len(origins)) == ([0.2, 0.5], 2)
    assert chosen_gammas(["auto", 0.9], archs, 1)[0] == [0.5, 0.9]
    assert chosen_gammas([0.3], archs, 10) == ([0.3, 0.3], [])
