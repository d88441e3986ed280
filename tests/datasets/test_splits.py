import pytest

from datasets.splits import read_ids, split_names

NAMES = [f"{index:05d}" for index in range(2968)]


@pytest.mark.parametrize("rule", ["every10th", "hash10"])
def test_parts_are_disjoint_sorted_and_whole(rule):
    train, val = split_names(NAMES[::-1], rule)
    assert train == sorted(train) and val == sorted(val)
    assert sorted(train + val) == NAMES


def test_every10th_is_the_published_split():
    train, val = split_names(NAMES, "every10th")
    assert (len(train), len(val)) == (2671, 297)
    assert val[:3] == ["00000", "00010", "00020"]


def test_hash10_takes_about_a_tenth():
    _, val = split_names(NAMES, "hash10")
    assert 240 < len(val) < 360  # 297 expected, standard deviation 16


def test_hash10_keeps_an_id_where_it_is_when_others_come_and_go():
    val = set(split_names(NAMES, "hash10")[1])
    assert set(split_names(NAMES[::2], "hash10")[1]) == val & set(NAMES[::2])


def test_hash10_is_the_same_on_every_machine():
    # `echo -n 00004 | sha1sum` starts with 05, 00011 and 00018 with 09: below 0x19.9, a tenth
    assert split_names(NAMES[:20], "hash10")[1] == ["00004", "00011", "00018"]


def test_hash10_of_few_tiles_still_validates_on_one():
    for count in range(2, 12):
        train, val = split_names(NAMES[:count], "hash10")
        assert val and train


@pytest.mark.parametrize("rule", ["every10th", "hash10"])
@pytest.mark.parametrize("names", [[], ["a"]])
def test_too_few_tiles_are_an_error(rule, names):
    with pytest.raises(ValueError, match=rf"--split {rule} .* leaves none"):
        split_names(names, rule)


def test_a_file_lists_the_ids_that_validate(tmp_path):
    (tmp_path / "ids.txt").write_text("# held out\n00003.png\n00001  # a lake\n\n")
    train, val = split_names(NAMES[:5], str(tmp_path / "ids.txt"))
    assert val == ["00001", "00003"]
    assert train == ["00000", "00002", "00004"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("00001\n99999\n", r"1 id\(s\) not in the training folder: 99999"),
        ("00001\n00001.png\n", r"1 id\(s\) named twice: 00001"),
        ("# nothing\n", "leaves none for validation"),
        ("00000\n00001\n00002\n", "leaves none for training"),
    ],
)
def test_a_wrong_list_is_an_error(tmp_path, text, match):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(ValueError, match=match):
        split_names(NAMES[:3], str(tmp_path / "ids.txt"))


def test_neither_rule_nor_file_names_the_rules():
    with pytest.raises(FileNotFoundError, match="every10th, official, hash10"):
        split_names(NAMES, "every5th")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_any_unicode_with_hashes_in_ids_and_columns(tmp_path, encoding):
    names = ["lot#1", "影像 2", "t_3", "t_4"]
    lines = [
        "# a comment",
        "lot#1.png  # the first",
        "影像 2.png",
        "A/t_3.png B/t_3.png label/t_3.png",
        "",
    ]
    path = tmp_path / "ids.txt"
    path.write_bytes("\r\n".join([*lines, "t_4"]).encode(encoding))
    assert read_ids(path, names) == names


def test_a_list_in_another_encoding_names_the_file(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes("影像".encode("gbk"))
    with pytest.raises(ValueError, match=r"ids\.txt is not UTF-8 .*save it as UTF-8"):
        read_ids(path, ["a"])
