import os
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.background import BackgroundWriter
from utils.files import zip_files
from utils.rasters.masks import palette_bytes, write_mask, write_probs

PALETTE = ((255, 255, 255), (0, 0, 255), (128, 128, 128), (0, 128, 0))


def some_mask(seed: int = 0, size: tuple[int, int] = (30, 41)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, len(PALETTE), size, dtype=np.uint8)


def test_mask_reads_back_as_indices_and_as_colours(tmp_path):
    mask = some_mask()
    write_mask(tmp_path / "new" / "folder" / "a.png", mask, PALETTE)
    image = Image.open(tmp_path / "new" / "folder" / "a.png")
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), mask)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.array(PALETTE)[mask])


def test_mask_with_many_classes_reads_back(tmp_path):
    palette = [(i, 255 - i, i // 2) for i in range(256)]
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_mask(tmp_path / "a.png", mask, palette)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), mask)


def test_a_transposed_view_is_written_as_it_looks(tmp_path):
    mask = some_mask().T
    write_mask(tmp_path / "a.png", mask, PALETTE)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((2, 2), 4, np.uint8), "value 4 has no colour"),
        (np.zeros((2, 2), np.int64), "must be"),
        (np.zeros((1, 2, 2), np.uint8), "must be"),
    ],
)
def test_a_bad_mask_is_an_error_and_leaves_no_file(tmp_path, mask, message):
    with pytest.raises(ValueError, match=message):
        write_mask(tmp_path / "a.png", mask, PALETTE)
    assert not list(tmp_path.iterdir())


def test_palette_bytes_are_flat():
    assert palette_bytes(PALETTE[:2]) == bytes([255, 255, 255, 0, 0, 255])


def test_probs_are_float16_and_only_what_is_given(tmp_path):
    semantic = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    write_probs(tmp_path / "a.npz", semantic=semantic)
    write_probs(tmp_path / "b.npz", semantic=semantic, change=semantic[0, 0])
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert a.files == ["semantic"] and sorted(b.files) == ["change", "semantic"]
        assert b["change"].dtype == a["semantic"].dtype == np.float16
        np.testing.assert_allclose(a["semantic"], semantic, atol=1e-3)
    with pytest.raises(ValueError, match="neither"):
        write_probs(tmp_path / "c.npz")


def test_zip_holds_both_dates_sorted_and_the_same_bytes_each_time(tmp_path):
    masks = tmp_path / "masks"
    for folder in ("im2", "im1"):
        for name in ("b.png", "a.png"):
            write_mask(masks / folder / name, some_mask(), PALETTE)
    write_mask(masks / "im1" / "left_over.png", some_mask(), PALETTE)  # of an earlier test
    files = [f"{date}/{name}.png" for date in ("im2", "im1") for name in ("b", "a")]
    assert zip_files(masks / "submission.zip", masks, files) == 4
    first = (masks / "submission.zip").read_bytes()
    for path in masks.rglob("*.png"):
        os.utime(path, (10**9, 10**9))
    assert zip_files(masks / "submission.zip", masks, files) == 4
    assert (masks / "submission.zip").read_bytes() == first
    with zipfile.ZipFile(masks / "submission.zip") as archive:
        assert archive.namelist() == ["im1/a.png", "im1/b.png", "im2/a.png", "im2/b.png"]
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
        assert archive.read("im1/a.png") == (masks / "im1" / "a.png").read_bytes()


def test_a_missing_mask_is_an_error_and_leaves_no_archive(tmp_path):
    write_mask(tmp_path / "im1" / "a.png", some_mask(), PALETTE)
    with pytest.raises(FileNotFoundError, match=r"im1/b\.png"):
        zip_files(tmp_path / "a.zip", tmp_path, ["im1/a.png", "im1/b.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["im1"]


def test_background_writer_writes_everything(tmp_path):
    with BackgroundWriter(threads=3, max_waiting=4) as writer:
        for i in range(40):
            writer.submit(write_mask, tmp_path / f"{i}.png", some_mask(i), PALETTE)
    assert len(list(tmp_path.iterdir())) == 40
    for i in range(40):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"{i}.png")), some_mask(i))


def test_submit_does_not_wait_for_the_write_until_the_queue_is_full(tmp_path):
    gate, written, submitted = threading.Event(), [], []

    def slow(path: Path) -> None:
        assert gate.wait(10)
        written.append(path)

    writer = BackgroundWriter(threads=1, max_waiting=2)
    for i in range(2):
        writer.submit(slow, Path(str(i)))
    assert not written  # returned before anything was written

    def submit_more() -> None:
        for i in range(2, 6):
            writer.submit(slow, Path(str(i)))
            submitted.append(i)

    caller = threading.Thread(target=submit_more)
    caller.start()
    caller.join(0.2)
    assert caller.is_alive() and len(submitted) <= 1  # one at work, two waiting, no more
    gate.set()
    caller.join(10)
    writer.close()
    assert written == [Path(str(i)) for i in range(6)]


def test_first_failure_is_raised_with_the_file_named(tmp_path):
    def fail(path: Path) -> None:
        raise OSError("no space left on device")

    writer = BackgroundWriter(threads=1)
    writer.submit(fail, tmp_path / "a.png")
    with pytest.raises(OSError, match=r"a\.png: no space left") as info:
        for _ in range(1000):
            writer.submit(write_mask, tmp_path / "b.png", some_mask(), PALETTE)
            time.sleep(0.005)
    assert isinstance(info.value.__cause__, OSError)
    with pytest.raises(OSError, match=r"a\.png"), BackgroundWriter() as writer:
        writer.submit(fail, tmp_path / "a.png")


def test_an_error_of_the_caller_is_not_hidden_and_work_is_finished(tmp_path):
    with pytest.raises(KeyError), BackgroundWriter() as writer:
        writer.submit(write_mask, tmp_path / "a.png", some_mask(), PALETTE)
        raise KeyError("mine")
    assert (tmp_path / "a.png").exists()


def test_submit_after_close_is_an_error(tmp_path):
    writer = BackgroundWriter()
    writer.close()
    with pytest.raises(RuntimeError, match="closed"):
        writer.submit(write_mask, tmp_path / "a.png", some_mask(), PALETTE)
