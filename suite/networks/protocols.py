"""The papers' protocols: their sources, their targets, and how their code feeds the networks.

All is read from the authors' code: repository and commit stand beside each list. A tag names the
weights that the timm of that time took for a name without one.
"""

from collections.abc import Iterable

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
# TA-Bench's targets: the tag of timm's weights, and the crop_pct by which get_transforms enlarges
# images, with this interpolation, before it crops the margin off again.
_CROPPED = {
    "tv_resnet50": ("tv_in1k", 0.875, "bilinear"),
    "inception_v3": ("tv_in1k", 0.875, "bicubic"),
    "vgg19_bn": ("tv_in1k", 0.875, "bilinear"),
    "convnext_base": ("fb_in1k", 0.875, "bicubic"),
    "vit_base_patch16_224": ("augreg_in21k_ft_in1k", 0.9, "bicubic"),
    "deit3_base_patch16_224": ("fb_in1k", 0.9, "bicubic"),
    "beit_base_patch16_224": ("in22k_ft_in22k_in1k", 0.9, "bicubic"),
    "swin_base_patch4_window7_224": ("ms_in22k_ft_in1k", 0.9, "bicubic"),
    "mixer_b16_224": ("goog_in21k_ft_in1k", 0.875, "bicubic"),
    "tf_efficientnetv2_m": ("in1k", 1.0, "bicubic"),
}
# Networks as a protocol's code feeds them: another network, with these fields of its `NetworkSpec`.
FED = {
    # wrap_model: mean and std 0.5 at 299, though torchvision's weights expect ImageNet's.
    "transferattack/inception_v3": ("torchvision/inception_v3@IMAGENET1K_V1", HALF),
    **{
        f"ta-bench/{name}": (
            f"timm/{name.removeprefix('tv_')}.{tag}",
            {"crop_pct": crop_pct, "interpolation": mode},
        )
        for name, (tag, crop_pct, mode) in _CROPPED.items()
    },
    # attack_sgm.py and evaluate_all.py: ImageNet's mean and std, though these expect 0.5.
    "tpami/vit_base_patch16_224": ("timm/vit_base_patch16_224.orig_in21k_ft_in1k", IMAGENET),
    "tpami/mixer_b16_224": ("timm/mixer_b16_224.goog_in21k_ft_in1k", IMAGENET),
    "tpami/tnt_s_patch16_224": ("timm/tnt_s_patch16_224.in1k", IMAGENET),
}
_TARGETS = {
    # Wu et al., ICLR 2020, section 4: undefended networks and secured ones.
    "paper": """
        vgg19_bn resnet152 densenet201 senet154 inc_v3 inc_v4 incres_v2
        inc_v3_ens3 inc_v3_ens4 incres_v2_ens
    """,
    # Trustworthy-AI-Group/TransferAttack, 0f240a1, transferattack/utils.py: torchvision's DEFAULT,
    # the newest weights, and timm's tags as of today, for its version is not fixed there.
    "transferattack": """
        torchvision/resnet50@IMAGENET1K_V2 torchvision/vgg16@IMAGENET1K_V1
        torchvision/mobilenet_v2@IMAGENET1K_V2 transferattack/inception_v3
        timm/vit_base_patch16_224.augreg2_in21k_ft_in1k timm/pit_b_224.in1k
        timm/visformer_small.in1k timm/swin_tiny_patch4_window7_224.ms_in1k
    """,
    # qizhangli/TA-Bench, 3b9c59b, evaluation.py; timm 0.6.11.
    "ta-bench": " ".join(f"ta-bench/{name}" for name in _CROPPED),
    # mo666666/SGM, babfde6, evaluate_all.py; timm 0.6.13.
    "tpami": """
        vgg16_bn vgg19_bn resnet152 densenet201 senet154
        timm/convit_base.fb_in1k tpami/tnt_s_patch16_224 timm/visformer_small.in1k
        inceptionv4 inceptionresnetv2
    """,
}
_SOURCES = {
    # csdongxian/skip-connections-matter, 97decc2, attack_sgm.py.
    "paper": """
        resnet18 resnet34 resnet50 resnet101 resnet152
        densenet121 densenet169 densenet201
    """,
    "transferattack": "torchvision/resnet50@IMAGENET1K_V2",
    # configs/sgm.py; sources are not fed with a margin.
    "ta-bench": """
        timm/resnet50.tv_in1k timm/convnext_base.fb_in1k
        timm/vit_base_patch16_224.augreg_in21k_ft_in1k timm/deit3_base_patch16_224.fb_in1k
        timm/beit_base_patch16_224.in22k_ft_in22k_in1k timm/mixer_b16_224.goog_in21k_ft_in1k
        timm/tf_efficientnetv2_m.in1k timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k
    """,
    # attack_sgm.py, with timm 0.4.5 for the ViT; its fourth source, P-DARTS, is in no library.
    "tpami": "tpami/vit_base_patch16_224 tpami/mixer_b16_224 inceptionv3",
}
TARGETS = {name: tuple(networks.split()) for name, networks in _TARGETS.items()}
SOURCES = {name: tuple(networks.split()) for name, networks in _SOURCES.items()}
PROTOCOLS = {name: tuple(dict.fromkeys(SOURCES[name] + TARGETS[name])) for name in TARGETS}


def expand_protocols(
    names: Iterable[str], lists: dict[str, tuple[str, ...]] = TARGETS
) -> list[str]:
    """Return names of networks, each once, with a protocol's name replaced by its list."""
    return list(dict.fromkeys(one for name in names for one in lists.get(name, (name,))))
