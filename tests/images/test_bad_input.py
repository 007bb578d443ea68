"""Every bad image, name and label file: converted how, or refused with which words."""

import io
import json
import os
import shutil
import struct

import numpy as np
import PIL.Image
import pytest
from conftest import run_json
from hypothesis import given
from hypothesis import strategies as st
from test_metadata import PIXELS, SLOW, block, chunk, turned

from suite.images import pictures
from suite.images.folders import list_images
from suite.images.labels import write_labels

RGB = PIL.Image.fromarray(PIXELS)
GREY = np.linspace(0, 255, 64).reshape(8, 8).round()
GREYS = np.stack([GREY] * 3, 2)
ODD_NAMES = ("with spaces", "with\nnewline", "with\"quotes'", "-rf", "größe 大")


def grey_ramp(file, dtype=np.uint8, scale=1):
    PIL.Image.fromarray((GREY * scale).astype(dtype)).save(file)


def png_header_alone(file):
    """A PNG that claims to be 20000 x 20000 pixels, and has none."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))


def truncated(file):
    RGB.resize((200, 200)).save(file)
    file.write_bytes(file.read_bytes()[:5000])


def zeroed_tail(file, kind="PNG", bytes_=10):
    """A file as a power failure leaves it: its length is right, its last block is not."""
    RGB.resize((32, 32)).save(file, kind)
    file.write_bytes(file.read_bytes()[:-bytes_] + bytes(bytes_))


def without_end(file):
    RGB.save(file)
    file.write_bytes(file.read_bytes()[:-12])


def changed_byte(file):
    """A PNG whose pixels are stored without compression, so that any byte decodes."""
    RGB.save(file, compress_level=0)
    content = bytearray(file.read_bytes())
    content[content.index(b"IDAT") + 30] ^= 1
    file.write_bytes(content)


def many_pixels(file):
    PIL.Image.new("1", (13000, 13000)).save(file)


def sparse(file):
    RGB.save(file)
    os.truncate(file, 5 << 30)


def animated(file):
    frames = [PIL.Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("grey.png", grey_ramp, GREYS),
        ("16-bit.png", lambda file: grey_ramp(file, np.uint16, 257), GREYS),
        ("palette.png", lambda file: RGB.quantize(256).save(file), RGB),
        ("alpha.png", lambda file: RGB.convert("RGBA").save(file), RGB),
        ("cmyk.jpg", lambda file: PIL.Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(file), None),
        ("animated.png", animated, PIL.Image.new("RGB", (8, 8), "red")),
        ("1x1.png", lambda file: PIL.Image.new("RGB", (1, 1), "red").save(file), None),
        ("wrong extension.jpg", lambda file: RGB.save(file, "PNG"), RGB),
        *((f"{name}.png", lambda file: RGB.save(file), RGB) for name in ODD_NAMES),
    ],
)
def test_unusual_image_is_converted_as_people_expect(tmp_path, name, make, expected):
    make(tmp_path / name)
    write_labels(tmp_path, [{"filename": name, "label": 3}])
    (listed,) = list_images(tmp_path)
    picture = pictures.read_image(listed.path)
    assert picture.mode == "RGB"
    if expected is not None:
        assert abs(np.asarray(picture).astype(float) - np.asarray(expected)).max() <= 1
    pictures.write_png(pictures.to_pixels(picture), tmp_path / listed.name)
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / listed.name)), np.asarray(picture))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (truncated, "is not a readable image"),
        (lambda file: file.write_bytes(b""), "is not a readable image"),
        (lambda file: file.write_bytes(b"hello"), "is not a readable image"),
        (png_header_alone, "exceeds limit"),
        (zeroed_tail, "damaged: "),
        (lambda file: zeroed_tail(file, "JPEG", 100), "damaged: its end is missing"),
        (without_end, "damaged: its end is missing"),
        (changed_byte, "damaged: a wrong checksum in b'IDAT'"),
        (many_pixels, "13000 x 13000 are too many pixels"),
        (sparse, "larger than 1024 MiB"),
        (os.mkfifo, "a pipe or a device"),
        (lambda file: file.symlink_to("/dev/zero"), "a pipe or a device"),
        (lambda file: file.symlink_to(file.with_name("nowhere")), "No such file"),
        (lambda file: file.mkdir(), "Is a directory"),
    ],
)
def test_broken_image_is_left_out_by_name_and_the_others_are_unharmed(run, folder, make, words):
    broken = folder / "in" / "broken.png"
    broken.parent.mkdir()
    shutil.copy(folder / "nat" / "0.png", broken.parent)
    attack = "attack_iter --input-dir {x}/in --num-steps 1 --batch-size 2 --arch {x}/nets.py:ten"
    assert run(f"{attack} --output-dir {{x}}/alone", x=folder)[0] == 0
    make(broken)
    status, out, err = run(f"{attack} --output-dir {{x}}/out --json", x=folder)
    assert status == 1
    assert f"skipped: {broken} is not a readable image" in err
    assert words in err
    assert "1 images were not readable: broken.png" in err.splitlines()[-1]
    assert json.loads(out)["images"] == 1
    assert run_json(folder / "out")["skipped"] == ["broken.png"]
    assert (folder / "out" / "0.png").read_bytes() == (folder / "alone" / "0.png").read_bytes()


@pytest.mark.parametrize("turned", [None, b"Exif\0\0" + block([turned(6)])])
@pytest.mark.parametrize("behind", [b"", b"\0" * 64, b"more \xff\xda of the camera's"])
def test_jpeg_is_whole_whatever_stands_behind_its_end(tmp_path, turned, behind):
    RGB.save(tmp_path / "a.jpg", exif=turned or b"")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[:2] + b"\xff" + content[2:] + behind)
    assert pictures.read_image(tmp_path / "a.jpg").size == (RGB.size if not turned else (8, 6))


def test_jpeg_is_not_whole_by_the_end_of_its_thumbnail(tmp_path):
    small = io.BytesIO()
    RGB.save(small, "JPEG")
    RGB.resize((32, 32)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + small.getvalue())
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[:-100] + bytes(100))
    with pytest.raises(ValueError, match="its end is missing"):
        pictures.read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"filename,label\na.png,1\na.png,2\n", "has two labels for a.png"),
        (b"filename,label\na.png,1000000\n", "'1000000' is not a label: a class index from 0"),
        (b"filename,label\na.png,-1\n", "labels.csv, line 2: '-1' is not a label"),
        (b"filename,label\na.png,1.5\n", "'1.5' is not a label"),
        (b"filename,label\na.png,cat\n", "'cat' is not a label"),
        (b"name,class\na.png,1\n", "needs a header with the columns filename and label"),
        (b"filename,label\na.png\n", "None is not a label"),
        (b"filename,label\na.png,\n", "'' is not a label"),
        (b"filename,label\n,7\n", "line 2: '' is not the name of a file beside it"),
        (b"filename;label\na.png;1\n", "separated by commas; it has ['filename;label']"),
        (b"filename,label\n../../a.png,1\n", "'../../a.png' is not the name of a file beside it"),
        (b"filename,label\n/etc/a.png,1\n", "'/etc/a.png' is not the name of a file beside it"),
        (b"filename,label\n..\\a.png,1\n", "has no row for a.png"),
        (b"filename,label\n..,1\n", "'..' is not the name of a file beside it"),
        (b"\xff\xfe\x00", "is not a CSV file in UTF-8"),
        (b'filename,label\n"a.png,1\n', "is not a CSV file in UTF-8"),
        (b"", "it has []"),
    ],
)
def test_bad_label_file_is_refused(tmp_path, content, words):
    RGB.save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are checked below)
        list_images(tmp_path)
    assert words in str(error.value)
    assert str(tmp_path / "labels.csv") in str(error.value)


@SLOW
@given(st.binary(max_size=300))
def test_random_label_file_is_parsed_or_refused(tmp_path, content):
    RGB.save(tmp_path / "a.png")
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
        RGB.save(file, kind)
        whole = bytearray(file.read_bytes())
        for place, byte in enumerate(content[:20]):
            whole[byte * 7919 % len(whole)] = content[-place - 1]
        content = bytes(whole)
    file.write_bytes(content)
    try:
        assert pictures.read_image(file).mode == "RGB"
    except ValueError as error:
        assert str(file) in str(error)
