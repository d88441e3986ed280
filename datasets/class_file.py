"""`classes.yaml`: the classes of a data set, and how label files encode them.

    classes:                        # in the order of their indices
      building: [255, 0, 0]         # name: [red, green, blue]
      road: [255, 255, 0]
    first: 1                        # index of the first class in the labels (default 0)
    values: {building: 10, road: 80}  # or the index of each class
    ignore: 0                       # not labelled: an index, a colour, or a list of both
    unchanged: 0                    # two dates: index or colour where nothing changed
    labels: changed                 # two dates: changed, dense or auto (default), see PairLabels
    transitions: {1: [building, road]}  # two dates: from-to codes of one label
    threshold: 128                  # change mask: "changed" from here on (`binary`: the only key)
    same_class_change: false        # two dates: what changed has another class afterwards

`classes` may also be a list of names, or a mapping without colours; then labels hold indices, and
colours are generated. Without other keys but `ignore`, the classes may also be at the top level of
the file. A list of three numbers is a colour. The index 255 means "not labelled", unless a class
has it. If all colours are greys, single-band labels may also hold those grey levels.
"""

import colorsys
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from datasets.codecs import NO_MEANING, UNCHANGED, listed
from utils.files import read_text
from utils.structures import IGNORE_INDEX, Scheme

Colour = tuple[int, int, int]

STYLES = ("auto", "changed", "dense")  # of labels of two dates
MOST_CLASSES = NO_MEANING  # the values from here on have other meanings once decoded
TWO_DATES = ("unchanged", "labels", "transitions", "threshold", "same_class_change")
OPTIONS = ("first", "values", "ignore", *TWO_DATES)
FORM = "name: [red, green, blue] a class, in the order of their indices, or a list of names"


class ClassFile(NamedTuple):
    """Contents of a class file."""

    names: tuple[str, ...]  # K classes
    colours: tuple[Colour, ...]  # one per class
    coloured: bool  # whether the file lists colours; labels may then be RGB
    values: tuple[int, ...]  # index of each class in labels
    ignore: tuple[int, ...] = ()  # indices that mean "not labelled"
    ignore_colours: tuple[Colour, ...] = ()  # colours that mean "not labelled"
    unchanged: int | None = None  # index that means "unchanged"
    unchanged_colour: Colour | None = None
    style: str = "auto"  # one of STYLES
    transitions: tuple[tuple[int, int, int], ...] = ()  # code, class of date 1, class of date 2
    threshold: int | None = None  # of a change mask
    same_class_change: bool = True  # whether a change may keep the class

    @property
    def palette(self) -> tuple[Colour, ...]:
        """All colours that labels may hold; `meanings` has one value for each."""
        own = self.colours + self.ignore_colours
        return own if self.unchanged_colour is None else (*own, self.unchanged_colour)

    @property
    def meanings(self) -> np.ndarray:
        """(N,) uint8: class 0..K-1, IGNORE_INDEX or UNCHANGED of each colour of `palette`."""
        found = [*range(len(self.names)), *[IGNORE_INDEX] * len(self.ignore_colours)]
        found += [UNCHANGED] * (self.unchanged_colour is not None)
        return np.array(found, np.uint8)

    def table(self) -> np.ndarray:
        """(65536,) uint8 look-up table of indices, as `meanings`, or NO_MEANING; read-only."""
        return _table(self)

    def _make_table(self) -> np.ndarray:
        table = np.full(1 << 16, NO_MEANING, np.uint8)
        if self.coloured and all(len(set(colour)) == 1 for colour in self.palette):
            table[[grey for grey, _, _ in self.palette]] = self.meanings
        else:
            table[IGNORE_INDEX] = IGNORE_INDEX
        table[list(self.values)] = np.arange(len(self.names))
        table[list(self.ignore)] = IGNORE_INDEX
        if self.unchanged is not None:
            table[self.unchanged] = UNCHANGED
        return table

    def allowed(self) -> str:
        """The indices that labels may hold, in words."""
        values, table = list(self.values), self.table()
        runs = values == list(range(values[0], values[0] + len(values)))
        shown = f"{values[0]}..{values[-1]}" if runs else listed(np.array(values))
        ignored = np.flatnonzero(table == IGNORE_INDEX).tolist()
        parts = [shown]
        if self.unchanged is not None:
            parts.append(f"{self.unchanged} (unchanged)")
        if ignored:
            parts.append(f"{', '.join(map(str, ignored))} (not labelled)")
        return " or ".join(parts)

    @property
    def codes(self) -> "ClassFile":
        """The from-to codes of `transitions`, as classes of one label."""
        values = tuple(code for code, _, _ in self.transitions)
        names = tuple(map(str, values))
        return self._replace(
            names=names, colours=made_up_colours(len(names)), coloured=False, values=values
        )


@lru_cache(maxsize=8)
def _table(classes: ClassFile) -> np.ndarray:
    return classes._make_table()


def read_class_file(path: Path | str, num_dates: int = 2) -> ClassFile:
    """Reads and checks a class file.

    Args:
        path: of the file.
        num_dates: of the data set; the keys of two dates are refused for one.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not have the form above.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"there is no {path}, which names the classes. Write it ({FORM}), or pass "
            "--folders classes=FILE."
        )
    return _parsed(path, lambda content: parse_classes(content, num_dates))


def read_threshold(path: Path | str) -> int | None:
    """The grey level from which a change mask is "changed"; None if there is no such file.

    A data set of change masks has no classes; its class file may say `threshold` only.

    Raises:
        ValueError: it says anything else.
    """
    if not Path(path).is_file():
        return None

    def threshold(content: Any) -> int:
        if not isinstance(content, Mapping) or {*content} != {"threshold"}:
            raise ValueError(
                "change masks have no classes, so only `threshold: LEVEL` goes there; for classes "
                "of two dates take --dataset pairs"
            )
        return _checked_threshold(content["threshold"])

    return _parsed(path, threshold)


def _parsed(path: Path | str, parse: Callable[[Any], Any]) -> Any:
    """What `parse` makes of a YAML file; errors name the file."""
    text = read_text(path)
    try:
        return parse(yaml.load(text, _UniqueKeys))  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML ({error}). Write it so: {FORM}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def refuse_other_classes(root: Path | str, classes: ClassFile, scheme: Scheme) -> None:
    """Raises ValueError if a class file has other classes than the scheme of the networks."""
    if classes.names != scheme.classes:
        raise ValueError(
            f"the network knows {', '.join(scheme.classes)}, {root} has {', '.join(classes.names)}"
            "; pass --folders classes=FILE with the same classes"
        )


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, which YAML forbids but PyYAML accepts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} twice; every class has its own name")
        return super().construct_mapping(node, deep)


def parse_classes(content: Any, num_dates: int = 2) -> ClassFile:
    """Converts the parsed YAML of a class file to a ClassFile; see `read_class_file`.

    Raises:
        ValueError: the content does not have the form above.
    """
    options: dict[str, Any] = {}
    if isinstance(content, Mapping) and "classes" in content:
        options = {key: value for key, value in content.items() if key != "classes"}
        content = content["classes"]
    elif isinstance(content, Mapping) and (near := _misspelt(content)):
        raise ValueError(
            f"{near}: is that a misspelt `classes`? Write the classes below `classes:`"
        )
    elif isinstance(content, Mapping) and "ignore" in content:
        options = {"ignore": content["ignore"]}
        content = {key: value for key, value in content.items() if key != "ignore"}
    unknown = options.keys() - set(OPTIONS)
    if unknown:
        raise ValueError(
            f"{', '.join(map(str, unknown))}: beside classes, only {', '.join(OPTIONS)} go there"
        )
    if num_dates == 1 and (wrong := [key for key in options if key in TWO_DATES]):
        raise ValueError(
            f"{', '.join(wrong)}: of two dates, and these images have one; leave it out, or take "
            "--dataset pairs"
        )
    names, colours = _classes(content)
    indices, ignored = _indices_and_colours("ignore", options.get("ignore"))
    unchanged = _indices_and_colours("unchanged", options.get("unchanged"))
    file = ClassFile(
        names,
        colours or made_up_colours(len(names)),
        bool(colours),
        _values(names, options),
        indices,
        ignored,
        *(next(iter(found), None) for found in unchanged),
        options.get("labels", "auto"),
        _transitions(names, options.get("transitions")),
        options.get("threshold"),
        options.get("same_class_change", True),
    )
    _check(file)
    return file


def _misspelt(content: Mapping) -> str | None:
    """A key at the top level that looks like `classes` and holds several names."""
    keys = [str(key) for key, value in content.items() if isinstance(value, Mapping | list)]
    many = [key for key in keys if not _is_colour(content.get(key))]
    return next(iter(get_close_matches("classes", many, cutoff=0.7)), None)


def _values(names: tuple[str, ...], options: Mapping[str, Any]) -> tuple[int, ...]:
    """The index of each class in labels."""
    first, given = options.get("first", 0), options.get("values")
    if given is None:
        last = MOST_CLASSES - len(names)
        if not isinstance(first, int) or not 0 <= first <= last:
            raise ValueError(
                f"first: {first!r} with {len(names)} classes; their indices must lie in "
                f"0..{MOST_CLASSES - 1}"
            )
        return tuple(range(first, first + len(names)))
    if "first" in options:
        raise ValueError("first and values both give the indices; leave one out")
    if not isinstance(given, Mapping) or {*map(str, given)} != {*names}:
        wrong = sorted({*map(str, given)} ^ {*names}) if isinstance(given, Mapping) else given
        raise ValueError(
            f"values: {wrong!r} are on one side only; each class of the list has an index, as in "
            f"{{{names[0]}: 10}}"
        )
    found = tuple({str(name): value for name, value in given.items()}[name] for name in names)
    wrong = [v for v in found if not isinstance(v, int) or not 0 <= v < 1 << 16]
    if wrong or len(set(found)) < len(found):
        raise ValueError(f"values: {given!r}; indices are whole numbers in 0..65535, each once")
    return found


def _transitions(names: tuple[str, ...], content: Any) -> tuple[tuple[int, int, int], ...]:
    """Codes with the classes of date 1 and 2."""
    if content is None:
        return ()
    form = f"transitions: write each code so: 1: [{names[0]}, {names[-1]}]"
    if not isinstance(content, Mapping) or not content:
        raise ValueError(form)
    found = []
    for code, pair in content.items():
        known = isinstance(pair, list) and len(pair) == 2
        if known and (other := [str(name) for name in pair if str(name) not in names]):
            raise ValueError(
                f"transitions: {code}: {pair}; {' and '.join(other)} is no class, the classes are "
                f"{', '.join(names)}"
            )
        if not known or not isinstance(code, int) or not 0 <= code < 1 << 16:
            raise ValueError(f"{form}; {code!r}: {pair!r} is not of that form")
        found.append((code, *(names.index(str(name)) for name in pair)))
    return tuple(found)


def _classes(content: Any) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours of the classes; no colours if the file lists none."""
    if isinstance(content, list | Mapping) and any(isinstance(name, bool) for name in content):
        raise ValueError("yes, no, on and off are no words in YAML; put names like these in quotes")
    if isinstance(content, Mapping):
        names, colours = tuple(map(str, content)), list(content.values())
    elif isinstance(content, list) and all(isinstance(name, str) for name in content):
        names, colours = tuple(content), []
    else:
        raise ValueError(f"the classes are {content!r}; write {FORM}")
    if not any(colour is not None for colour in colours):
        return names, ()
    return names, tuple(_colour(colour, name) for name, colour in zip(names, colours, strict=True))


def _indices_and_colours(key: str, content: Any) -> tuple[tuple[int, ...], tuple[Colour, ...]]:
    """Indices and colours of a key such as `ignore`."""
    if content is None:
        return (), ()
    if isinstance(content, int) or _is_colour(content):
        content = [content]
    if not isinstance(content, list):
        raise ValueError(f"{key}: {content!r}; write an index, a colour, or a list of those")
    indices = tuple(item for item in content if isinstance(item, int))
    return indices, tuple(_colour(i, key) for i in content if not isinstance(i, int))


def _is_colour(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 3 and all(isinstance(v, int) for v in item)


def _colour(item: Any, name: str) -> Colour:
    if not _is_colour(item) or not all(0 <= value <= 255 for value in item):
        raise ValueError(f"{name}: {item!r} is no colour; write [red, green, blue], each in 0..255")
    return tuple(item)


def _check(file: ClassFile) -> None:
    """Raises ValueError if classes, colours or indices are ambiguous."""
    if not 2 <= len(set(file.names)) == len(file.names) <= MOST_CLASSES:
        raise ValueError(f"the classes are {', '.join(file.names)}; name at least two, each once")
    twice = sorted({c for c in file.palette if file.palette.count(c) > 1})
    if file.coloured and twice:
        raise ValueError(f"the colour {list(twice[0])} is there twice; each stands for one class")
    codes = [code for code, _, _ in file.transitions]
    taken = set(codes or file.values)
    for key, indices in (("ignore", file.ignore), ("unchanged", _as_list(file.unchanged))):
        for index in indices:
            if index in taken or not 0 <= index < 1 << 16:
                raise ValueError(
                    f"{key}: {index} must be an index in 0..65535 that no class has; the classes "
                    f"have {listed(np.array(sorted(taken)))}, move them with first or values"
                )
        taken |= set(indices)
    if file.style not in STYLES:
        raise ValueError(f"labels: {file.style!r}; choose from {', '.join(STYLES)}")
    if not isinstance(file.same_class_change, bool):
        raise ValueError(f"same_class_change: {file.same_class_change!r}; write true or false")
    if file.threshold is not None:
        _checked_threshold(file.threshold)


def _checked_threshold(threshold: Any) -> int | float:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or threshold <= 0:
        raise ValueError(f"threshold: {threshold!r}; write a grey level above 0, such as 128")
    return threshold


def _as_list(index: int | None) -> list[int]:
    return [] if index is None else [index]


def made_up_colours(count: int) -> tuple[Colour, ...]:
    """Generates `count` distinct colours; deterministic."""
    hues = [(0.6180339887 * i) % 1 for i in range(count)]
    values = [(0.9, 0.65, 0.8)[i % 3] for i in range(count)]
    pairs = zip(hues, values, strict=True)
    return tuple(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(h, 0.8, v)) for h, v in pairs)


def free_colour(colours: Collection[Colour]) -> Colour:
    """A colour for pixels without a class, which no class has: white, black, or a grey."""
    greys = ((grey,) * 3 for grey in (255, 0, *range(128, 255), *range(1, 128)))
    return next(colour for colour in greys if colour not in colours)
