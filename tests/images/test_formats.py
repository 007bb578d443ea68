"""Formats that lose something, and those that don't: by each file's content, not by its name."""

import os
import shutil

import PIL.Image
import PIL.TiffImagePlugin
import pytest
from test_bad_input import RGB

from suite.images import image_checks
from suite.images.folders import list_images


def said(folder, size=None):
    return image_checks.warn_of_other_files(folder, list_images(folder), size)


def save(file, kind, **options):
    PIL.Image.effect_noise((6, 8), 90).convert("RGB").save(file, kind, **options)


EXIF = PIL.Image.Exif()
EXIF[0x131] = "a program"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"lossless": True, "exif": EXIF}),
        ("WEBP", {"lossless": True, "save_all": True, "append_images": [RGB]}),
        ("PPM", {}),
    ],
)
def test_formats_that_lose_nothing_are_not_warned_of(tmp_path, caplog, suffix, kind, options):
    save(tmp_path / f"a.{suffix}", kind, **options)
    said(tmp_path)
    assert not caplog.messages


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("JPEG", {}, "a JPEG"),
        ("JPEG", {"quality": 100, "subsampling": 0}, "a JPEG"),
        ("TIFF", {"compression": "jpeg"}, "a TIFF with lossy compression"),
        ("WEBP", {}, "a WEBP"),
        ("WEBP", {"exif": EXIF}, "a WEBP"),
        ("WEBP", {"save_all": True, "append_images": [RGB]}, "a WEBP"),
        ("GIF", {}, "a GIF with a palette"),
        ("JPEG2000", {}, "a JPEG2000"),
    ],
)
def test_formats_that_lose_something_are_warned_of(tmp_path, caplog, suffix, kind, options, words):
    save(tmp_path / f"a.{suffix}", kind, **options)
    said(tmp_path)
    (line,) = caplog.messages
    assert f"{tmp_path}/a.{suffix} is {words}: it washes perturbations out" in line


def test_palette_of_a_png_is_warned_of(tmp_path, caplog):
    RGB.quantize(16).save(tmp_path / "a.png")
    said(tmp_path)
    assert "a.png is a PNG with a palette" in caplog.text


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_every_file_is_looked_at_and_the_first_named(tmp_path, caplog, suffix):
    save(tmp_path / "0.png", "PNG")
    for number in range(1, 24):
        save(tmp_path / f"{number}.{suffix}", "JPEG")
    said(tmp_path)
    (line,) = caplog.messages
    assert line.startswith(f"23 of 24 images in {tmp_path} are lossy: {tmp_path}/1.{suffix} is a J")


def test_size_of_every_file_is_compared_with_the_one_that_was_written(tmp_path, caplog):
    for number in range(3):
        save(tmp_path / f"{number}.png", "PNG")
    RGB.resize((5, 4)).save(tmp_path / "1.png")
    said(tmp_path, [6, 8])
    (line,) = caplog.messages
    assert line.startswith(f"1 of 3 images in {tmp_path} have another size: {tmp_path}/1.png has")


@pytest.mark.parametrize("make", [os.mkfifo, lambda file: file.symlink_to("/dev/zero")])
def test_pipes_and_devices_are_not_opened(run, folder, make):
    shutil.copytree(folder / "nat", folder / "adv")
    (folder / "adv/3.png").unlink()
    make(folder / "adv/3.png")
    command = "evaluate --input-dir {x}/adv --arch {x}/nets.py:ten"
    status, _, err = run(command, x=folder)
    assert (status, f"{folder}/adv/3.png is not a readable image (a pipe" in err) == (1, True)
