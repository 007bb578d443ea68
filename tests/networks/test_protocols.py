"""The protocols' lists, and networks as a protocol's code feeds them."""

import csv

import pytest
import timm
import torch
from conftest import ROOT
from timm.data import create_transform
from torch import nn

from suite.networks import catalogue, protocols
from suite.networks.catalogue import network_identity
from suite.networks.classifier import Classifier
from suite.networks.protocols import PROTOCOLS, SOURCES, TARGETS, expand_protocols


def bare(name):
    """Return what a named network's preprocessing makes of pixels: the module is an identity."""
    return Classifier(nn.Identity(), catalogue.find_network(name), None)


@pytest.mark.parametrize("lists", [TARGETS, SOURCES, PROTOCOLS])
@pytest.mark.parametrize("protocol", ["paper", "transferattack", "ta-bench", "tpami"])
def test_lists_have_names_of_networks_with_weights(lists, protocol):
    names = lists[protocol]
    assert len(set(names)) == len(names)
    assert all(catalogue.find_network(name).file for name in names)


def test_protocols_have_as_many_targets_as_their_tables():
    sizes = {name: len(targets) for name, targets in TARGETS.items()}
    assert sizes == {"paper": 10, "transferattack": 8, "ta-bench": 10, "tpami": 10}


def test_published_numbers_are_of_the_protocol_s_networks():
    for file in ("paper", "paper_rerun", "transferattack"):
        with (ROOT / "data" / "published" / f"{file}.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        for column, names in (("source", SOURCES), ("target", TARGETS)):
            known = {network_identity(name) for name in names[file.partition("_")[0]]}
            assert {network_identity(row[column]) for row in rows} <= known


def test_network_without_usable_logits_is_named(run, folder):
    status, out, err = run("load_networks {x}/nets.py:ten", x=folder)
    assert (status, "1 networks, 1 failed" in out) == (1, True)
    assert f"not 1000 finite numbers: {folder}/nets.py:ten" in err


def test_a_protocols_name_stands_for_its_networks_each_once():
    names = expand_protocols(["resnet152", "paper", "own.py:net", "paper"])
    assert names[:2] == ["resnet152", "vgg19_bn"]
    assert names[-1] == "own.py:net"
    assert len(names) == 11


def test_transferattack_feeds_inception_with_mean_and_std_one_half():
    black_and_white = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 299, 299)
    fed = bare("transferattack/inception_v3")(black_and_white)
    assert fed.unique().tolist() == [-1, 1]
    usual = bare("torchvision/inception_v3@IMAGENET1K_V1")(black_and_white)
    assert usual.unique().numel() == 6


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "mixer_b16_224", "tnt_s_patch16_224"])
def test_tpami_feeds_networks_of_one_half_with_imagenets_mean_and_std(name):
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 224, 224)
    assert bare(f"tpami/{name}")(mean).abs().max() < 1e-6


@pytest.mark.parametrize("name", TARGETS["ta-bench"])
@pytest.mark.parametrize("side", [224, 384])
def test_ta_bench_crops_its_victims_margin_as_timm_does(name, side):
    settings = timm.get_pretrained_cfg(protocols.FED[name][0].removeprefix("timm/"))
    keys = ("input_size", "interpolation", "mean", "std", "crop_pct")
    theirs = create_transform(**{key: getattr(settings, key) for key in keys})
    theirs.transforms[0].antialias = False  # as torchvision resized tensors at that time
    pixels = torch.rand(1, 3, side, side)
    torch.testing.assert_close(bare(name)(pixels), theirs(pixels).flatten(1), atol=1e-5, rtol=0)
