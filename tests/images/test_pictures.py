"""Pixels in and out: rounding, decoding ahead of the network, writing behind it."""

import threading
import time

import numpy as np
import PIL.Image
import pytest
import torch

from suite.images import pictures
from suite.images.folders import in_batches, list_images


def write(file, red=10):
    PIL.Image.new("RGB", (8, 8), (red, 20, 30)).save(file)


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
            pixels = torch.full((3, 4, 4), number, dtype=torch.uint8)
            writer.write(pixels, tmp_path / f"{number}.png")
            most = max(most, waiting)
    assert most <= 4
    for number in range(20):
        assert pictures.read_image(tmp_path / f"{number}.png").getpixel((0, 0)) == (number,) * 3


def test_error_of_the_writer_is_raised(tmp_path):
    message = "can't write .*gone/a.png: No such file"
    with pytest.raises(OSError, match=message), pictures.Writer() as writer:
        writer.write(torch.zeros(3, 4, 4, dtype=torch.uint8), tmp_path / "gone" / "a.png")


def test_batches_decoded_ahead_are_those_decoded_here(tmp_path):
    for number in (0, 2, 3):
        write(tmp_path / f"{number}.png", number)
    for number in (1, 4):
        (tmp_path / f"{number}.png").touch()
    batches = in_batches(list_images(tmp_path), 2)
    expected = [["0.png"], ["2.png", "3.png"], []]  # the whole last batch is unreadable
    for workers in (0, 2):
        skipped = []
        read = list(pictures.read_batches(batches, workers, skipped=skipped))
        assert [[image.name for image in batch] for batch, _ in read] == expected
        assert [pixels[:, 0, 0, 0].tolist() for _, pixels in read[:2]] == [[0], [2, 3]]
        assert skipped == ["1.png", "4.png"]
        assert list(pictures.read_batches([], workers)) == []
        assert all(
            pixels.is_contiguous() and pixels.shape[1:] == (3, 8, 8) for _, pixels in read[:2]
        )


@pytest.fixture
def twenty(tmp_path):
    """Twenty batches of one image each."""
    for number in range(20):
        write(tmp_path / f"{number:02d}.png")
    return in_batches(list_images(tmp_path), 1)


@pytest.mark.parametrize(("size", "workers", "most"), [(1, 2, 4), (5, 2, 10), (1, 1, 2), (1, 0, 0)])
def test_threads_decode_two_batches_or_two_images_each_ahead(
    twenty, monkeypatch, size, workers, most
):
    read, threads, read_image = [], set(), pictures.read_image

    def recorded(path):
        threads.add(threading.current_thread())
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(pictures, "read_image", recorded)
    batches = in_batches([image for (image,) in twenty], size)
    for number, _ in enumerate(pictures.read_batches(batches, workers), 1):
        time.sleep(0.02)  # for threads that would go on
        assert len(read) <= number * size + most
    assert len(read) == 20
    assert len(threads) <= max(workers, 1)
    assert (threading.current_thread() in threads) == (workers == 0)


def stop(decoded):
    decoded.close()


def press_ctrl_c(decoded):
    with pytest.raises(KeyboardInterrupt):
        decoded.throw(KeyboardInterrupt)


def meet_an_error(decoded):
    for _ in range(2):
        next(decoded)
    with pytest.raises(ValueError, match=r"03\.png is not a readable image"):
        next(decoded)


@pytest.mark.parametrize("end", [stop, press_ctrl_c, meet_an_error])
def test_threads_end_with_whoever_takes_their_images(twenty, end):
    twenty[3][0].path.write_bytes(b"")
    before = threading.active_count()
    decoded = pictures.read_batches(twenty, workers=2)
    next(decoded)
    assert threading.active_count() > before
    end(decoded)
    patience = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < patience:
        time.sleep(0.01)
    assert threading.active_count() == before
