"""Style files (.qml) of QGIS 3, with colours and names of classes.

QGIS loads the style that has the same name as the layer's file. For a GeoPackage, this needs QGIS
3.8 and a file with a single layer.
"""

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from utils.figures.colours import DEEP, PALE, hex_of

Rgb = tuple[int, int, int]

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
VERSION = "3.16.0"  # QGIS version of the file format; later ones read it too
RAMP_VALUES = (0, 0.25, 0.5, 0.75, 1)  # shown in the legend
OUTLINE = {"outline_color": "35,35,35,255", "outline_width": "0.1", "outline_width_unit": "MM"}


def raster_style(
    names: Sequence[str], palette: Sequence[Rgb], transparent: Sequence[int] = (0,)
) -> str:
    """A paletted style, as the text of a .qml.

    Args:
        names: of the values 0, 1, ...; a value with an empty name is left out.
        palette: RGB of the values, in 0..255.
        transparent: values drawn fully transparent.

    Raises:
        ValueError: the numbers of colours and names differ.
    """
    _check(names, palette)
    root, renderer = _raster("paletted")
    entries = SubElement(renderer, "colorPalette")
    for value, (name, colour) in enumerate(zip(names, palette, strict=True)):
        if name:
            alpha = "0" if value in transparent else "255"
            SubElement(
                entries,
                "paletteEntry",
                value=str(value),
                label=name,
                color=hex_of(colour),
                alpha=alpha,
            )
    return _text(root)


def ramp_style(name: str) -> str:
    """The style of a map of values in 0..1, pale to deep blue, as the text of a .qml.

    Args:
        name: of the quantity, shown in the legend.
    """
    root, renderer = _raster("singlebandpseudocolor")
    renderer.set("classificationMin", "0")
    renderer.set("classificationMax", "1")
    shader = SubElement(SubElement(renderer, "rastershader"), "colorrampshader")
    for key, value in {
        "colorRampType": "INTERPOLATED",
        "classificationMode": "2",  # steps of equal size
        "minimumValue": "0",
        "maximumValue": "1",
        "clip": "0",
        "labelPrecision": "2",
    }.items():
        shader.set(key, value)
    ends = {"color1": PALE, "color2": DEEP}
    ramp = SubElement(shader, "colorramp", type="gradient", name="[source]")
    options = SubElement(ramp, "Option", type="Map")
    for key, colour in ends.items():
        rgba = ",".join(str(level) for level in (*colour, 255))
        SubElement(options, "Option", name=key, type="QString", value=rgba)
        SubElement(ramp, "prop", k=key, v=rgba)
    for value in RAMP_VALUES:
        colour = [round(a + (b - a) * value) for a, b in zip(PALE, DEEP, strict=True)]
        label = f"{value:g}" if value else f"{name}: 0"
        SubElement(
            shader, "item", value=f"{value:g}", label=label, color=hex_of(colour), alpha="255"
        )
    return _text(root)


def _raster(kind: str) -> tuple[Element, Element]:
    """The root element of a raster style, and its empty renderer element."""
    root = _root()
    pipe = SubElement(root, "pipe")
    renderer = SubElement(
        pipe, "rasterrenderer", type=kind, band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    SubElement(renderer, "rasterTransparency")
    SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0")
    SubElement(pipe, "huesaturation", saturation="0", grayscaleMode="0", colorizeOn="0")
    SubElement(pipe, "rasterresampler", maxOversampling="2")
    SubElement(root, "blendMode").text = "0"
    return root, renderer


def vector_style(field: str, names: Sequence[str], palette: Sequence[Rgb], first: int = 0) -> str:
    """A categorised style of polygons, as the text of a .qml.

    Args:
        field: attribute that selects the category.
        names: of the values `first`, `first` + 1, ...
        palette: RGB of the values, in 0..255.
        first: the first value.

    Raises:
        ValueError: the numbers of colours and names differ.
    """
    _check(names, palette)
    root = _root()
    renderer = SubElement(
        root,
        "renderer-v2",
        type="categorizedSymbol",
        attr=field,
        symbollevels="0",
        enableorderby="0",
        forceraster="0",
    )
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for number, (name, colour) in enumerate(zip(names, palette, strict=True)):
        value = str(first + number)
        SubElement(
            categories, "category", value=value, symbol=str(number), label=name, render="true"
        )
        _add_fill(symbols, str(number), colour)
    SubElement(root, "blendMode").text = "0"
    SubElement(root, "featureBlendMode").text = "0"
    SubElement(root, "layerGeometryType").text = "2"
    return _text(root)


def _root() -> Element:
    return Element("qgis", version=VERSION, styleCategories="Symbology")


def _add_fill(symbols: Element, name: str, colour: Rgb) -> None:
    symbol = SubElement(
        symbols, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1", force_rhr="0"
    )
    layer = SubElement(symbol, "layer", {"class": "SimpleFill"}, enabled="1", locked="0")
    layer.set("pass", "0")
    options = SubElement(layer, "Option", type="Map")
    rgba = ",".join(str(level) for level in (*colour, 255))
    for key, value in {
        "color": rgba,
        "style": "solid",
        "outline_style": "solid",
        **OUTLINE,
    }.items():
        SubElement(options, "Option", name=key, type="QString", value=value)
        SubElement(layer, "prop", k=key, v=value)  # read by versions before 3.26


def _text(root: Element) -> str:
    indent(root)
    return DOCTYPE + tostring(root, encoding="unicode") + "\n"


def _check(names: Sequence[str], palette: Sequence[Rgb]) -> None:
    if len(names) != len(palette):
        raise ValueError(f"{len(names)} names, but {len(palette)} colours; each value needs both")
