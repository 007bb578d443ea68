"""Metadata never makes an image unreadable: its orientation is read, the rest is not needed."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.TiffImagePlugin
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from suite.images import metadata, pictures

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of the odd metadata
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
UPRIGHT = {  # EXIF's orientations
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: np.rot90,
}
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
ORIENTATION, RESOLUTION_UNIT, X_RESOLUTION = 0x112, 0x128, 0x11A


def block(entries, order="<", start=8, pixels=b""):
    """A TIFF header and directory of (tag, type, count, value), as EXIF has them."""
    start = 8 + len(pixels)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", start) + pixels
    table, data = struct.pack(order + "H", len(entries)), b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        if count * SIZES.get(kind, 1) > 4:
            data, value = data + value, struct.pack(order + "L", after + len(data))
        table += struct.pack(order + "HHL", tag, kind, count) + value[:4].ljust(4, b"\0")
    return head + table + b"\0\0\0\0" + data


def turned(orientation, order="<"):
    return (ORIENTATION, 3, 1, struct.pack(order + "H", orientation))


def with_exif(file, kind, exif):
    PIL.Image.fromarray(PIXELS).save(file, kind, exif=b"Exif\0\0" + exif, lossless=True)


def tiff(file, entries, order="<"):
    pixels = PIXELS.tobytes()
    needed = [(0x100, 6), (0x101, 8), (0x102, 8), (0x103, 1), (0x106, 2)]
    needed += [(0x111, 8), (0x115, 3), (0x116, 8), (0x117, len(pixels))]
    directory = {tag: (tag, 4, 1, struct.pack(order + "L", value)) for tag, value in needed}
    directory[0x102] = (0x102, 3, 3, struct.pack(order + "HHH", 8, 8, 8))
    for entry in entries:
        directory.setdefault(entry[0], entry)
    file.write_bytes(block(sorted(directory.values()), order, pixels=pixels))


def plain(kind):
    stream = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(stream, kind, lossless=True)
    return np.asarray(PIL.Image.open(stream).convert("RGB"))


def read(file):
    return np.asarray(pictures.read_image(file))


RESOLUTIONS_AS_TEXT = [(X_RESOLUTION, 2, 7, b"72 dpi\0"), (0x11B, 2, 7, b"72 dpi\0")]
ODD = {
    "none": [],
    "resolution unit as text": [(RESOLUTION_UNIT, 2, 5, b"inch\0")],
    "resolution as text": RESOLUTIONS_AS_TEXT,
    "resolution over zero": [(X_RESOLUTION, 5, 1, b"\1\0\0\0\0\0\0\0")],
    "unit cm, resolution as text": [(RESOLUTION_UNIT, 3, 1, b"\3\0"), *RESOLUTIONS_AS_TEXT],
    "XMP that is no text": [(0x2BC, 4, 1, b"\1\0\0\0")],
    "directory out of the file": [(0x8769, 4, 1, b"\xff\xff\xff\x7f")],
    "directory as text": [(0x8769, 2, 5, b"text\0"), (0x8825, 2, 5, b"text\0")],
    "directory that holds itself": [(0x8769, 4, 1, b"\x08\0\0\0")],
    "count beyond the block": [(0x10F, 2, 2**32 - 1, b"x")],
    "type of no meaning": [(0x10F, 99, 1, b"x")],
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_image_with_odd_metadata_is_read_upright(tmp_path, kind, orientation, odd):
    file = tmp_path / "a"
    if kind == "TIFF":
        tiff(file, [turned(orientation), *ODD[odd]])
    else:
        with_exif(file, kind, block([turned(orientation), *ODD[odd]]))
    assert np.array_equal(read(file), UPRIGHT[orientation](plain(kind)))


@pytest.mark.parametrize(
    "entry",
    [
        (ORIENTATION, 3, 1, b"\0\0"),
        (ORIENTATION, 3, 1, b"\x09\0"),
        (ORIENTATION, 2, 2, b"6\0"),
        (ORIENTATION, 5, 1, b"\1\0\0\0\0\0\0\0"),
        (ORIENTATION, 7, 4, b"\6\0\0\0"),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_odd_orientation_is_none(tmp_path, kind, entry):
    with_exif(tmp_path / "a", kind, block([entry]))
    assert np.array_equal(read(tmp_path / "a"), plain(kind))


ENTRIES = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from([0x128, 0x11A, 0x11B, 0x8769, 0x8825, 0x10F, 0x927C, 0x201, 0x14A]),
            st.integers(0, 65535),
        ),
        st.one_of(st.sampled_from(list(SIZES)), st.integers(0, 65535)),
        st.one_of(st.integers(0, 4), st.integers(0, 2**32 - 1)),
        st.binary(max_size=40),
    ),
    max_size=6,
)


@SLOW
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]),
    st.sampled_from("<>"),
    st.sampled_from(list(UPRIGHT)),
    ENTRIES,
)
@example("JPEG", "<", 6, [(RESOLUTION_UNIT, 2, 5, b"inch\0")])
def test_orientation_is_read_whatever_stands_beside_it(tmp_path, kind, order, orientation, entries):
    entries = [turned(orientation, order), *entries]
    if kind == "TIFF":
        foreign = [entry for entry in entries[1:] if entry[0] not in metadata.NEEDED_IN_TIFF]
        tiff(tmp_path / "a", [entries[0], *foreign], order)
    else:
        with_exif(tmp_path / "a", kind, block(entries, order))
    assert np.array_equal(read(tmp_path / "a"), UPRIGHT[orientation](plain(kind)))


@SLOW
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.binary(max_size=200))
def test_any_bytes_as_exif_leave_the_image_readable(tmp_path, kind, content):
    with_exif(tmp_path / "a", kind, content)
    found = read(tmp_path / "a")
    assert any(np.array_equal(found, upright(plain(kind))) for upright in UPRIGHT.values())


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


LONG = zlib.compress(b"a" * (2 << 20))


@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
        chunk(b"zTXt", b"Comment\0\0" + LONG),
        chunk(b"zTXt", b"Comment\0\7x"),
        chunk(b"iCCP", b"icc\0\0" + LONG),
        chunk(b"iCCP", b"icc\0\7x"),
        chunk(b"pHYs", b"\0"),
        chunk(b"cHRM", b"\0"),
        chunk(b"tRNS", b""),
        chunk(b"fcTL", b"\0"),
        chunk(b"tEXt", b"a\0b")[:-1] + b"\0",  # a wrong checksum
    ],
)
def test_png_with_odd_metadata_is_read_upright(tmp_path, odd):
    file = tmp_path / "a.png"
    with_exif(file, "PNG", block([turned(6)]))
    whole = file.read_bytes()
    file.write_bytes(whole[:33] + odd + whole[33:])
    assert np.array_equal(read(file), UPRIGHT[6](PIXELS))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_odd_metadata_hides_no_broken_pixels_and_the_error_is_one_line(tmp_path, kind):
    file = tmp_path / "a\nb"
    if kind == "PNG":
        PIL.Image.fromarray(PIXELS).save(file, "PNG")
        whole = file.read_bytes()
        file.write_bytes(whole[:33] + chunk(b"pHYs", b"\0") + whole[33:-40])
    else:
        tiff(file, [*ODD["unit cm, resolution as text"], (0x111, 4, 1, b"\xff\xff\xff\x7f")])
        place = struct.pack("<HHLL", 0x111, 4, 1, 8)
        file.write_bytes(file.read_bytes().replace(place, b"\0" * 12))
    with pytest.raises(ValueError, match="is not a readable image") as error:
        read(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pixels", "readable"),
    [
        (np.full((4, 4), 0.5, np.float32), False),
        (np.full((4, 4), 200, np.int32), False),
        (np.full((4, 4), 128 * 257, np.uint16), True),
        (np.full((4, 4), 128, np.uint8), True),
        (np.full((4, 4), True), True),
    ],
)
def test_tiff_whose_levels_have_no_known_range_is_refused(tmp_path, pixels, readable):
    file = tmp_path / "a.tif"
    PIL.Image.fromarray(pixels).save(file)
    if readable:
        assert read(file)[0, 0, 0] in (128, 255)
    else:
        with pytest.raises(ValueError, match="a.tif is not a readable image .*save it with 8 bits"):
            read(file)
