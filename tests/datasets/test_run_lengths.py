import tracemalloc

import numpy as np
import pytest

from datasets.rucode.run_lengths import (
    COLUMNS_AT_ONCE,
    StripEncoder,
    from_run_lengths,
    read_sample_ids,
    read_submission,
    to_run_lengths,
    write_run_lengths,
)

SHAPES = [(1, 1), (1, 9), (9, 1), (2, 3), (5, 8), (8, 5), (13, 17), (3, 600), (40, 33)]


def slow_encode(mask: np.ndarray) -> str:
    """Pixel by pixel, down each column."""
    runs, length, number = [], 0, 0
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            number += 1
            if mask[y, x]:
                length += 1
            elif length:
                runs += [number - length, length]
                length = 0
    if length:
        runs += [number - length + 1, length]
    return " ".join(map(str, runs))


def random_mask(seed: int, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random(shape) < rng.choice([0, 0.05, 0.5, 0.95, 1])).astype(np.uint8)


def write_csv(path, *lines: str):
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_the_published_example():
    assert to_run_lengths(np.array([[0, 1, 1], [1, 1, 0]])) == "2 4"
    assert from_run_lengths("2 4", 2, 3).tolist() == [[0, 1, 1], [1, 1, 0]]


def test_full_and_empty_masks():
    assert to_run_lengths(np.zeros((4, 5))) == "" and to_run_lengths(np.ones((4, 5))) == "1 20"
    assert (
        from_run_lengths("", 2, 2).tolist() == [[0, 0], [0, 0]]
        and from_run_lengths("1 4", 2, 2).all()
    )
    assert to_run_lengths(np.zeros((0, 3))) == ""


@pytest.mark.parametrize("shape", SHAPES)
def test_random_masks_match_a_plain_loop_and_read_back(shape):
    for seed in range(30):
        mask = random_mask(seed, shape)
        text = to_run_lengths(mask)
        assert text == slow_encode(mask) == to_run_lengths(mask.astype(bool)), seed
        back = from_run_lengths(text, *shape)
        assert back.dtype == np.uint8 and back.flags.c_contiguous
        np.testing.assert_array_equal(back, mask)


def test_runs_go_on_where_the_encoder_changes_blocks():
    mask = np.zeros((3, 2 * COLUMNS_AT_ONCE + 5), np.uint8)
    mask[2, COLUMNS_AT_ONCE - 1] = mask[:2, COLUMNS_AT_ONCE] = 1  # one run over the border
    mask[:, 2 * COLUMNS_AT_ONCE :] = 1  # one that begins at a border
    assert to_run_lengths(mask) == f"{3 * COLUMNS_AT_ONCE} 3 {6 * COLUMNS_AT_ONCE + 1} 15"


@pytest.mark.parametrize("seed", range(10))
def test_strips_in_any_order_give_the_text_of_the_whole(seed):
    rng = np.random.default_rng(seed)
    mask = random_mask(seed, (37, 29))
    cuts = [0, *sorted(rng.choice(np.arange(1, 37), 4, replace=False)), 37]
    encoder = StripEncoder(37, 29)
    for i in rng.permutation(5):
        encoder.add(cuts[i], mask[cuts[i] : cuts[i + 1]])
    assert encoder.text() == to_run_lengths(mask)


def test_strips_cost_a_bit_a_pixel():
    tracemalloc.start()
    encoder = StripEncoder(4096, 4096)
    for top in range(0, 4096, 64):
        encoder.add(top, np.eye(64, 4096, top, dtype=bool))
    text = encoder.text()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text.startswith("1 1 4098 1 8195 1") and len(text.split()) == 2 * 4096
    assert peak < 4096**2  # of one byte a pixel


def test_impossible_strips_are_errors():
    encoder = StripEncoder(4, 3)
    for top, shape in [(3, (2, 3)), (-1, (2, 3)), (0, (2, 2)), (0, (1, 2, 3))]:
        with pytest.raises(ValueError, match="does not lie in a scene of 4 x 3"):
            encoder.add(top, np.zeros(shape))
    with pytest.raises(ValueError, match=r"0 and 1 = changed, not 0\.\.255"):
        encoder.add(0, np.array([[0, 1, 255]]))
    encoder.add(2, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="3 rows were never added, the first is 0"):
        encoder.text()
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        to_run_lengths(np.zeros((1, 2, 2)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "3 numbers; was the text cut off"),
        ("1 x", "whole numbers"),
        ("1.5 2", "whole numbers"),
        (f"{10**30} 1", "whole numbers"),
        ("0 1", "run '0 1' does not lie in a mask of 2 x 3"),
        ("1 0", "at least one"),
        ("5 3", "run '5 3' does not lie"),
        ("1 -1", "does not lie"),
        ("1 3 3 1", "runs '1 3 3 1' overlap"),
        ("5 1 1 1", "not in order"),
    ],
)
def test_impossible_texts_are_errors(text, message):
    with pytest.raises(ValueError, match=message):
        from_run_lengths(text, 2, 3)


def test_runs_that_touch_read_as_one():
    np.testing.assert_array_equal(from_run_lengths("1 2 3 2", 2, 3), from_run_lengths("1 4", 2, 3))


def test_submission_has_the_order_of_the_sample_and_reads_back(tmp_path):
    sample = write_csv(tmp_path / "sample.csv", "Id,mask", "b,2 1", "a,2 1", "c,2 1")
    order = read_sample_ids(sample)
    assert order == ["b", "a", "c"]
    masks = {"a": "1 2 7 1", "b": "", "c": "4 4"}
    write_run_lengths(tmp_path / "new" / "out.csv", iter(masks.items()), order)
    assert (tmp_path / "new" / "out.csv").read_text() == "Id,mask\nb,\na,1 2 7 1\nc,4 4\n"
    back = read_submission(tmp_path / "new" / "out.csv")
    assert back == masks and list(back) == order


def test_a_mask_longer_than_the_csv_module_allows_reads_back(tmp_path):
    text = to_run_lengths(np.indices((300, 300)).sum(0) % 2)
    assert len(text) > 131072
    write_run_lengths(tmp_path / "out.csv", [("a", text)], ["a"])
    assert read_submission(tmp_path / "out.csv") == {"a": text}


def test_files_of_other_programs_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfId,mask\r\n"a","1 2"\r\nb,\r\n\r\n')
    assert read_submission(path) == {"a": "1 2", "b": ""}


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([("a", "")], "without a mask: b, c"),
        ([("a", ""), ("b", ""), ("c", ""), ("z", "")], "not in the sample submission: z"),
        ([("a", ""), ("a", ""), ("b", ""), ("c", "")], "there twice: a"),
    ],
)
def test_wrong_ids_are_errors_and_leave_no_file(tmp_path, masks, message):
    with pytest.raises(ValueError, match=message):
        write_run_lengths(tmp_path / "out.csv", masks, ["a", "b", "c"])
    assert not list(tmp_path.iterdir())


def test_many_wrong_ids_are_counted_not_listed(tmp_path):
    with pytest.raises(ValueError, match="0, 1, 2, 3, 4 and 35 more"):
        write_run_lengths(tmp_path / "out.csv", [], [str(i) for i in range(40)])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id,rle", "a,"], "must begin with the line Id,mask"),
        ([], "must begin with the line Id,mask"),
        (["Id,mask", "a"], "must hold an id and a mask"),
        (["Id,mask", ",1 2"], "must hold an id and a mask"),
        (["Id,mask", "a,", "a,1 2"], "there twice: a"),
    ],
)
def test_bad_submissions_are_errors(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        read_sample_ids(write_csv(tmp_path / "a.csv", *lines))


def test_a_missing_submission_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no submission at .*a\.csv"):
        read_submission(tmp_path / "a.csv")
