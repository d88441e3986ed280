"""`classes.yaml`: the classes of a folder of labels, and how label files encode them.

    classes:                        # in the order of their indices
      building: [255, 0, 0]         # name: [red, green, blue]
      road: [255, 255, 0]
    first: 1                        # index of the first class in the labels (default 0)
    ignore: 0                       # not labelled: an index, a colour, or a list of both

`classes` may also be a list of names, or a mapping without colours; then labels hold indices, and
colours are generated. Without `first`, the classes may also be at the top level of the file. A list
of three numbers is a colour. The index 255 always means "not labelled".
"""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from datasets.codecs import LabelError, from_colours, read_stored, refuse_unknown
from utils.structures import IGNORE_INDEX

Colour = tuple[int, int, int]

NO_CLASS = 254  # in `ClassFile.table`: the index stands for no class
FORM = "name: [red, green, blue] a class, in the order of their indices, or a list of names"


class ClassFile(NamedTuple):
    """Contents of a class file."""

    names: tuple[str, ...]  # K classes
    colours: tuple[Colour, ...]  # one per class
    coloured: bool  # whether the file lists colours; labels may then be RGB
    first: int = 0  # index of the first class in labels
    ignore: tuple[int, ...] = ()  # indices that mean "not labelled", besides 255
    ignore_colours: tuple[Colour, ...] = ()  # colours that mean "not labelled"

    def table(self) -> np.ndarray:
        """(256,) uint8 look-up table: index -> class 0..K-1, IGNORE_INDEX or NO_CLASS."""
        table = np.full(256, NO_CLASS, np.uint8)
        table[self.first : self.first + len(self.names)] = np.arange(len(self.names))
        table[[*self.ignore, IGNORE_INDEX]] = IGNORE_INDEX
        return table

    def allowed(self) -> str:
        """The indices that labels may hold, in words."""
        last = self.first + len(self.names) - 1
        others = sorted({*self.ignore, IGNORE_INDEX})
        return f"{self.first}..{last} or {', '.join(map(str, others))} (not labelled)"


def read_class_file(path: Path | str) -> ClassFile:
    """Reads and checks a class file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not have the form above.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"there is no {path}, which names the classes. Write it ({FORM}), or pass "
            "--folders classes=FILE."
        )
    try:
        content = yaml.load(Path(path).read_text("utf-8"), _UniqueKeys)  # a SafeLoader
        return parse_classes(content)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML ({error}). Write it so: {FORM}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Write it so: {FORM}") from error


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, which YAML forbids but PyYAML accepts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} twice; every class has its own name")
        return super().construct_mapping(node, deep)


def parse_classes(content: Any) -> ClassFile:
    """Converts the parsed YAML of a class file to a ClassFile.

    Raises:
        ValueError: the content does not have the form above.
    """
    options: dict[str, Any] = {}
    if isinstance(content, Mapping) and "classes" in content:
        options = {key: value for key, value in content.items() if key != "classes"}
        content = content["classes"]
    elif isinstance(content, Mapping) and "ignore" in content:
        options = {"ignore": content["ignore"]}
        content = {key: value for key, value in content.items() if key != "ignore"}
    unknown = options.keys() - {"first", "ignore"}
    if unknown:
        raise ValueError(f"{', '.join(map(str, unknown))}: only classes, first and ignore go there")
    names, colours = _classes(content)
    indices, ignored = _ignored(options.get("ignore"))
    file = ClassFile(
        names,
        colours or made_up_colours(len(names)),
        bool(colours),
        options.get("first", 0),
        indices,
        ignored,
    )
    _check(file)
    return file


def _classes(content: Any) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours of the classes; no colours if the file lists none."""
    if isinstance(content, Mapping):
        names, colours = tuple(map(str, content)), list(content.values())
    elif isinstance(content, list) and all(isinstance(name, str) for name in content):
        names, colours = tuple(content), []
    else:
        raise ValueError(f"the classes are {content!r}; write {FORM}")
    if not any(colour is not None for colour in colours):
        return names, ()
    return names, tuple(_colour(colour, name) for name, colour in zip(names, colours, strict=True))


def _ignored(content: Any) -> tuple[tuple[int, ...], tuple[Colour, ...]]:
    """Indices and colours that mean "not labelled"."""
    if content is None:
        return (), ()
    if isinstance(content, int) or _is_colour(content):
        content = [content]
    if not isinstance(content, list):
        raise ValueError(f"ignore: {content!r}; write an index, a colour, or a list of those")
    indices = tuple(item for item in content if isinstance(item, int))
    return indices, tuple(_colour(i, "ignore") for i in content if not isinstance(i, int))


def _is_colour(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 3 and all(isinstance(v, int) for v in item)


def _colour(item: Any, name: str) -> Colour:
    if not _is_colour(item) or not all(0 <= value <= 255 for value in item):
        raise ValueError(f"{name}: {item!r} is no colour; write [red, green, blue], each in 0..255")
    return tuple(item)


def _check(file: ClassFile) -> None:
    """Raises ValueError if classes or colours are ambiguous."""
    if not 2 <= len(set(file.names)) == len(file.names):
        raise ValueError(f"the classes are {', '.join(file.names)}; name at least two, each once")
    colours = file.colours + file.ignore_colours
    twice = sorted({c for c in colours if colours.count(c) > 1})
    if file.coloured and twice:
        raise ValueError(f"the colour {list(twice[0])} is there twice; each stands for one class")
    if not isinstance(file.first, int) or not 0 <= file.first <= NO_CLASS - len(file.names):
        raise ValueError(
            f"first: {file.first!r} with {len(file.names)} classes; their indices must lie in "
            f"0..{NO_CLASS - 1}"
        )
    taken = range(file.first, file.first + len(file.names))
    wrong = [index for index in file.ignore if index in taken or not 0 <= index <= IGNORE_INDEX]
    if wrong:
        raise ValueError(
            f"ignore: {wrong[0]} must be an index in 0..255 that no class has; the classes have "
            f"{taken.start}..{taken.stop - 1}, move them with first"
        )


def made_up_colours(count: int) -> tuple[Colour, ...]:
    """Generates `count` distinct colours; deterministic."""
    hues = [(0.6180339887 * i) % 1 for i in range(count)]
    values = [(0.9, 0.65, 0.8)[i % 3] for i in range(count)]
    pairs = zip(hues, values, strict=True)
    return tuple(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(h, 0.8, v)) for h, v in pairs)


def read_classes(path: Path, classes: ClassFile) -> np.ndarray:
    """Reads a label file that holds indices or colours.

    Args:
        path: PNG, TIFF, or another format that PIL reads.
        classes: meaning of the values.

    Returns:
        (H, W) uint8 in 0..K-1 or IGNORE_INDEX.

    Raises:
        LabelError: a value or colour without a class.
        OSError: the file cannot be decoded.
    """
    colours: Sequence[Colour] = classes.colours + classes.ignore_colours if classes.coloured else ()
    stored, coded = read_stored(path, colours)
    if coded and not classes.coloured:
        raise LabelError(f"{path}: colours, and classes.yaml names none; write {FORM}")
    num = len(classes.names)
    if coded:
        found = from_colours(path, stored, colours)
        return np.where(found < num, found, IGNORE_INDEX).astype(np.uint8)
    inside = np.where((stored < 0) | (stored > 255), NO_CLASS, stored).astype(np.uint8)
    found = classes.table()[inside]
    refuse_unknown(path, stored, found, num, classes.allowed())
    return found
