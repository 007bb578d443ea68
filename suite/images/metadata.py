"""Image files without metadata on which Pillow fails."""

import struct

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
    if data.startswith(b"\x89PNG"):
        return _bare_png(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _bare_tiff(data)
    return data


def _bare_png(data: bytes) -> bytes:
    """Keep the chunks that hold pixels, whose names begin in upper case, and EXIF's."""
    kept, start = [data[:8]], 8
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        if kind[:1].isupper() or kind == b"eXIf":
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


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
