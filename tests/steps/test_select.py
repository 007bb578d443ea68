"""What select_images.py keeps, and what it leaves behind when it is interrupted."""

import json

from conftest import labels_of, pixels_of

from suite import images


def test_select_keeps_what_every_network_classifies_correctly(run, tmp_path):
    command = "select_images --data embedded --output-dir {out} --json --arch"
    archs = ["efficientnet_lite0", "efficientnet_lite1"]
    kept = {}
    for names in (archs[:1], archs[1:], archs):
        folder = tmp_path / "-".join(names)
        status, out, _ = run(f"{command} {' '.join(names)}", out=folder)
        counts = json.loads(out)
        kept[tuple(names)] = set(labels_of(folder))
        assert status == 0
        assert counts["read"] == 20
        assert counts["kept"] == len(list(folder.glob("*.png")))
        assert list(counts["correct"]) == names
    assert kept[tuple(archs)] == kept[tuple(archs[:1])] & kept[tuple(archs[1:])]
    assert {pixels.shape for pixels in pixels_of(folder).values()} == {(224, 224, 3)}


def test_select_takes_images_in_a_seeded_order(run, tmp_path):
    command = "select_images --data embedded --output-dir {out} --num-images 3 --seed"
    chosen = []
    for number, seed in enumerate([1, 1, 2]):
        assert (
            run(f"{command} {seed} --batch-size {number + 1}", out=tmp_path / f"{number}")[0] == 0
        )
        chosen.append(labels_of(tmp_path / f"{number}"))
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 3


def test_select_names_and_skips_unreadable_images(run, natural, tmp_path):
    for file in natural.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    name = max(labels_of(natural))
    (tmp_path / name).write_bytes(b"not a PNG")
    status, out, err = run(
        "select_images --input-dir {a} --output-dir {b} --size 200 --resize 210 --json",
        a=tmp_path,
        b=tmp_path / "out",
    )
    assert status == 0
    assert f"skipped: {tmp_path / name} is not a readable image" in err
    assert json.loads(out)["read"] == 5
    assert {p.shape for p in pixels_of(tmp_path / "out").values()} == {(200, 200, 3)}


def test_fewer_images_than_asked_for_is_an_error_that_keeps_them(run, tmp_path):
    command = "select_images --data embedded --output-dir {out} --num-images 21"
    status, out, err = run(command, out=tmp_path)
    kept = len(list(tmp_path.glob("*.png")))
    assert status == 1
    assert f"only {kept} of 21 images" in err
    assert kept == len(labels_of(tmp_path)) > 10


SELECT = "select_images --input-dir {nat} --output-dir {out} --num-images 2 --batch-size 2"


def test_interrupted_selection_is_refused_and_made_anew(run, natural, tmp_path, monkeypatch):
    def interrupted(folder, rows):
        raise OSError("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(images, "write_labels", interrupted)
        assert run(SELECT, nat=natural, out=tmp_path)[0] == 1
    attack = "attack_iter --input-dir {out} --output-dir {out}/adv"
    status, _, err = run(attack, out=tmp_path)
    assert status == 1
    assert f"the selection in {tmp_path} was interrupted: give its command again" in err
    assert run(f"{SELECT} --overwrite", nat=natural, out=tmp_path)[0] == 0
    assert len(images.list_images(tmp_path)) == 2


def test_selection_that_can_not_begin_deletes_nothing(run, natural, tmp_path):
    assert run(SELECT, nat=natural, out=tmp_path)[0] == 0
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    status, _, err = run(f"{SELECT} --overwrite --arch resnet51", nat=natural, out=tmp_path)
    assert status == 1
    assert "resnet51" in err
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
