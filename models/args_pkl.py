"""Reads options that other programs saved beside their checkpoints, without executing code."""

import argparse
import io
import json
import pickle
from pathlib import Path
from typing import Any

MAX_BYTES = 1_000_000  # maximum size of an options file; typical files have about 1000 bytes
MAX_DEPTH = 3  # maximum nesting of containers
MAX_ITEMS = 1000  # maximum length of a container
PLAIN = (str, int, float, bool, type(None))


class _OptionsUnpickler(pickle.Unpickler):
    """Unpickles only plain values and `argparse.Namespace`, which becomes an empty class."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.kind = type("Options", (), {})  # a new class per file; files cannot share state

    def find_class(self, module: str, name: str) -> type:
        if (module, name) == (argparse.Namespace.__module__, argparse.Namespace.__name__):
            return self.kind
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_args_pkl(path: Path | str) -> dict[str, Any]:
    """Reads the options of a pickled `argparse.Namespace` as a dict of plain values.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file holds anything else, such as code to execute.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no options at {path}; check the path")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise pickle.UnpicklingError(f"it has over {MAX_BYTES / 1e6:g} MB")
        reader = _OptionsUnpickler(io.BytesIO(path.read_bytes()))
        read = reader.load()
        if type(read) is not reader.kind:
            raise pickle.UnpicklingError(f"it holds a {type(read).__name__}")
        return _plain_options(vars(read))
    except Exception as error:  # malformed pickles raise many exception types
        raise ValueError(
            f"{path} is no pickled argparse.Namespace of plain values ({error}), and nothing else "
            "is read, because reading it could run code. Write the options to args.json beside it "
            "instead."
        ) from error


def _plain_options(options: dict) -> dict[str, Any]:
    for name, value in options.items():
        if not isinstance(name, str) or not _is_plain(value):
            raise pickle.UnpicklingError(f"its {name!r} is a {type(value).__name__}")
    return dict(options)


def _is_plain(value: object, depth: int = 0) -> bool:
    """Whether a value is plain or a container of plain values, at most MAX_DEPTH levels deep."""
    if type(value) in PLAIN:
        return True
    if type(value) not in (list, tuple, dict) or depth == MAX_DEPTH or len(value) > MAX_ITEMS:
        return False
    items = [*value, *value.values()] if type(value) is dict else value
    return all(_is_plain(item, depth + 1) for item in items)


def read_args(path: Path | str) -> dict[str, Any]:
    """Reads options from args.pkl (see `read_args_pkl`) or args.json.

    Raises:
        FileNotFoundError, ValueError: see `read_args_pkl`.
    """
    path = Path(path)
    if path.suffix != ".json":
        return read_args_pkl(path)
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); copy it again") from error
    if not isinstance(options, dict):
        raise ValueError(f"{path} holds a {type(options).__name__}, not options by name")
    return options


def find_args(checkpoint: Path | str) -> Path | None:
    """Finds args.pkl or args.json in the folder of a checkpoint or its parent folder, if any."""
    folders = list(Path(checkpoint).absolute().parents)[:2]
    paths = [folder / name for folder in folders for name in ("args.pkl", "args.json")]
    return next((path for path in paths if path.is_file()), None)
