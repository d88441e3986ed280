import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from datasets.naic2020.submission import read_pkl, read_png, to_codes, to_png, write_pkl, write_zip

PREDS = [np.arange(12, dtype=np.int64).reshape(3, 4) % 8, np.full((2, 5), 7, np.uint8)]


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_png_round_trip():
    for pred in PREDS:
        data = to_png(pred)
        assert data.startswith(b"\x89PNG") and np.array_equal(read_png(data), pred)
        assert Image.open(io.BytesIO(data)).mode == "L"
    with pytest.raises(ValueError, match="no PNG"):
        read_png(b"not one")


def test_pkl_round_trip(tmp_path):
    pngs = [to_png(pred) for pred in PREDS]
    assert write_pkl(tmp_path / "out.pkl", iter(pngs)) == 2
    assert read_pkl(tmp_path / "out.pkl") == pngs
    assert pickle.loads((tmp_path / "out.pkl").read_bytes()) == pngs  # for others' programs


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_files_of_mmcv_are_read_in_any_protocol(tmp_path, protocol):
    pngs = [*(to_png(pred) for pred in PREDS), b"", bytes(range(256))]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(pngs, protocol))
    assert read_pkl(tmp_path / "a.pkl") == pngs


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_file_that_would_run_a_command_runs_nothing(tmp_path, protocol):
    path, trace = tmp_path / "out.pkl", tmp_path / "trace"
    path.write_bytes(pickle.dumps([b"x", Attack(trace)], protocol))
    with pytest.raises(ValueError, match=r"out.pkl is no pickled list of PNG.*\.system"):
        read_pkl(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [{"a": b""}, [1], ["text"], b"", [np.zeros(2)], [[b""]]])
def test_anything_else_is_refused(tmp_path, content):
    path = tmp_path / "out.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="predict again"):
        read_pkl(path)


def test_broken_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no"):
        read_pkl(tmp_path / "a.pkl")
    for content in (b"", b"\x80\x04", b"c_codecs\nencode\n(Vx\nVutf7\ntR."):
        (tmp_path / "a.pkl").write_bytes(content)
        with pytest.raises(ValueError, match="no pickled list"):
            read_pkl(tmp_path / "a.pkl")


def test_zip_holds_16_bit_codes_in_the_order_of_the_list(tmp_path):
    path = tmp_path / "res.zip"
    assert write_zip(path, ["b", "a"], iter(PREDS)) == 2
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["results/b.png", "results/a.png"]
        for name, pred in zip(archive.namelist(), PREDS, strict=True):
            data = archive.read(name)
            assert data[24:26] == b"\x10\x00"  # of the PNG's head: 16 bits, grey
            stored = np.array(Image.open(io.BytesIO(data)))
            assert np.array_equal(stored, (pred.astype(int) + 1) * 100)
    first = path.read_bytes()
    write_zip(path, ["b", "a"], PREDS)
    assert path.read_bytes() == first


def test_codes():
    assert to_codes(np.array([[0, 7]])).tolist() == [[100, 800]]
    assert to_codes(np.array([[0]], np.uint8)).dtype == np.uint16
    for wrong in ([[255]], [[-1]], [0, 1], [[0.5]]):
        with pytest.raises(ValueError, match=r"must be integers \(H, W\) in 0..254"):
            to_codes(np.array(wrong))


def test_names_and_predictions_must_match(tmp_path):
    with pytest.raises(ValueError, match="a twice"):
        write_zip(tmp_path / "res.zip", ["a", "a"], PREDS)
    with pytest.raises(ValueError):
        write_zip(tmp_path / "res.zip", ["a", "b", "c"], PREDS)
    assert not (tmp_path / "res.zip").exists()
