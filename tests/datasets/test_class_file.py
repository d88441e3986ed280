import numpy as np
import pytest
import yaml
from PIL import Image

from datasets.class_file import (
    made_up_colours,
    parse_classes,
    read_class_file,
    read_threshold,
)
from datasets.codecs import LabelError, open_label
from datasets.labels import classes_of
from helpers.tiny_data import write, write_tiff
from utils.rasters.windows import Window

COLOURS = """
water: [0, 0, 255]
building: [255, 0, 0]
tree: [0, 255, 0]
"""


def read_classes(path, classes):
    label = open_label(path)
    return classes_of(label, Window(0, 0, label.height, label.width), classes)


def parse(text):
    return parse_classes(yaml.safe_load(text))


def test_names_and_colours_in_order():
    found = parse(COLOURS)
    assert found.names == ("water", "building", "tree") and found.coloured
    assert found.colours == ((0, 0, 255), (255, 0, 0), (0, 255, 0))
    indented = COLOURS.replace("\n", "\n  ")
    assert parse(f"classes:{indented}") == found
    assert found.table()[:4].tolist() == [0, 1, 2, 253] and found.table()[255] == 255


@pytest.mark.parametrize(
    "text", ["[water, building]", "water:\nbuilding:", "classes: [water, building]"]
)
def test_names_alone_get_colours(text):
    found = parse(text)
    assert found.names == ("water", "building") and not found.coloured
    assert found.colours == made_up_colours(2)


def test_made_up_colours_differ_and_stay():
    assert len(set(made_up_colours(50))) == 50 and (255, 255, 255) not in made_up_colours(50)
    assert made_up_colours(50)[:7] == made_up_colours(7)


@pytest.mark.parametrize(
    ("ignore", "indices", "colours"),
    [
        ("7", (7,), ()),
        ("[0, 0, 0]", (), ((0, 0, 0),)),
        ("[7, 9]", (7, 9), ()),
        ("[[0, 0, 0], 7, [9, 9, 9]]", (7,), ((0, 0, 0), (9, 9, 9))),
    ],
)
def test_what_is_not_labelled(ignore, indices, colours):
    found = parse(f"{COLOURS}ignore: {ignore}")
    assert (found.ignore, found.ignore_colours) == (indices, colours)
    assert found.names == parse(COLOURS).names


def test_the_first_index_may_be_another():
    found = parse("{classes: [a, b], first: 1, ignore: 0}")
    assert found.table()[:4].tolist() == [255, 0, 1, 253]
    assert found.allowed() == "1..2 or 0, 255 (not labelled)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "the classes are 3; write name"),
        ("[a, 1]", "the classes are"),
        ("[a]", "name at least two"),
        ("[a, a]", "each once"),
        ("a: [1, 2]\nb: [1, 2, 3]", r"a: \[1, 2\] is no colour"),
        ("a: [1, 2, 256]\nb: [1, 2, 3]", "each in 0..255"),
        ("a: [1, 2, 3]\nb:", "b: None is no colour"),
        ("a: [1, 2, 3]\nb: [1, 2, 3]", r"the colour \[1, 2, 3\] is there twice"),
        ("a: [1, 2, 3]\nb: [0, 0, 0]\nignore: [0, 0, 0]", "there twice"),
        ("{classes: [a, b], ignore: 1}", "1 must be an index in 0..65535 that no class has"),
        ("{classes: [a, b], ignore: x}", "ignore: 'x'; write an index"),
        ("{classes: [a, b], first: 252}", "first: 252 with 2 classes"),
        ("{classes: [a, b], first: -1}", "first: -1"),
        ("{classes: [a, b], skip: 1}", "skip: beside classes, only first, values, ignore"),
        ("a: [1, 2, 3]\nb: [4, 5, 6]\na: [7, 8, 9]", "a twice; every class has its own name"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, message):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"classes\.yaml: .*{message}"):
        read_class_file(path)


def test_a_file_that_is_no_yaml_or_is_not_there(tmp_path):
    path = tmp_path / "classes.yaml"
    with pytest.raises(FileNotFoundError, match=r"no .*classes\.yaml, which names the classes"):
        read_class_file(path)
    path.write_text("a: [")
    with pytest.raises(ValueError, match="is no YAML"):
        read_class_file(path)
    path.write_text("a: !!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match="is no YAML"):
        read_class_file(path)


CLASSES = np.array([[0, 1, 2, 255]], np.uint8)


def test_indices_and_colours_are_read_alike(tmp_path):
    found = parse(f"{COLOURS}ignore: [0, 0, 0]")
    colours = np.array([*found.colours, (0, 0, 0)], np.uint8)[None]
    files = [
        write(tmp_path / "index.png", CLASSES),
        write(tmp_path / "rgb.png", colours),
        write(tmp_path / "rgb.tif", colours),
        write(tmp_path / "rgba.png", np.dstack([colours, np.full((1, 4), 255, np.uint8)])),
        write_tiff(tmp_path / "index.tif", CLASSES[None]),
    ]
    palette = tmp_path / "palette.png"  # as optimisers write RGB: other indices
    Image.fromarray(colours).quantize(4).save(palette)
    assert not np.array_equal(np.array(Image.open(palette)), CLASSES)
    for path in (*files, palette):
        assert read_classes(path, found).tolist() == CLASSES.tolist(), path


def test_palettes_of_other_colours_do_not_matter(tmp_path):
    image = Image.fromarray(np.array([[1, 2, 0]], np.uint8))
    image.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7])
    image.save(tmp_path / "a.png")
    for text in (f"{COLOURS}", "[water, building, tree]"):
        assert read_classes(tmp_path / "a.png", parse(text)).tolist() == [[1, 2, 0]]


def test_other_values_and_colours_are_refused(tmp_path):
    found = parse("{classes: [a, b], first: 1, ignore: 0}")
    path = write(tmp_path / "a.png", np.array([[0, 1, 2, 255]], np.uint8))
    assert read_classes(path, found).tolist() == [[255, 0, 1, 255]]
    write(path, np.array([[1, 3, 300]], np.uint16))
    with pytest.raises(LabelError, match=r"value\(s\) 3, 300 where 1..2 or 0, 255 \(not labelled"):
        read_classes(path, found)
    write(path, np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(LabelError, match=r"colours, and classes.yaml names none"):
        read_classes(path, found)
    with pytest.raises(LabelError, match=r"not in the palette, most of them RGB \(0, 0, 0\)"):
        read_classes(path, parse(COLOURS))


def test_keys_of_two_dates_are_refused_for_one(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("classes: [a, b]\nsame_class_change: false\nthreshold: 9\n")
    assert read_class_file(path).threshold == 9
    with pytest.raises(ValueError, match=r"same_class_change, threshold: of two dates.*pairs"):
        read_class_file(path, num_dates=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a, b]", "have no classes, so only `threshold: LEVEL`.*--dataset pairs"),
        ("{classes: [a, b], threshold: 9}", "have no classes"),
        ("threshold: high", "'high'; write a grey level"),
        ("threshold: 0", "0; write a grey level above 0"),
    ],
)
def test_a_class_file_of_change_masks_has_a_threshold_only(tmp_path, text, message):
    path = tmp_path / "classes.yaml"
    assert read_threshold(path) is None
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_threshold(path)
    path.write_text("threshold: 100")
    assert read_threshold(path) == 100


@pytest.mark.parametrize("text", ["[yes, no]", "{classes: {on: [1, 2, 3], tree: [4, 5, 6]}}"])
def test_names_that_yaml_reads_as_true_and_false_are_refused(tmp_path, text):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"classes\.yaml: yes, no, on and off .*in quotes$"):
        read_class_file(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class: {a: [0, 0, 9], b: [0, 9, 0]}", "class: is that a misspelt `classes`"),
        ("clases: [a, b]\nlabels: dense", "clases: is that a misspelt `classes`"),
        (
            "classes: [tree, water]\ntransitions: {1: [tree, watre]}",
            "1: .*; watre is no class, the classes are tree, water",
        ),
    ],
)
def test_misspelt_words_are_named(tmp_path, text, message):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_class_file(path)


def test_a_class_may_have_a_name_like_a_key(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("class: [0, 0, 9]\nglass: [0, 9, 0]\n")
    assert read_class_file(path).names == ("class", "glass")
