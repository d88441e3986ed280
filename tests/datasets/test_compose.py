import sys

import numpy as np
import pytest

from datasets.layout import DataError
from datasets.prepare import main
from datasets.prepare.compose import compose
from datasets.tables import column, read_table
from helpers.data_sets import builder, scheme_finder
from helpers.tiny_data import truncate, write_tiff
from utils.rasters.reading import open_raster
from utils.rasters.windows import Window

build_rucode = builder("rucode")
rucode_scheme = scheme_finder("rucode")

SHAPE = (4, 600, 11)  # two strips


def scene(seed, dtype=np.uint16, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 1024, shape).astype(dtype)


@pytest.fixture
def images(tmp_path):
    """Two pairs of one place each, all four in one folder."""
    folder = tmp_path / "Images"
    for seed, name in enumerate(("KVI_1", "KV1_1", "KVI_2", "KV1__2")):
        write_tiff(folder / f"{name}.tif", scene(seed), nodata=0)
    return folder


def table(path, text="before;after;note\nKVI_1;KV1_1.tif;x\n\nKVI_2.tif;KV1__2;\n"):
    path.write_text(text, encoding="utf-8-sig")
    return path


def by_table(images, tmp_path, **options):
    return compose(
        images, images, tmp_path / "out", table=table(tmp_path / "t.csv"), date1_column="before",
        date2_column="after", progress=False, **options,
    )  # fmt: skip


def pixels(path):
    raster = open_raster(path)
    return raster.read(Window(0, 0, raster.height, raster.width), range(raster.count))


def test_bands_of_both_dates_place_type_and_nodata_stay(images, tmp_path):
    assert by_table(images, tmp_path) == 2
    out = open_raster(tmp_path / "out/KVI_1__KV1_1.tif")
    assert np.array_equal(pixels(out.path), np.concatenate([scene(0), scene(1)]))
    first = open_raster(images / "KVI_1.tif")
    assert (out.crs, out.transform, out.dtype) == (first.crs, first.transform, np.uint16)
    assert (out.nodata, out.count) == ((0,) * 8, 8)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "KVI_1__KV1_1.tif",
        "KVI_2__KV1__2.tif",
    ]


def test_ids_of_a_column_and_of_files(images, tmp_path):
    rows = "Name,a,b\nplace 1,KVI_1,KV1_1\n"
    compose(
        images, images, tmp_path / "out", table=table(tmp_path / "t.csv", rows), date1_column="a",
        date2_column="b", id_column="Name", progress=False,
    )  # fmt: skip
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["place 1.tif"]


@pytest.mark.parametrize("kind", ["csv", "txt"])
def test_ids_are_split_where_both_halves_are_images(images, tmp_path, kind):
    names = ["KVI_2__KV1__2", "KVI_1__KV1_1"]
    path = tmp_path / f"ids.{kind}"
    if kind == "csv":
        path.write_text("Id,mask\n" + "".join(f"{name},2 1\n" for name in names))
    else:
        path.write_text("\n".join([*names, "# the end", ""]))
    out = tmp_path / "Images_composit/Images_composit/8_ch"
    assert compose(images, images, out, ids=path, progress=False) == 2
    assert np.array_equal(pixels(out / f"{names[0]}.tif")[4:], scene(3))
    dataset = build_rucode(tmp_path, "test", scheme=rucode_scheme(bands=["nir"]))
    assert dataset.names == sorted(names)


def test_same_names_in_two_folders_are_pairs(tmp_path):
    for folder, seed in (("a", 0), ("b", 1)):
        write_tiff(tmp_path / folder / "x.tif", scene(seed))
    assert compose(tmp_path / "a", tmp_path / "b", tmp_path / "out", progress=False) == 1
    assert np.array_equal(pixels(tmp_path / "out/x.tif")[4:], scene(1))
    with pytest.raises(ValueError, match="--table or --ids"):
        compose(tmp_path / "a", tmp_path / "a", tmp_path / "out2", progress=False)
    write_tiff(tmp_path / "b/y.tif", scene(1))
    with pytest.raises(DataError, match=r"a/y\.\*"):
        compose(tmp_path / "a", tmp_path / "b", tmp_path / "out2", progress=False)


def spoil_crs(path):
    write_tiff(path, scene(1), crs="EPSG:32638", nodata=0)
    return "grids differ", "CRS EPSG:32637 and EPSG:32638"


def spoil_transform(path):
    write_tiff(path, scene(1), left=500001, nodata=0)
    return "grids differ", "transform"


def spoil_size(path):
    write_tiff(path, scene(1, shape=(4, 600, 12)), nodata=0)
    return "sizes differ", "600 x 11 and 600 x 12"


def spoil_bands(path):
    write_tiff(path, scene(1)[:3], nodata=0)
    return "bands", "KV1_1.tif: 3 bands where 4 are needed"


def spoil_type(path):
    write_tiff(path, scene(1, np.uint8), nodata=0)
    return "bands", "uint16, nodata 0.0 and uint8, nodata 0.0"


def spoil_nodata(path):
    write_tiff(path, scene(1))
    return "bands", "nodata 0.0 and uint16, nodata None"


def spoil_file(path):
    truncate(path, 0.5)
    return "unreadable", "KV1_1.tif"


def spoil_name(path):
    path.unlink()
    return "no image", "KV1_1.* of KVI_1__KV1_1"


def spoil_twice(path):
    write_tiff(path.with_suffix(".tiff"), scene(1))
    return "same id twice", "KV1_1.tiff"


SPOILS = [
    spoil_crs, spoil_transform, spoil_size, spoil_bands, spoil_type, spoil_nodata, spoil_file,
    spoil_name, spoil_twice,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILS)
def test_one_bad_pair_and_nothing_is_written(images, tmp_path, spoil):
    rule, text = spoil(images / "KV1_1.tif")
    with pytest.raises(DataError) as error:
        by_table(images, tmp_path)
    assert [problem.requirement for problem in error.value.problems] == [rule]
    assert text in str(error.value) and not (tmp_path / "out").exists()


def test_an_id_twice_is_an_error(images, tmp_path):
    (tmp_path / "ids.txt").write_text("KVI_1__KV1_1\nKVI_1__KV1_1\n")
    with pytest.raises(DataError, match="same id twice"):
        compose(images, images, tmp_path / "out", ids=tmp_path / "ids.txt", progress=False)


def test_unknown_columns_list_those_there_are(images, tmp_path):
    path = table(tmp_path / "t.csv")
    for options, match in (
        ({"date1_column": "befor"}, "--date1-column 'befor' is no column; .* before, after, note"),
        ({"date1_column": "before"}, "--date2-column is missing; .* before, after, note"),
        ({"date1_column": "note", "date2_column": "after"}, r"'note' is empty in row\(s\) 3"),
    ):
        with pytest.raises(ValueError, match=match):
            compose(images, images, tmp_path / "out", table=path, progress=False, **options)


def test_files_in_the_way_are_kept_unless_overwrite(images, tmp_path):
    out = tmp_path / "out/KVI_1__KV1_1.tif"
    out.parent.mkdir()
    out.write_bytes(b"old")
    with pytest.raises(FileExistsError, match="--overwrite"):
        by_table(images, tmp_path)
    assert out.read_bytes() == b"old" and len(list(out.parent.iterdir())) == 1
    assert by_table(images, tmp_path, overwrite=True, dry_run=True) == 2
    assert out.read_bytes() == b"old"
    by_table(images, tmp_path, overwrite=True)
    assert open_raster(out).count == 8


def test_command_line(images, tmp_path, capsys):
    ids = tmp_path / "ids.txt"
    ids.write_text("KVI_1__KV1_1\n")
    words = ["compose", images, images, tmp_path / "out", "--ids", ids]
    main([*map(str, words), "--dry-run"])
    assert "would write 1 image(s)" in capsys.readouterr().out and not (tmp_path / "out").exists()
    main([*map(str, words)])
    assert "wrote 1 image(s)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--table and --ids"):
        main([*map(str, words), "--table", "t.csv"])


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables_with_any_separator(tmp_path, mark):
    text = 'a,b c\n"1,5",2\n,\n3,\n'.replace(",", mark)
    rows = read_table(table(tmp_path / "t.csv", text))
    assert rows == [{"a": f"1{mark}5", "b c": "2"}, {"a": "3", "b c": ""}]
    assert column(rows, "a", "--x") == [f"1{mark}5", "3"]


def test_xlsx_tables_hold_text_and_whole_numbers(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["before", "after"], ["KVI_1", 20180922], [None, None], ["KVI_2", 2.5]):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    assert read_table(tmp_path / "t.xlsx") == [
        {"before": "KVI_1", "after": "20180922"},
        {"before": "KVI_2", "after": "2.5"},
    ]


@pytest.mark.parametrize(("suffix", "package"), [("xlsx", "openpyxl"), ("xls", "xlrd")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, suffix, package):
    (tmp_path / f"t.{suffix}").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"`pip install {package}`, or save the table as csv"):
        read_table(tmp_path / f"t.{suffix}")


def test_tables_without_rows_or_files_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="--table"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="has no rows"):
        read_table(table(tmp_path / "t.csv", "a,b\n"))
