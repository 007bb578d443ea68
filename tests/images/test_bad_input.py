"""Every bad image, name and label file: converted how, or refused with which words."""

import json
import os
import shutil
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.images import pictures
from suite.images.folders import list_images
from suite.images.labels import write_labels

GREY = np.linspace(0, 255, 64).reshape(8, 8).round()
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def grey_ramp(file, dtype=np.uint8, scale=1, suffix=None, **arguments):
    PIL.Image.fromarray((GREY * scale).astype(dtype)).save(file, suffix, **arguments)


def png_header_of(size):
    """A PNG that claims to be size x size pixels, and has none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e"


def rgb():
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8))


def truncated(file):
    rgb().resize((200, 200)).save(file)
    file.write_bytes(file.read_bytes()[:5000])


def rotated(file):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    rgb().save(file, "PNG", exif=exif)


def animated(file):
    frames = [PIL.Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("grey.png", grey_ramp, lambda: np.stack([GREY] * 3, 2)),
        (
            "16-bit.png",
            lambda file: grey_ramp(file, np.uint16, 257),
            lambda: np.stack([GREY] * 3, 2),
        ),
        ("palette.png", lambda f: rgb().quantize(256).save(f), lambda: np.asarray(rgb())),
        (
            "alpha.png",
            lambda file: rgb().convert("RGBA").save(file),
            lambda: np.asarray(rgb()),
        ),
        ("cmyk.jpg", lambda file: PIL.Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(file), None),
        ("rotated.png", rotated, lambda: np.rot90(np.asarray(rgb()), -1)),
        ("animated.png", animated, lambda: np.full((8, 8, 3), (255, 0, 0))),
        ("1x1.png", lambda f: PIL.Image.new("RGB", (1, 1), "red").save(f), None),
        ("wrong extension.jpg", lambda f: rgb().save(f, "PNG"), lambda: np.asarray(rgb())),
        ("with spaces.png", lambda f: rgb().save(f), lambda: np.asarray(rgb())),
        ("with\nnewline.png", lambda f: rgb().save(f), lambda: np.asarray(rgb())),
        ("with\"quotes'.png", lambda f: rgb().save(f), lambda: np.asarray(rgb())),
        ("-rf.png", lambda f: rgb().save(f), lambda: np.asarray(rgb())),
        ("größe 大.png", lambda f: rgb().save(f), lambda: np.asarray(rgb())),
    ],
)
def test_unusual_image_is_converted_as_people_expect(tmp_path, name, make, expected):
    make(tmp_path / name)
    write_labels(tmp_path, [{"filename": name, "label": 3}])
    (listed,) = list_images(tmp_path)
    picture = pictures.read_image(listed.path)
    assert picture.mode == "RGB"
    if expected is not None:
        assert abs(np.asarray(picture).astype(float) - expected()).max() <= 1
    pictures.write_png(pictures.to_pixels(picture), tmp_path / listed.name)
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / listed.name)), np.asarray(picture))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (truncated, "is not a readable image"),
        (lambda file: file.write_bytes(b""), "is not a readable image"),
        (lambda file: file.write_bytes(b"hello"), "is not a readable image"),
        (lambda file: file.write_bytes(png_header_of(20000)), "exceeds limit"),
        (lambda file: file.symlink_to(file.with_name("nowhere")), "No such file"),
        (lambda file: file.mkdir(), "Is a directory"),
    ],
)
def test_broken_image_is_left_out_by_name_and_the_others_are_unharmed(run, folder, make, words):
    inputs, alone, outputs = folder / "in", folder / "alone", folder / "out"
    inputs.mkdir()
    good = folder / "nat" / "0.png"
    shutil.copy(good, inputs)
    attack = "attack_iter --input-dir {x}/in --output-dir {o} --arch {x}/nets.py:ten"
    attack += " --num-steps 1 --batch-size 2"
    assert run(attack, x=folder, o=alone)[0] == 0
    make(inputs / "broken.png")

    status, out, err = run(f"{attack} --json", x=folder, o=outputs)
    assert status == 1
    assert f"skipped: {inputs / 'broken.png'} is not a readable image" in err
    assert words in err
    assert "1 images were not readable: broken.png" in err.splitlines()[-1]
    assert json.loads(out)["images"] == 1
    assert json.loads((outputs / "run.json").read_text())["skipped"] == ["broken.png"]
    assert (outputs / good.name).read_bytes() == (alone / good.name).read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"filename,label\na.png,1\na.png,2\n", "has two labels for a.png"),
        (b"filename,label\na.png,1000000\n", "'1000000' is not a label: a class index from 0"),
        (b"filename,label\na.png,-1\n", "'-1' is not a label"),
        (b"filename,label\na.png,1.5\n", "'1.5' is not a label"),
        (b"filename,label\na.png,cat\n", "'cat' is not a label"),
        (b"name,class\na.png,1\n", "needs a header with the columns filename and label"),
        (b"filename,label\na.png\n", "None is not a label"),
        (b"filename,label\na.png,\n", "'' is not a label"),
        (b"filename,label\n,7\n", "'' is not the name of a file beside it"),
        (b"filename;label\na.png;1\n", "separated by commas; it has ['filename;label']"),
        (b"filename,label\n../../a.png,1\n", "'../../a.png' is not the name of a file beside it"),
        (b"filename,label\n/etc/a.png,1\n", "'/etc/a.png' is not the name of a file beside it"),
        (b"filename,label\n..\\a.png,1\n", "is not the name of a file beside it"),
        (b"filename,label\n..,1\n", "'..' is not the name of a file beside it"),
        (b"\xff\xfe\x00", "is not a CSV file in UTF-8"),
        (b'filename,label\n"a.png,1\n', "is not a CSV file in UTF-8"),
        (b"", "it has []"),
    ],
)
def test_bad_label_file_is_refused(tmp_path, content, words):
    rgb().save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are checked below)
        list_images(tmp_path)
    assert words in str(error.value)
    assert str(tmp_path / "labels.csv") in str(error.value)


def test_file_name_that_no_csv_can_hold_is_refused(tmp_path):
    name = os.fsdecode(b"\xff.png")
    rgb().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    with pytest.raises(ValueError, match="must be valid UTF-8"):
        list_images(tmp_path)


@SLOW
@given(st.binary(max_size=300))
def test_random_label_file_is_parsed_or_refused(tmp_path, content):
    rgb().save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(b"filename,label\n" + content)
    try:
        (image,) = list_images(tmp_path)
        assert image.label in range(1000000)
    except ValueError as error:
        assert str(tmp_path) in str(error)


@SLOW
@given(st.binary(max_size=400), st.sampled_from(["", "png", "jpeg", "gif", "bmp", "webp"]))
def test_random_image_file_is_read_or_refused(tmp_path, content, kind):
    file = tmp_path / "a.png"
    if kind:
        rgb().save(file, kind)
        whole = bytearray(file.read_bytes())
        for place, byte in enumerate(content[:20]):
            whole[byte * 7919 % len(whole)] = content[-place - 1]
        content = bytes(whole)
    file.write_bytes(content)
    try:
        assert pictures.read_image(file).mode == "RGB"
    except ValueError as error:
        assert str(file) in str(error)
