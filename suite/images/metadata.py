"""Image files byte by byte: damage that Pillow overlooks, and metadata that it chokes on."""

import struct
import zlib
from collections.abc import Iterator

PNG, JPEG = b"\x89PNG", b"\xff\xd8\xff"  # what such files begin with
# The orientation and how the pixels are stored; all else is metadata.
NEEDED_IN_TIFF = {
    *range(0x100, 0x104),  # width, height, bits, compression
    *(0x106, 0x10A, 0x111, 0x112, 0x115, 0x116, 0x117, 0x11C),  # photometric to planar
    *(0x124, 0x125, 0x13D, 0x140),  # fax options, predictor, palette
    *range(0x142, 0x146),  # tiles
    *(0x14C, 0x152, 0x153, 0x15B),  # inks, extra samples, sample format, JPEG tables
    *range(0x200, 0x20A),  # old JPEG
    *range(0x211, 0x215),  # YCbCr
}


def without_metadata(data: bytes) -> bytes:
    """Return a PNG or TIFF file without metadata that Pillow may refuse; others as they are."""
    if data.startswith(PNG):
        return _bare_png(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _bare_tiff(data)
    return data


def refuse_damaged(data: bytes) -> None:
    """Raise a ValueError if a PNG or JPEG lacks its end, or a PNG's checksums are wrong."""
    if data.startswith(JPEG) and b"\xff\xd9" not in _jpeg_pixels(data):
        raise ValueError("damaged: its end is missing")
    if not data.startswith(PNG):
        return
    kinds = []
    for kind, chunk in _png_chunks(data):
        if kind[:1].isupper() and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ValueError(f"damaged: a wrong checksum in {kind!r}")
        kinds.append(kind)
    if b"IEND" not in kinds:
        raise ValueError("damaged: its end is missing")


def _jpeg_pixels(data: bytes) -> bytes:
    """Return a JPEG file from its pixels on, without metadata, such as a thumbnail with its end."""
    start = 2
    while data[start : start + 1] == b"\xff" and data[start + 1 : start + 2] != b"\xda":
        filled = data[start + 1 : start + 2] == b"\xff"
        start += 1 if filled else 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return data[start:]


def is_lossless_webp(data: bytes) -> bool:
    """Return whether a WebP file's first frame is compressed without loss."""
    start = 12
    while start + 8 <= len(data):
        kind, size = struct.unpack_from("<4sL", data, start)
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8L"
        start += 24 if kind == b"ANMF" else 8 + size + size % 2  # a frame of an animation
    return False


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the names and bytes of a PNG file's chunks."""
    start = 8
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], data[start:end]
        start = end


def _bare_png(data: bytes) -> bytes:
    """Keep the chunks that hold pixels, whose names begin in upper case, and EXIF's."""
    kept = (c for kind, c in _png_chunks(data) if kind[:1].isupper() or kind == b"eXIf")
    return b"".join([data[:8], *kept])


def _bare_tiff(data: bytes) -> bytes:
    """Give the metadata's fields a type that readers skip."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "L", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    changed = bytearray(data)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from(order + "H", data, entry)
        if tag not in NEEDED_IN_TIFF:
            struct.pack_into(order + "H", changed, entry + 2, 0)
    return bytes(changed)
