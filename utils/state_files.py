"""State dict files: written atomically, read without unpickling code, loaded strictly."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.files import atomic_path

SHOWN_KEYS = 10  # of each kind, in an error


def _numpy_scalars() -> list[Any]:
    """Globals in pickles of numpy scalars, by the names of numpy 1 and 2."""
    rebuild = np.float64(0).__reduce__()[0]
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
    return [
        (rebuild, "numpy.core.multiarray.scalar"),
        (rebuild, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in kinds),
    ]


NUMPY_SCALARS = _numpy_scalars()  # allowed: published files store scores as numpy scalars


def save_checkpoint(
    path: Path | str, state: dict[str, Tensor], recipe: dict[str, Any], **more: Any
) -> None:
    """Writes a checkpoint of this project atomically. `more`: tensors and plain values only.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save({"model": state, "recipe": recipe, **more}, temporary)
        except RuntimeError as error:  # torch raises this for a full disk
            raise OSError(
                f"could not write {path} ({str(error).splitlines()[0]}). Is the disk full? Make "
                "room, or choose another --outdir."
            ) from error


def check_file(path: Path | str) -> None:
    """Raises FileNotFoundError or ValueError unless `path` is a file."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a checkpoint; name a file in it")
    if path.is_file():
        return
    if any(sign in str(path) for sign in "*?["):
        raise FileNotFoundError(
            f"no checkpoint at {path}: in quotes a pattern is taken for a name; leave out the "
            "quotes (if there are none, no file matches it)"
        )
    raise FileNotFoundError(f"no checkpoint at {path}; check the path")


def read_file(path: Path | str) -> dict[str, Any]:
    """The dict in a .pth or .safetensors file, on the CPU; only tensors and plain values.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or a pickle with other objects, which could run code.
    """
    path = Path(path)
    check_file(path)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        _check_kind(path)
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _OtherKind:
        raise ValueError(
            f"{path} is not a checkpoint; name a file that train.py or torch.save has written "
            "(.pth), or a .safetensors file"
        ) from None
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and plain values, and reading that could run code; "
            "save its state dict alone (torch.save(model.state_dict(), ...)) and pass that"
        ) from error
    except Exception as error:  # damaged files raise many kinds of errors
        raise ValueError(f"{path} is not a readable checkpoint ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    return content


class _OtherKind(Exception):
    """A file is neither a zip file nor a pickle, which torch.save writes."""


def _check_kind(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(2)
    is_pickle = head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if head != b"PK" and not is_pickle:
        raise _OtherKind


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def load_strictly(
    network: nn.Module,
    state: dict[str, Tensor],
    source: Path | str,
    shown: Callable[[str], str] = str,
) -> None:
    """Loads a state dict whose keys and shapes must all match the network's.

    Args:
        network: to load into.
        state: with the network's own keys.
        source: the file, for the error message.
        shown: the network's key -> the file's key, for the error message.

    Raises:
        ValueError: keys are missing or unknown, or shapes differ; the message lists them.
    """
    own = network.state_dict()
    missing = [shown(k) for k in own if k not in state]
    unknown = [shown(k) for k in state if k not in own]
    shapes = [
        f"{shown(k)} is {tuple(state[k].shape)}, should be {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    faults = [
        f"{title} ({len(keys)}): {', '.join(keys[:SHOWN_KEYS])}"
        + (f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else "")
        for title, keys in (("missing", missing), ("unknown", unknown), ("wrong shape", shapes))
        if keys
    ]
    if faults:
        raise ValueError(
            f"{source} does not fit this network; {'; '.join(faults)}. "
            "Pass the --model, --backbone and --lightweight that it was trained with."
        )
    network.load_state_dict(state)
