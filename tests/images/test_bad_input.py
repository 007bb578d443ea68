"""Every bad image, name and label file: converted how, or refused with which words."""

import json
import os
import shutil
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite import images
from suite.images import pictures
from suite.running import checks, runs

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
    images.write_labels(tmp_path, [{"filename": name, "label": 3}])
    (listed,) = images.list_images(tmp_path)
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
def test_broken_image_is_refused_by_name_and_the_others_are_unharmed(
    run, natural, tmp_path, make, words
):
    inputs, alone, outputs = tmp_path / "in", tmp_path / "alone", tmp_path / "out"
    inputs.mkdir()
    good = min(natural.glob("*.png"))
    shutil.copy(good, inputs)
    attack = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1 --batch-size 2"
    assert run(attack, i=inputs, o=alone)[0] == 0
    make(inputs / "broken.png")

    status, _, err = run(attack, i=inputs, o=outputs)
    assert status == 1
    assert f"{inputs / 'broken.png'} is not a readable image" in err.splitlines()[-1]
    assert words in err
    shutil.rmtree(outputs)
    status, out, err = run(f"{attack} --on-error skip --json", i=inputs, o=outputs)
    assert status == 1
    assert "1 images were not readable: broken.png" in err.splitlines()[-1]
    assert json.loads(out)["images"] == 1
    assert json.loads((outputs / "run.json").read_text())["skipped"] == ["broken.png"]
    assert (outputs / good.name).read_bytes() == (alone / good.name).read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"filename,label\na.png,1\na.png,2\n", "has two labels for a.png"),
        (b"filename,label\na.png,1000\n", "'1000' is not a label from 0 to 999"),
        (b"filename,label\na.png,-1\n", "'-1' is not a label"),
        (b"filename,label\na.png,1.5\n", "'1.5' is not a label"),
        (b"filename,label\na.png\n", "None is not a label"),
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
        images.list_images(tmp_path)
    assert words in str(error.value)
    assert str(tmp_path / "labels.csv") in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbffilename,label\na.png,7\n",
        b"filename,label\r\na.png,7\r\n",
        b"label,else,filename\n 7 ,x,a.png\n",
        b"filename,label\na.png,7\na.png,7\n",
    ],
)
def test_label_file_of_another_kind_is_read(tmp_path, content):
    rgb().save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(content)
    assert [image.label for image in images.list_images(tmp_path)] == [7]


def test_file_name_that_no_csv_can_hold_is_refused(tmp_path):
    name = os.fsdecode(b"\xff.png")
    rgb().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    with pytest.raises(ValueError, match="must be valid UTF-8"):
        images.list_images(tmp_path)


@settings(max_examples=200, deadline=None)
@given(
    epsilon=st.floats(0, 64),
    step=st.floats(0, 64),
    steps=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_no_pixel_leaves_the_ball_or_the_range(epsilon, step, steps, seed):
    from suite.attack import attacks

    generator = torch.Generator().manual_seed(seed)
    natural = torch.randint(0, 256, (2, 3, 5, 5), generator=generator, dtype=torch.uint8)
    weights = torch.randn(75, 4, generator=generator)
    attack = attacks.make_attack(
        lambda x: x.flatten(1) @ weights, epsilon, step, steps, momentum=seed % 2
    )
    labels = torch.tensor([0, 1])
    pixels = pictures.to_float(natural)
    start = attacks.random_start(pixels, epsilon, attacks.image_generators(seed, "ab"))
    result = attacks.perturb(attack, pixels, labels, epsilon, start if seed % 3 else None)
    saved = pictures.to_uint8(result, natural, epsilon)
    assert saved.dtype == torch.uint8
    assert abs(saved.int() - natural.int()).max() <= epsilon


@SLOW
@given(st.binary(max_size=300))
def test_random_label_file_is_parsed_or_refused(tmp_path, content):
    rgb().save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(b"filename,label\n" + content)
    try:
        (image,) = images.list_images(tmp_path)
        assert image.label in range(1000)
    except ValueError as error:
        assert str(tmp_path) in str(error)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)
KEYS = ("status", "options", "weights", "source", "attack", "gamma", "epsilon", "targeted")


@SLOW
@given(st.binary(max_size=200) | st.dictionaries(st.sampled_from(KEYS), json_values))
def test_random_run_json_is_parsed_or_refused(tmp_path, content):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (tmp_path / "run.json").write_bytes(text)
    try:
        run = runs.read(tmp_path)
        runs.settings(run)
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


@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        ([1, 2, 3, 4], None),
        ([2, 3, 4, 5], "do the labels count from 1"),
        ([9, 9, 9, 9], "wrong labels, or preprocessing"),
    ],
)
def test_implausible_accuracy_is_warned_of(caplog, labels, warning):
    records = [{"answer": n, "label": label} for n, label in enumerate(labels, 1)]
    checks.warn_of_accuracy("net", records)
    assert (warning or "") in caplog.text
    assert bool(caplog.text) == bool(warning)


def test_probabilities_are_warned_of(caplog):
    logits = torch.randn(3, 10)
    checks.warn_of_probabilities("net", logits)
    assert not caplog.text
    checks.warn_of_probabilities("net", logits.softmax(1))
    assert "net seems to return probabilities" in caplog.text


def test_gradients_that_are_not_finite_are_refused_by_name(run, natural, tmp_path, monkeypatch):
    from suite.attack import attacks

    perturb = attacks.perturb

    def broken(*args):
        pixels = perturb(*args)
        pixels[1, 0, 3, 3] = torch.nan
        return pixels

    monkeypatch.setattr(attacks, "perturb", broken)
    attack = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1"
    status, _, err = run(attack, i=natural, o=tmp_path)
    second = sorted(file.name for file in natural.glob("*.png"))[1]
    assert (status, f"the gradient is not finite at 1 images: {second}" in err) == (1, True)
    assert not list(tmp_path.glob("*.png"))


def test_zero_gradients_are_warned_of_by_name(run, natural, tmp_path, monkeypatch):
    from suite import networks

    load_model = networks.load_model

    def constant(name, **options):
        model = load_model(name, **options)
        model.network.classifier.weight.zero_()
        return model

    monkeypatch.setattr(networks, "load_model", constant)
    attack = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1"
    status, _, err = run(attack, i=natural, o=tmp_path)
    assert status == 0
    assert "the gradient is zero at 6 images, which stay as they are: imagenet_00_243.png" in err


def test_evaluation_on_the_source_and_jpegs_are_warned_of(run, natural, tmp_path):
    attack = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1"
    assert run(attack, i=natural, o=tmp_path)[0] == 0
    for file in tmp_path.glob("*.png"):
        PIL.Image.open(file).resize((200, 190)).save(file, "JPEG")
    _, _, err = run("evaluate --input-dir {o} --arch efficientnet_lite0", o=tmp_path)
    assert "was crafted on efficientnet_lite0: white-box, no transfer" in err
    assert "is a JPEG: it washes perturbations out" in err
    assert "has the size (200, 190), but was written as [224, 224]" in err


def test_evaluation_on_any_source_of_an_ensemble_is_warned_of(run, natural, tmp_path):
    attack = (
        "attack_iter --input-dir {i} --output-dir {o} --num-steps 1 --ensemble gradients "
        "--arch efficientnet_lite0 efficientnet_lite1"
    )
    assert run(attack, i=natural, o=tmp_path)[0] == 0
    _, _, err = run("evaluate --input-dir {o} --arch efficientnet_lite1", o=tmp_path)
    assert "was crafted on efficientnet_lite1: white-box, no transfer" in err


def test_folder_removed_meanwhile_is_one_line(run, natural, tmp_path, monkeypatch):
    write = pictures.Writer.write

    def remove_first(writer, pixels, file):
        shutil.rmtree(file.parent, ignore_errors=True)
        write(writer, pixels, file)

    monkeypatch.setattr(pictures.Writer, "write", remove_first)
    attack = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1"
    status, _, err = run(attack, i=natural, o=tmp_path / "gone")
    assert status == 1
    assert f"can't write {tmp_path / 'gone'}/imagenet_00_243.png: No such file" in err
