"""A resumed attack looks at what was attacked, and at what it left in the folder."""

import json
import re
import shutil

import numpy as np
import PIL.Image
import pytest
from conftest import bytes_of, contents, run_json
from small import ATTACK, label

from suite.attack.crafting import Crafter

TARGETED = f"{ATTACK}ten --targeted"
PLAIN = f"{ATTACK}ten --epsilon 8 --batch-size 2"


def other_pixels(file):
    pixels = np.asarray(PIL.Image.open(file))
    PIL.Image.fromarray(255 - pixels).save(file)


CHANGES = {
    "label": (lambda nat: label(nat, [0, 1, 3, 3, 4, 5]), "2.png has the label 3, .* with 2"),
    "pixels": (lambda nat: other_pixels(nat / "4.png"), "4.png is not the image that"),
    "removed": (lambda nat: (nat / "5.png").unlink() or label(nat, range(5)), "5.png"),
    "target": (lambda nat: label(nat, range(6), target=7), "0.png has the target class 7, .* 6"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_inputs_are_refused_and_nothing_is_changed(run, succeed, folder, change):
    changed, named = CHANGES[change]
    command = TARGETED if change == "target" else PLAIN
    if change == "target":
        label(folder / "nat", range(6), target=6)
    succeed(command, x=folder)
    before = contents(folder / "adv")
    changed(folder / "nat")
    status, out, err = run(command, x=folder)
    assert (status, out) == (1, "")
    (line,) = [line for line in err.splitlines() if "error:" in line]

    assert re.search(named, line)
    assert "--overwrite" in line
    assert contents(folder / "adv") == before
    succeed(f"{command} --overwrite", x=folder)


def test_added_images_are_attacked_and_others_are_kept(succeed, folder):
    shutil.copytree(folder / "nat", folder / "all")
    for name in ("4.png", "5.png"):
        (folder / "nat" / name).unlink()
    label(folder / "nat", range(4))
    succeed(PLAIN, x=folder)
    shutil.rmtree(folder / "nat")
    (folder / "all").rename(folder / "nat")
    kept = bytes_of(folder / "adv")
    succeed(PLAIN, x=folder)
    assert run_json(folder / "adv")["images"] == 6
    now = bytes_of(folder / "adv")
    assert all(now[name] == kept[name] for name in kept if name.endswith(".png"))


def swap(adv):
    one, other = (adv / "0.png").read_bytes(), (adv / "3.png").read_bytes()
    (adv / "0.png").write_bytes(other)
    (adv / "3.png").write_bytes(one)


def cut(adv):
    data = (adv / "2.png").read_bytes()
    (adv / "2.png").write_bytes(data[:-10] + bytes(10))


@pytest.mark.parametrize("damage", [swap, cut])
def test_a_finished_image_that_cannot_be_is_attacked_again(succeed, folder, damage):
    succeed(PLAIN, x=folder)
    before = bytes_of(folder / "adv")
    damage(folder / "adv")
    succeed(PLAIN, x=folder)
    assert bytes_of(folder / "adv") == before


def test_a_folder_of_an_earlier_version_is_resumed(succeed, folder):
    succeed(PLAIN, x=folder)
    run = run_json(folder / "adv")
    del run["inputs"]
    (folder / "adv" / "run.json").write_text(json.dumps(run))
    out, _ = succeed(PLAIN, x=folder)
    assert "nothing was left to do" in out


def test_an_image_that_was_unreadable_may_be_replaced(run, succeed, folder):
    good = (folder / "nat" / "3.png").read_bytes()
    (folder / "nat" / "3.png").write_bytes(good[:100])
    status, _, err = run(PLAIN, x=folder)
    assert (status, "1 images were not readable: 3.png" in err) == (1, True)
    assert "the same command" not in err
    (folder / "nat" / "3.png").write_bytes(good)
    succeed(PLAIN, x=folder)
    resumed = bytes_of(folder / "adv")
    succeed(f"{PLAIN} --overwrite", x=folder)
    assert bytes_of(folder / "adv") == resumed


def test_a_finished_folder_stays_finished_where_a_later_run_fails(
    run, succeed, folder, monkeypatch
):
    succeed(PLAIN, x=folder)
    before = contents(folder / "adv")

    def fail(*args):
        raise OSError("the disk is gone")

    monkeypatch.setattr(Crafter, "_attacked", fail)
    assert run(PLAIN, x=folder)[0] == 1
    assert contents(folder / "adv") == before


def test_the_lock_does_not_empty_what_a_link_of_its_name_leads_to(succeed, folder):
    (folder / "precious").write_text("kept")
    (folder / "adv").mkdir()
    (folder / "adv" / ".lock").symlink_to(folder / "precious")
    succeed(PLAIN, x=folder)
    assert (folder / "precious").read_text() == "kept"
