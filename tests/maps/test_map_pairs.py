"""What is to be predicted: images, folders, patterns, tables."""

import pytest

from maps.pairs import find_maps, wildcard_text


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Makes empty files in the working folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return make


def found(words: list[str], num_dates: int = 2) -> dict[str, tuple[str, ...]]:
    return {
        one.name: tuple(path.as_posix() for path in one.images)
        for one in find_maps(words, num_dates)
    }


def test_two_images_are_one_map_without_a_name(files):
    files("before.tif", "after.jp2")
    assert found(["before.tif", "after.jp2"]) == {"": ("before.tif", "after.jp2")}


def test_folders_are_paired_by_name_whatever_the_format(files):
    files("a/x.tif", "a/y.vrt", "b/x.png", "b/y.TIF", "a/x.tif.aux.xml", "a/.hidden.tif", "b/n.txt")
    assert found(["a", "b"]) == {"x": ("a/x.tif", "b/x.png"), "y": ("a/y.vrt", "b/y.TIF")}


def test_envi_is_found_by_its_header(files):
    files("a/x", "a/x.hdr", "b/x.dat", "b/x.hdr", "b/other.dat")
    assert found(["a", "b"]) == {"x": ("a/x", "b/x.dat")}


def test_patterns_are_paired_by_what_the_wildcards_stand_for(files):
    files("2019/p1_old.tif", "2019/p2_old.tif", "2021/p1_new.tif", "2021/p2_new.tif", "2021/x.tif")
    assert found(["2019/*_old.tif", "2021/*_new.tif"]) == {
        "p1": ("2019/p1_old.tif", "2021/p1_new.tif"),
        "p2": ("2019/p2_old.tif", "2021/p2_new.tif"),
    }


@pytest.mark.parametrize(
    ("pattern", "path", "text"),
    [
        ("a/*.tif", "a/x.tif", "x"),
        ("a/*", "a/x.tif", "x"),
        ("a/t?_[0-9].tif", "a/tz_7.tif", "z_7"),
        ("**/b/*.tif", "q/r/b/x.tif", "q_r_x"),
        ("**/*.tif", "x.tif", "x"),
        ("a.b/*(1).tif", "a.b/x(1).tif", "x"),
    ],
)
def test_text_of_wildcards(pattern, path, text):
    from pathlib import Path

    assert wildcard_text(pattern, Path(path)) == text


def test_tables_name_images_relative_to_themselves(files, tmp_path):
    files("in/a.tif", "in/b.tif", "c.tif")
    (tmp_path / "in" / "pairs.csv").write_text(
        "before;after;name\na.tif;b.tif;one\na.tif;../c.tif;two"
    )
    assert found(["in/pairs.csv"]) == {
        "one": ("in/a.tif", "in/b.tif"),
        "two": ("in/a.tif", "in/../c.tif"),
    }
    (tmp_path / "one.csv").write_text("image\nin/a.tif\n")
    assert found(["one.csv"], 1) == {"a": ("in/a.tif",)}


def test_one_image_or_a_folder_for_land_cover(files):
    files("a/x.tif", "a/y.tif")
    assert found(["a/x.tif"], 1) == {"": ("a/x.tif",)}
    assert found(["a"], 1) == {"x": ("a/x.tif",), "y": ("a/y.tif",)}


@pytest.mark.parametrize(
    ("words", "num_dates", "message"),
    [
        (["a/x.tif", "a/y.tif"], 1, "land cover, which reads one image"),
        (["a/x.tif"], 2, "change between two dates"),
        (["a/x.tif", "a/y.tif", "b/x.tif"], 2, "pass two, BEFORE AFTER"),
        (["a", "b"], 2, "b lacks the mates of a/y.tif"),
        (["b", "a"], 2, "b lacks the mates of a/y.tif"),
        (["a", "a/x.tif"], 2, "one is an image"),
        (["twice", "b"], 2, "x.png and x.tif have one name"),
        (["a/no.tif", "a/x.tif"], 2, "there is no a/no.tif"),
        (["empty", "a"], 2, "no images in empty"),
        (["a/q*.tif", "a"], 2, "no images match"),
        (["no.csv"], 2, "there is no no.csv"),
        (["header.csv"], 2, "^header.csv has no rows"),
        (["columns.csv"], 2, "'before' is no column"),
        (["names.csv"], 2, "two maps have the name 'x'"),
        (["names.csv", "a"], 2, "names.csv: a table names all images by itself"),
        (["paths.csv"], 2, r"'\.\./x' is no name"),
        (["gone.csv"], 2, "there is no gone.tif"),
    ],
)
def test_wrong_inputs_are_named(files, tmp_path, words, num_dates, message):
    files("a/x.tif", "a/y.tif", "b/x.tif", "twice/x.tif", "twice/x.png", "empty/readme.txt")
    (tmp_path / "header.csv").write_text("before,after\n")
    (tmp_path / "columns.csv").write_text("first,second\na/x.tif,b/x.tif\n")
    (tmp_path / "names.csv").write_text("before,after\na/x.tif,b/x.tif\nb/x.tif,a/x.tif\n")
    (tmp_path / "paths.csv").write_text("before,after,name\na/x.tif,b/x.tif,../x\n")
    (tmp_path / "gone.csv").write_text("before,after\ngone.tif,b/x.tif\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_maps(words, num_dates)


def test_a_wildcard_that_stands_for_nothing_gives_the_name_of_the_file(files):
    files("a/s.tif", "a/s2.tif", "b/s.tif", "b/s2.tif")
    assert [one.name for one in find_maps(["a/s*.tif", "b/s*.tif"], 2)] == ["2", "s"]


def test_maps_without_a_name_in_a_table_are_called_like_the_file_of_date_1(files, tmp_path):
    files("a/x.tif", "b/y.tif", "b/z.tif")
    rows = ["before,after,name", "a/x.tif,b/y.tif,", "a/x.tif,b/z.tif,other"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    assert [one.name for one in find_maps(["t.csv"], 2)] == ["x", "other"]


def test_folders_with_brackets_in_front_of_a_pattern(files):
    """Brackets of a folder that is there are part of its name."""
    files(
        "in 2019 [A]/x.tif", "in 2021 [A]/x.tif", "in 2021 [A]/sub [1]/y_b.tif", "in 2019 A/z.tif"
    )
    pair = ("in 2019 [A]/x.tif", "in 2021 [A]/x.tif")
    assert found(["in 2019 [A]/*.tif", "in 2021 [A]/*.tif"]) == {"x": pair}
    assert found(["in 2021 [A]/sub [1]/*_b.tif"], 1) == {"y": ("in 2021 [A]/sub [1]/y_b.tif",)}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_of_spreadsheets(files, tmp_path, encoding):
    files("a.tif", "b.tif")
    (tmp_path / "t.csv").write_text("before;after;name\r\na.tif;b.tif;été\r\n", encoding)
    assert set(found(["t.csv"])) == {"été"}


def test_a_table_in_another_encoding_is_refused_by_name(files, tmp_path):
    (tmp_path / "t.csv").write_text("before,after,name\na.tif,b.tif,été\n", "cp1252")
    with pytest.raises(ValueError, match=r"t\.csv is not UTF-8 .*save it as UTF-8"):
        find_maps(["t.csv"], 2)
