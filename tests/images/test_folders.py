import csv
import importlib.util
import os
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import ROOT

from suite.images import pictures
from suite.images.embedded import embedded_images
from suite.images.folders import in_batches, list_images
from suite.images.labels import write_labels


def write(file, color=(10, 20, 30)):
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (8, 8), color).save(file)


def listed(folder):
    return [(image.name, image.label) for image in list_images(folder)]


@pytest.mark.parametrize("epsilon", [1, 2.5, 16])
def test_saved_pixels_stay_within_epsilon_in_whole_levels(tmp_path, epsilon):
    natural = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    adversarial = natural / 255 + (torch.rand(natural.shape) * 2 - 1) * (epsilon + 0.9) / 255
    saved = pictures.to_uint8(adversarial, natural, epsilon)
    pictures.write_png(saved[0], tmp_path / "a.png")
    read = np.asarray(PIL.Image.open(tmp_path / "a.png")).astype(int)
    difference = abs(read - natural[0].permute(1, 2, 0).numpy().astype(int))
    assert difference.max() == int(epsilon)


def test_pixels_are_rounded_not_truncated():
    natural = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    assert pictures.to_uint8(natural / 255 + 5.6 / 255, natural, 16).unique().tolist() == [106]
    assert pictures.to_uint8(natural / 255 - 5.6 / 255, natural, 16).unique().tolist() == [94]


def test_pixels_that_are_not_finite_are_refused():
    natural = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    with pytest.raises(ValueError, match="not finite"):
        pictures.to_uint8(torch.full((1, 3, 1, 1), torch.nan), natural, 16)


def test_labels_csv(tmp_path):
    write(tmp_path / "b.png")
    write(tmp_path / "a.jpg")
    write_labels(tmp_path, [{"filename": "b.png", "label": 7}, {"filename": "a.jpg", "label": 3}])
    assert listed(tmp_path) == [("a.png", 3), ("b.png", 7)]


@pytest.mark.parametrize("inside", [True, False])
def test_nips_2017_labels_count_from_1(tmp_path, inside):
    write(tmp_path / "images" / "0c7ac4a8c9dfa802.png")
    with (tmp_path / "dev_dataset.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["ImageId", "URL", "TrueLabel", "TargetClass"], ["0c7ac4a8c9dfa802", "u", "306", "9"]]
        )
    folder = tmp_path / "images" if inside else tmp_path
    assert listed(folder) == [("0c7ac4a8c9dfa802.png", 305)]


def test_imagenet_tree(tmp_path):
    write(tmp_path / "n01440764" / "ILSVRC2012_val_00000293.JPEG")
    write(tmp_path / "n15075141" / "n15075141_1.JPEG")
    assert listed(tmp_path) == [
        ("n01440764_ILSVRC2012_val_00000293.png", 0),
        ("n15075141_1.png", 999),
    ]


def test_flat_files_with_their_class_in_front(tmp_path):
    write(tmp_path / "n01443537_a.png")
    assert listed(tmp_path) == [("n01443537_a.png", 1)]


def test_flat_files_without_labels(tmp_path):
    write(tmp_path / "a.png")
    assert listed(tmp_path) == [("a.png", None)]


def test_embedded_images_are_the_listed_ones_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (ROOT / "data" / "nips2017" / "dev_dataset.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    listed = {f"{r['ImageId']}.png": (int(r["TrueLabel"]), int(r["TargetClass"])) for r in rows}
    embedded = embedded_images()
    assert len(rows) == len(listed) == 100
    assert {i.name: (i.label + 1, i.target + 1) for i in embedded} == listed
    assert [image.name for image in embedded] == sorted(listed)
    for row in rows:
        assert row["Author"]
        assert "flickr.com/" in row["OriginalLandingURL"]
        assert row["License"] == "https://creativecommons.org/licenses/by/2.0/"


def test_embedded_images_are_of_one_size_and_small_enough_for_a_repository():
    files = [image.path for image in embedded_images()]
    for file in files:
        with PIL.Image.open(file) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (299, 299))
    assert sum(file.stat().st_size for file in files) <= 5_000_000


def test_foolbox_s_images_carry_their_labels():
    listed = embedded_images("foolbox")
    assert len(listed) == 20
    assert ("imagenet_16_251.png", 251) in [(image.name, image.label) for image in listed]


def test_foolbox_s_images_without_foolbox_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install foolbox"):
        embedded_images("foolbox")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,label\n", "labels.csv has no row for a.png"),
        ("filename,label\na.png,1000000\n", "'1000000' is not a label: a class index from 0"),
        ("filename,label\na.png,cat\n", "'cat' is not a label"),
        ("filename,label\na.png,1\nb.png,1\n", "names b.png, which is not an image"),
        ("name,class\na.png,1\n", "needs a header with the columns filename and label"),
    ],
)
def test_bad_label_files_are_refused(tmp_path, text, message):
    write(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        list_images(tmp_path)


def test_two_files_that_would_get_one_name_are_refused(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="would both become a.png"):
        list_images(tmp_path)


def test_images_of_two_sizes_are_refused_by_name(tmp_path):
    write(tmp_path / "a.png")
    PIL.Image.new("RGB", (9, 8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b.png is 9 x 8 pixels, but .*a.png is 8 x 8"):
        list(pictures.read_batches([list_images(tmp_path)]))


def test_file_appears_whole_or_not_at_all(tmp_path):
    pictures.write_png(torch.zeros(3, 4, 4, dtype=torch.uint8), tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(TypeError):
        pictures.write_png(torch.zeros(7, 4, 4, dtype=torch.uint8), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_writer_keeps_few_images_in_memory_and_writes_all(tmp_path, monkeypatch):
    waiting, most, write_png = 0, 0, pictures.write_png

    def slow(pixels, file):
        nonlocal waiting
        time.sleep(0.002)
        write_png(pixels, file)
        waiting -= 1

    monkeypatch.setattr(pictures, "write_png", slow)
    with pictures.Writer(threads=1, waiting=3) as writer:
        for number in range(20):
            waiting += 1
            writer.write(
                torch.full((3, 4, 4), number, dtype=torch.uint8), tmp_path / f"{number}.png"
            )
            most = max(most, waiting)
    assert most <= 4
    for number in range(20):
        assert pictures.read_image(tmp_path / f"{number}.png").getpixel((0, 0)) == (number,) * 3


def test_error_of_the_writer_is_raised(tmp_path):
    with (
        pytest.raises(OSError, match="can't write .*gone/a.png: No such file"),
        pictures.Writer() as writer,
    ):
        writer.write(torch.zeros(3, 4, 4, dtype=torch.uint8), tmp_path / "gone" / "a.png")


def test_batches_decoded_ahead_are_those_decoded_here(tmp_path):
    for number in range(5):
        PIL.Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes(b"")
    batches = in_batches(list_images(tmp_path), 2)
    expected = [["0.png"], ["2.png", "3.png"], []]  # the whole last batch is unreadable
    for workers in (0, 2):
        skipped = []
        read = list(pictures.read_batches(batches, workers, skipped=skipped))
        assert [[image.name for image in batch] for batch, _ in read] == expected
        assert [pixels[:, 0, 0, 0].tolist() for _, pixels in read[:2]] == [[0], [2, 3]]
        assert skipped == ["1.png", "4.png"]
        assert list(pictures.read_batches([], workers)) == []


def test_decoders_end_with_a_main_process_that_is_killed_while_they_start(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    code = f"""
import os, pathlib, threading, time
from suite import images
from suite.images import pictures
start = pictures._leave_with_main_process
pictures._leave_with_main_process = lambda worker: (time.sleep(1), start(worker))
threading.Timer(0.5, os._exit, [0]).start()
batches = images.batches(images.list_images(pathlib.Path({str(tmp_path)!r})), 1)
list(pictures.read_batches(batches, workers=1))
"""
    # While a decoder lives, it keeps the pipes open that are read here.
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60)


def test_ctrl_c_while_decoders_start_is_not_lost(tmp_path):
    pressed = [signal.SIGINT]
    # Whatever such a callback raises is ignored, and it can't be taken back.
    os.register_at_fork(before=lambda: pressed and signal.raise_signal(pressed.pop()))
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    batches = in_batches(list_images(tmp_path), 1)
    with pytest.raises(KeyboardInterrupt):
        next(pictures.read_batches(batches, workers=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_pixels_come_as_a_network_takes_them(tmp_path, workers):
    for name in "abc":
        write(tmp_path / f"{name}.png")
    batches = in_batches(list_images(tmp_path), 1)
    for _, pixels in pictures.read_batches(batches, workers):
        assert pixels.is_contiguous()
        assert pixels.shape == (1, 3, 8, 8)
