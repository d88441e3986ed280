"""The files of a map: values, places, names, colours, overviews; all rows, or an error."""

from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
import rasterio
import torch

from helpers.map_data import COLOURS, PLACE, UTM
from maps.layers import Georeference, MapRows, layers_of, map_values, stored
from utils.schemes import NAIC2020, SECOND
from utils.structures import Scheme

ROWS = [0, 40, 80]
PLACED = Georeference(100, 90, rasterio.CRS.from_string(UTM), PLACE)


def random_rows(rows: MapRows, row: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Values of one part, some without data."""
    rng = np.random.default_rng((seed, row))
    values = {}
    for layer in rows.layers:
        shape = rows._height(row), rows.georeference.width
        array = (
            rng.random(shape) if not layer.values else rng.integers(len(layer.values), size=shape)
        )
        values[layer.name] = np.where(rng.random(shape) < 0.1, layer.nodata, array).astype(
            layer.dtype
        )
    return values


def written(folder, scheme: Scheme, place: Georeference = PLACED):
    rows = MapRows(folder / "rows", layers_of(scheme), place, ROWS)
    values = [random_rows(rows, row) for row in range(len(ROWS))]
    for row, part in enumerate(values):
        rows.write(folder, row, part)
    return rows, {x.name: np.concatenate([v[x.name] for v in values]) for x in rows.layers}


@pytest.mark.parametrize("scheme", [COLOURS, SECOND, NAIC2020], ids=lambda s: s.task)
def test_a_layer_holds_its_parts_in_their_place(tmp_path, scheme):
    rows, values = written(tmp_path, scheme)
    for layer in rows.layers:
        path = tmp_path / f"{layer.name}.tif"
        rows.join(layer, path)
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(file.read(1), values[layer.name])
            assert (file.crs, file.transform) == (PLACED.crs, PLACE)
            np.testing.assert_equal(file.nodata, layer.nodata)
            assert file.descriptions == (layer.text,)
            tags = file.tags(1)
            for value, name in enumerate(layer.values):
                assert not name or tags[f"CLASS_{value}"] == name
            if layer.palette:
                table = file.colormap(1)
                assert [table[v][:3] for v in range(len(layer.palette))] == [*layer.palette]
        if layer.values:
            assert f"<Category>{layer.values[-1]}</Category>" in path.with_suffix(
                ".tif.aux.xml"
            ).read_text(encoding="utf-8")


def test_files_are_cloud_optimized_with_overviews(tmp_path):
    cogeo = pytest.importorskip("rio_cogeo")
    place = PLACED._replace(height=1100, width=600)
    rows = MapRows(tmp_path / "rows", layers_of(COLOURS), place, [0, 500])
    for row in range(2):
        rows.write(tmp_path, row, random_rows(rows, row))
    for layer in rows.layers:
        path = tmp_path / f"{layer.name}.tif"
        rows.join(layer, path)
        assert cogeo.cog_validate(path, strict=True) == (True, [], [])
        with rasterio.open(path) as file:
            assert file.overviews(1) == [2, 4] and file.block_shapes == [(512, 512)]
    with rasterio.open(tmp_path / "change.tif", overview_level=1) as file:
        assert set(np.unique(file.read(1))) <= {0, 1, 255}  # classes are not averaged


def test_overviews_show_the_commonest_class(tmp_path):
    place = PLACED._replace(height=520, width=600)
    layer = next(x for x in layers_of(SECOND) if x.name == "date1")
    rows = MapRows(tmp_path / "rows", [layer], place, [0])
    # the mean colour of two pixels of 1, one of 5 and one of 6 is nearer to 5
    rows.write(tmp_path, 0, {"date1": np.tile(np.array([[1, 5], [6, 1]], np.uint8), (260, 300))})
    rows.join(layer, tmp_path / "date1.tif")
    with rasterio.open(tmp_path / "date1.tif", overview_level=0) as file:
        assert (file.read(1) == 1).all()


def test_without_a_place_there_is_none(tmp_path):
    rows, values = written(tmp_path, COLOURS, PLACED._replace(crs=None, transform=None))
    rows.join(rows.layers[0], tmp_path / "change.tif")
    with rasterio.open(tmp_path / "change.tif") as file:
        assert file.crs is None and file.transform.is_identity
        np.testing.assert_array_equal(file.read(1), values["change"])


def test_missing_rows_are_known(tmp_path):
    rows, _ = written(tmp_path, SECOND)
    assert rows.missing_rows() == []
    rows.path(rows.layers[2], 1).unlink()
    assert rows.missing_rows() == [1]


def test_a_lost_part_is_an_error(tmp_path):
    rows, _ = written(tmp_path, COLOURS)
    rows.path(rows.layers[0], 1).write_bytes(b"")
    with pytest.raises(OSError, match=r"could not write .*change.tif .*Is the disk full\?"):
        rows.join(rows.layers[0], tmp_path / "change.tif")


def test_codes_of_many_classes_take_16_bits(tmp_path):
    palette = tuple((i, i, i) for i in range(21))
    scheme = SECOND._replace(classes=tuple(f"c{i}" for i in range(20)), palette=palette)
    rows, values = written(tmp_path, scheme)
    layer = rows.layers[-1]
    assert layer.dtype == "uint16" and layer.nodata == 65535 and len(layer.values) == 401
    rows.join(layer, tmp_path / "transition.tif")
    with rasterio.open(tmp_path / "transition.tif") as file:
        np.testing.assert_array_equal(file.read(1), values["transition"])


def probs_of(first: list[int], second: list[int], change: list[float], count: int) -> torch.Tensor:
    """(C, 1, n): certain classes, from 1, of both dates, and P(changed)."""
    dates = [torch.nn.functional.one_hot(torch.tensor(d) - 1, count).T for d in (first, second)]
    return torch.cat([*dates, torch.tensor(change)[None]]).float()[:, None]


def test_values_of_semantic_change():
    probs = probs_of([1, 6, 3, 3, 2], [2, 1, 3, 4, 1], [0.9, 0.6, 0.8, 0.4, 0.9], 6)
    valid = np.array([[True, True, True, True, False]])
    layers = layers_of(SECOND)
    values = map_values(probs, torch.from_numpy(valid), SECOND, layers, 0.5)
    assert values["change"].tolist() == [[1, 1, 1, 0, 255]]
    assert values["date1"].tolist() == [[1, 6, 3, 0, 255]]
    assert values["date2"].tolist() == [[2, 1, 3, 0, 255]]
    # 1 + (from - 1) * 6 + to - 1: 1 + 0 + 1, 1 + 30 + 0, 1 + 12 + 2
    assert values["transition"].tolist() == [[2, 31, 15, 0, 255]]
    assert np.isnan(values["change_probability"][0]).tolist() == [False] * 4 + [True]
    full = map_values(probs, torch.from_numpy(valid), SECOND, layers, 0.5, True)
    assert full["date1"].tolist() == [[1, 6, 3, 3, 255]]
    assert full["date2"].tolist() == [[2, 1, 3, 4, 255]]
    assert full["transition"].tolist() == values["transition"].tolist()
    lower = map_values(probs, torch.from_numpy(valid), SECOND, layers, 0.3)
    assert lower["change"].tolist() == [[1, 1, 1, 1, 255]]


def test_values_of_binary_change_and_of_land_cover():
    probs, valid = torch.tensor([[[0.2, 0.7, 0.9]]]), np.array([[True, True, False]])
    values = map_values(probs, torch.from_numpy(valid), COLOURS, layers_of(COLOURS), 0.5)
    assert values.keys() == {"change", "change_probability"}
    assert values["change"].tolist() == [[0, 1, 255]]
    probs = torch.tensor([0.25, 0.5, 0.125, 0.125, 0, 0, 0, 0])[:, None, None].expand(8, 1, 3)
    values = map_values(probs, torch.from_numpy(valid), NAIC2020, layers_of(NAIC2020))
    assert values["classes"].tolist() == [[2, 2, 255]]
    assert values["confidence"][0, :2].tolist() == [0.5, 0.5]


def test_the_mask_is_that_of_the_stored_probability():
    probs = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
    values = map_values(probs, None, COLOURS, layers_of(COLOURS), 0.37)
    assert ((values["change_probability"] > 0.37) == (values["change"] == 1)).all()
    assert (stored(probs) - probs).abs().max() < 2**-11
    just_above = torch.tensor([[[0.50001]]])  # stored as 0.5
    values = map_values(just_above, None, COLOURS, layers_of(COLOURS), 0.5)
    assert values["change"].tolist() == [[0]]


def test_parts_may_be_read_by_themselves(tmp_path):
    rows, values = written(tmp_path, COLOURS)
    with rasterio.open(rows.path(rows.layers[0], 2)) as file:
        np.testing.assert_array_equal(file.read(1), values["change"][80:])


def test_styles_have_every_value_also_of_16_bit_codes_and_a_ramp_for_probabilities():
    many = Scheme("semantic_change", tuple(f"c{i}" for i in range(20)), ((9, 9, 9),) * 21)
    styles = {layer.name: fromstring(layer.style()) for layer in layers_of(many)}
    entries = styles["transition"].findall(".//paletteEntry")
    assert [int(e.get("value")) for e in entries] == list(range(20 * 20 + 1))
    assert next(x for x in layers_of(many) if x.name == "transition").colour_table == ()
    ramp = styles["change_probability"].find(".//rasterrenderer")
    assert ramp.get("type") == "singlebandpseudocolor"
