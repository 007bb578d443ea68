"""What select_images.py keeps, in which size, and what it leaves behind when interrupted."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import labels_of, pixels_of
from small import label

import select_images
from suite.images import labels
from suite.images.folders import EMBEDDED, list_images
from suite.networks.classifier import load_model
from suite.results import targets

SELECT = "select_images --input-dir {x}/nat --output-dir {x}/kept --arch {x}/nets.py:constant"


@pytest.fixture
def all_right(folder):
    """The folder with the label that the constant network answers to every image."""
    network = load_model(f"{folder}/nets.py:constant")
    answer = network(torch.zeros(1, 3, 32, 32)).argmax(1).item()
    label(folder / "nat", [answer] * 6)
    return folder


@pytest.fixture
def twenty(tmp_path):
    """Twenty of the embedded images, with their labels."""
    (tmp_path / "twenty").mkdir()
    listed = list_images(EMBEDDED)[:20]
    for image in listed:
        shutil.copy(image.path, tmp_path / "twenty")
    rows = [{"filename": image.path.name, "label": image.label} for image in listed]
    labels.write_labels(tmp_path / "twenty", rows)
    return tmp_path / "twenty"


def test_select_keeps_what_every_network_classifies_correctly(succeed, twenty, tmp_path):
    command = "select_images --input-dir {x} --output-dir {out} --json --arch"
    archs = ["efficientnet_lite0", "efficientnet_lite1"]
    kept = {}
    for names in (archs[:1], archs[1:], archs):
        folder = tmp_path / "-".join(names)
        counts = json.loads(succeed(f"{command} {' '.join(names)}", x=twenty, out=folder)[0])
        kept[tuple(names)] = set(labels_of(folder))
        assert counts["read"] == 20
        assert counts["kept"] == len(list(folder.glob("*.png")))
        assert list(counts["correct"]) == names
    assert kept[tuple(archs)] == kept[tuple(archs[:1])] & kept[tuple(archs[1:])]
    assert {pixels.shape for pixels in pixels_of(folder).values()} == {(224, 224, 3)}


def test_select_takes_images_in_a_seeded_order(succeed, tmp_path):
    command = "select_images --data embedded --output-dir {out} --num-images 3 --seed"
    chosen = []
    for batch_size, seed in ((1, 1), (2, 1), (3, 2)):
        folder = tmp_path / f"{batch_size}"
        succeed(f"{command} {seed} --batch-size {batch_size}", out=folder)
        chosen.append(labels_of(folder))
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_and_named_at_the_end(run, all_right, workers):
    (all_right / "nat" / "5.png").write_bytes(b"not a PNG")
    command = f"{SELECT} --size 20 --resize 21 --json --batch-size 1 --workers {workers}"
    status, out, err = run(command, x=all_right)
    assert status == 1
    assert f"skipped: {all_right}/nat/5.png is not a readable image" in err
    assert "error: 1 images were not readable: 5.png" in err.splitlines()[-1]
    assert json.loads(out)["read"] == 5
    kept = all_right / "kept"
    assert {p.shape for p in pixels_of(kept).values()} == {(20, 20, 3)}
    assert [image.name for image in list_images(kept)] == [f"{n}.png" for n in range(5)]


def test_fewer_images_than_asked_for_is_an_error_that_keeps_them(run, twenty, tmp_path):
    command = "select_images --input-dir {x} --output-dir {out} --num-images 21"
    status, out, err = run(command, x=twenty, out=tmp_path / "out")
    kept = len(list((tmp_path / "out").glob("*.png")))
    assert status == 1
    assert f"only {kept} of 21 images" in err
    assert kept == len(labels_of(tmp_path / "out")) > 10


def test_interrupted_selection_is_refused_and_made_anew(run, all_right, monkeypatch):
    def interrupted(folder, rows):
        raise OSError("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(labels, "write_labels", interrupted)
        assert run(f"{SELECT} --num-images 2", x=all_right)[0] == 1
    kept = all_right / "kept"
    status, _, err = run("attack_iter --input-dir {x}/kept --output-dir {x}/adv", x=all_right)
    assert status == 1
    assert f"{kept} is unfinished: the command that wrote it was interrupted" in err
    assert run(f"{SELECT} --num-images 2 --overwrite", x=all_right)[0] == 0
    assert len(list_images(kept)) == 2


def test_selection_that_can_not_begin_deletes_nothing(run, all_right):
    assert run(SELECT, x=all_right)[0] == 0
    before = {file: file.read_bytes() for file in (all_right / "kept").iterdir()}
    status, _, err = run(f"{SELECT} --overwrite --arch resnet51", x=all_right)
    assert status == 1
    assert "resnet51" in err
    assert {file: file.read_bytes() for file in (all_right / "kept").iterdir()} == before


def test_images_of_the_size_are_kept_as_they_are(succeed, all_right):
    _, err = succeed(SELECT, x=all_right)
    assert "6 images had the size already" in err
    before, after = pixels_of(all_right / "nat"), pixels_of(all_right / "kept")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


ALL = "select_images --input-dir {x}/nat --output-dir {x}/kept --all"


def test_images_of_the_size_are_told_from_others_one_by_one(run, folder):
    before = pixels_of(folder / "nat")
    larger = folder / "nat" / "0.png"
    PIL.Image.open(larger).resize((50, 50)).save(larger)
    _, _, err = run(f"{ALL} --size 32 --batch-size 4 --workers 2", x=folder)
    assert "5 images had the size already" in err
    after = pixels_of(folder / "kept")
    assert after.pop("0.png").shape == before.pop("0.png").shape
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_resize_that_is_asked_for_is_made_of_images_of_the_size_too(run, folder):
    _, _, err = run(f"{ALL} --size 32 --resize 40", x=folder)
    assert "had the size already" not in err
    kept = pixels_of(folder / "kept")
    for file in (folder / "nat").glob("*.png"):
        enlarged = PIL.Image.open(file).resize((40, 40), PIL.Image.Resampling.BILINEAR)
        assert np.array_equal(kept[file.name], enlarged.crop((4, 4, 36, 36)))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_whole_images_are_resized_without_a_crop(succeed, folder, mode):
    wide = np.random.default_rng(1).integers(0, 256, (45, 80, 3), np.uint8)
    PIL.Image.fromarray(wide).save(folder / "nat" / "0.png")
    succeed(f"{ALL} --size 24 --whole" + " --bicubic" * (mode == "bicubic"), x=folder)
    for name, pixels in pixels_of(folder / "kept").items():
        picture = PIL.Image.open(folder / "nat" / name)
        assert np.array_equal(pixels, picture.resize((24, 24), PIL.Image.Resampling[mode.upper()]))


def test_all_images_are_kept_with_labels_and_targets_without_a_network(
    succeed, tmp_path, monkeypatch
):
    monkeypatch.setattr(targets, "load_defended", None)  # which loads a network
    command = "select_images --data embedded --output-dir {out} --all --size 64 --json"
    out, _ = succeed(command, out=tmp_path / "all")
    assert json.loads(out) == {"read": 100, "correct": {}, "kept": 100}

    def listed(candidates):
        return {image.name: (image.label, image.target) for image in candidates}

    kept = listed(list_images(tmp_path / "all"))
    assert kept == listed(list_images(EMBEDDED))
    assert None not in {target for _, target in kept.values()}
    succeed(f"{command} --num-images 5 --seed 3", out=tmp_path / "five")
    five = listed(list_images(tmp_path / "five"))
    assert len(five) == 5
    assert five.items() <= kept.items()


def test_all_says_which_images_were_not_readable(run, folder):
    (folder / "nat" / "2.png").write_bytes(b"")
    status, _, err = run(f"{ALL} --num-images 6", x=folder)
    assert status == 1
    assert "1 images were not readable: 2.png" in err
    assert "only 5 of 6 images are readable; those are kept" in err
    assert len(pixels_of(folder / "kept")) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--all --arch efficientnet_lite0", "--arch: not allowed with argument --all"),
        ("--all --checkpoint a.pth", "--checkpoint is for a network, and --all runs none"),
        ("--whole --resize 256", "--resize: not allowed with argument --whole"),
    ],
)
def test_options_that_exclude_each_other(run, folder, options, words):
    command = "select_images --input-dir {x}/nat --output-dir {x}/kept"
    status, _, err = run(f"{command} {options}", x=folder)
    assert status == 2
    assert words in err
    assert not (folder / "kept").exists()


def test_size_is_by_default_that_of_small_networks(run, all_right):
    PIL.Image.new("RGB", (60, 50)).save(all_right / "nat" / "0.png")
    status, _, err = run(SELECT, x=all_right)
    assert status == 0
    assert "images become 32 pixels square" in err
    assert "5 images had the size already" in err
    assert {p.shape for p in pixels_of(all_right / "kept").values()} == {(32, 32, 3)}
    status, _, err = run(f"{SELECT} --overwrite --resize 31", x=all_right)
    assert status == 2
    assert "--resize 31 is less than --size 32" in err


@pytest.mark.parametrize(
    ("sizes", "default"),
    [([32], 32), ([32, 64], 64), ([32, 224], 224), ([32, 299], 224), ([299], 224), ([], 224)],
)
def test_default_size_is_the_largest_of_the_networks_up_to_224(sizes, default):
    listed = [SimpleNamespace(input_size=(3, size, size)) for size in sizes]
    assert select_images.default_size(listed) == default


@pytest.mark.parametrize("change", ["labels", "image"])
def test_selection_of_other_inputs_is_refused_and_made_anew_without_what_was_there(
    run, all_right, change
):
    assert run(SELECT, x=all_right)[0] == 0
    nat, kept = all_right / "nat", all_right / "kept"
    before = {file.name: file.read_bytes() for file in kept.iterdir()}
    if change == "labels":
        label(nat, [*list(labels_of(nat).values())[:5], 3])
    else:
        shutil.copy(nat / "0.png", nat / "5.png")
    status, _, err = run(SELECT, x=all_right)
    assert (status, f"{kept} has images: take another folder, or --overwrite" in err) == (1, True)
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == before
    run(f"{SELECT} --overwrite", x=all_right)
    anew = all_right / "anew"
    run(SELECT.replace("/kept", "/anew"), x=all_right)
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == {
        file.name: file.read_bytes() for file in anew.iterdir()
    }


@pytest.mark.parametrize("overwrite", ["", "--overwrite"])
def test_folder_of_an_attack_is_not_selected_into(run, all_right, overwrite):
    kept = all_right / "kept"
    kept.mkdir()
    for name in ("run.json", "labels.csv"):
        (kept / name).write_text("{}")
    status, _, err = run(f"{SELECT} {overwrite}", x=all_right)
    assert (status, f"{kept} has a run.json, which an attack wrote" in err) == (1, True)
    assert {"run.json", "labels.csv"} <= {file.name for file in kept.iterdir()}


@pytest.mark.parametrize("name", ["x.jpg", "x.PNG", "x.tiff"])
def test_folder_with_images_of_any_kind_is_not_selected_into(run, all_right, name):
    (all_right / "kept").mkdir()
    (all_right / "kept" / name).touch()
    status, _, err = run(SELECT, x=all_right)
    assert (status, "kept has images: take another folder\n" in err) == (1, True)


@pytest.mark.parametrize("name", ["a\\b", "a\\..\\b", "C:a", "a,b", "a;b"])
def test_image_of_any_name_goes_through_all_steps(succeed, all_right, name):
    for file in (all_right / "nat").iterdir():
        file.unlink()
    answer = load_model(f"{all_right}/nets.py:constant")(torch.zeros(1, 3, 32, 32)).argmax(1).item()
    PIL.Image.new("RGB", (32, 32), "red").save(all_right / "nat" / f"{name}.png")
    row = {"filename": f"{name}.png", "label": answer}
    labels.write_labels(all_right / "nat", [row])
    networks = "--arch {x}/nets.py:constant"
    succeed(SELECT, x=all_right)
    attack = "attack_iter --input-dir {x}/kept --output-dir {x}/adv --num-steps 1 --gamma 1"
    succeed(f"{attack} {networks}", x=all_right)
    succeed("evaluate --input-dir {x}/adv --nat-dir {x}/kept " + networks, x=all_right)
    assert labels_of(all_right / "adv") == {f"{name}.png": answer}
    assert list(pixels_of(all_right / "adv")) == [f"{name}.png"]
