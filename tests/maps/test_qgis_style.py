from xml.etree import ElementTree

import pytest

from maps.qgis_style import ramp_style, raster_style, vector_style
from maps.transitions import names, palette
from utils.figures.colours import DEEP, PALE
from utils.schemes import SECOND

NAMES = ("unchanged", *SECOND.classes)


def rgb(text: str) -> tuple[int, ...]:
    """ "#0102ff" or "1,2,255,255" -> (1, 2, 255)."""
    if text.startswith("#"):
        return tuple(bytes.fromhex(text[1:]))
    return tuple(int(level) for level in text.split(","))[:3]


def test_raster_style_has_every_class_with_its_colour():
    root = ElementTree.fromstring(raster_style(NAMES, SECOND.palette))
    assert root.tag == "qgis" and root.get("version").startswith("3.")
    renderer = root.find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    found = {int(e.get("value")): e for e in renderer.findall("colorPalette/paletteEntry")}
    assert [found[value].get("label") for value in range(7)] == list(NAMES)
    assert tuple(rgb(found[value].get("color")) for value in range(7)) == SECOND.palette
    assert [found[value].get("alpha") for value in range(7)] == ["0"] + ["255"] * 6


def test_values_without_a_name_are_left_out():
    root = ElementTree.fromstring(raster_style(("", "water"), ((9, 9, 9), (0, 0, 255)), ()))
    [entry] = root.iter("paletteEntry")
    assert (entry.get("value"), entry.get("alpha")) == ("1", "255")


def test_vector_style_has_every_code_with_its_colour():
    text, colours = names(SECOND)[1:], palette(SECOND)[1:]
    root = ElementTree.fromstring(vector_style("code", text, colours, first=1))
    renderer = root.find("renderer-v2")
    assert (renderer.get("type"), renderer.get("attr")) == ("categorizedSymbol", "code")
    categories = renderer.findall("categories/category")
    assert [int(c.get("value")) for c in categories] == list(range(1, 37))
    assert [c.get("label") for c in categories] == text
    symbols = {s.get("name"): s for s in renderer.findall("symbols/symbol")}
    assert len(symbols) == 36
    for category, colour in zip(categories, colours, strict=True):
        symbol = symbols[category.get("symbol")]
        assert symbol.get("type") == "fill"
        options = {o.get("name"): o.get("value") for o in symbol.findall("layer/Option/Option")}
        old = {p.get("k"): p.get("v") for p in symbol.findall("layer/prop")}
        assert options == old and rgb(options["color"]) == colour


def test_ramp_style_runs_from_0_to_1():
    root = ElementTree.fromstring(ramp_style("P(changed)"))
    renderer = root.find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("singlebandpseudocolor", "1")
    assert (renderer.get("classificationMin"), renderer.get("classificationMax")) == ("0", "1")
    shader = renderer.find("rastershader/colorrampshader")
    assert shader.get("colorRampType") == "INTERPOLATED"
    items = shader.findall("item")
    assert [float(item.get("value")) for item in items] == [0, 0.25, 0.5, 0.75, 1]
    assert [item.get("label") for item in items] == ["P(changed): 0", "0.25", "0.5", "0.75", "1"]
    assert (rgb(items[0].get("color")), rgb(items[-1].get("color"))) == (PALE, DEEP)
    options = {
        o.get("name"): rgb(o.get("value")) for o in shader.findall("colorramp/Option/Option")
    }
    assert options == {"color1": PALE, "color2": DEEP}
    assert root.find("blendMode").text == "0"


def test_codes_of_16_bits_have_a_style():
    classes = tuple(f"class {number}" for number in range(1, 21))
    scheme = SECOND._replace(classes=classes, palette=((0, 0, 0),) * 21)
    colours = palette(scheme)
    root = ElementTree.fromstring(raster_style(names(scheme), colours))
    entries = {int(e.get("value")): e for e in root.iter("paletteEntry")}
    assert sorted(entries) == list(range(401))
    assert entries[400].get("label") == "within class 20"
    assert rgb(entries[300].get("color")) == colours[300]
    assert [entries[code].get("alpha") for code in (0, 1, 400)] == ["0", "255", "255"]


def test_special_characters_survive():
    name = 'Äcker & "Wiesen" <2 ha>'
    assert name in ElementTree.fromstring(ramp_style(name)).find(".//item").get("label")
    for text in (raster_style([name], [(1, 2, 3)]), vector_style("code", [name], [(1, 2, 3)])):
        labels = [e.get("label") for e in ElementTree.fromstring(text).iter() if e.get("label")]
        assert labels == [name]


@pytest.mark.parametrize(
    "make", [raster_style, lambda names, colours: vector_style("code", names, colours)]
)
def test_names_without_colours_are_an_error(make):
    with pytest.raises(ValueError, match="7 names, but 6 colours"):
        make(NAMES, SECOND.palette[1:])
