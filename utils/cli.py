"""The command line: the parser class, argument types, and error handling of scripts."""

import argparse
import difflib
import gc
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

TRACEBACK = "TWODATES_TRACEBACK"  # environment variable: show where an error came from
SWITCH = {"action": argparse.BooleanOptionalAction, "default": False}  # --x, and --no-x for it
OTHERS_WAIT = 5.0  # seconds that other ranks wait, so that rank 0 can print the error

_explained_configs: set[Path] = (
    set()
)  # foreign configuration files whose notes were already printed


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=100)

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None or action.default is False:
            return action.help.removesuffix(" (default: %(default)s)")  # switches append it
        return action.help if "default" in action.help else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse with `--config FILE.yaml`, `-` or `_` in option names, and short error messages."""

    def __init__(
        self,
        description: str,
        prog: str | None = None,
        read_json: Callable[[Path], tuple[dict[str, Any], list[str]]] | None = None,
    ):
        """`read_json`: reads a .json of another program -> options, and notes for the user."""
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            epilog="Options may be written with - or _. The command line wins over --config; "
            "--no-X turns off a switch X that the config turns on.",
        )
        self._read_json = read_json
        other = " (or a .json of Rucode)" if read_json else ""
        self.add_argument(
            "--config",
            metavar="FILE",
            help=f"YAML of defaults for the options below, see configs/{other}",
        )

    def parse_args(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parses the config's options, then the command line's."""
        args, unknown = super().parse_known_args(self._words(argv))
        if unknown:
            self.error(self._unknown(unknown[0]))
        return args

    def _words(self, argv: Sequence[str] | None) -> list[str]:
        """Command-line words: the options of the config, then those of the command line."""
        words = [with_dashes(word) for word in (sys.argv[1:] if argv is None else argv)]
        if self._read_json and words and words[0].endswith(".json"):  # `train.py config.json`
            words = ["--config", *words]
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--config")
        config = finder.parse_known_args(words)[0].config
        return [*self._config_words(Path(config)), *words] if config else words

    def given(self, argv: Sequence[str] | None = None) -> set[str]:
        """Attribute names of the options given on the command line or in the config."""
        unset = object()
        namespace = argparse.Namespace(**{action.dest: unset for action in self._actions})
        super().parse_known_args(self._words(argv), namespace)
        return {dest for dest, value in vars(namespace).items() if value is not unset}

    def error(self, message: str) -> None:
        """Prints the message without the usage, and exits with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\nSee {self.prog} --help.\n")

    def options(self) -> dict[str, argparse.Action]:
        """Long option (without dashes; without the --no-x of a switch) -> its action."""
        return {
            name.removeprefix("--"): action
            for action in self._actions
            for name in action.option_strings
            if name.startswith("--") and action.dest not in ("help", "config")
            if not (isinstance(action, argparse.BooleanOptionalAction) and name[:5] == "--no-")
        }

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{word!r} is not an option; values follow the option they belong to"
        name = word.split("=")[0].removeprefix("--")
        near = difflib.get_close_matches(name, list(self.options()), n=1)
        return f"--{name} is not an option" + (f"; did you mean --{near[0]}?" if near else "")

    def _config_words(self, path: Path) -> list[str]:
        if not path.is_file():
            self.error(f"--config {path}: no such file")
        if path.suffix == ".json" and self._read_json:
            return self._foreign_words(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            self.error(f"--config {path} is not YAML: {error}")
        if not isinstance(values, dict):
            self.error(f"--config {path} must hold `option: value` lines")
        return self._value_words(path, values)

    def _foreign_words(self, path: Path) -> list[str]:
        """Options from another program's configuration file; prints notes on the conversion."""
        try:
            values, notes = self._read_json(path)
        except ValueError as error:
            self.error(str(error))
        if os.environ.get("RANK", "0") == "0" and path not in _explained_configs:
            print(f"{path}, in options of this program:", *notes, sep="\n  ")
            _explained_configs.add(path)
        return self._value_words(path, values)

    def _value_words(self, path: Path, values: dict[str, Any]) -> list[str]:
        known = self.options()
        words: list[str] = []
        for key, value in values.items():
            name = str(key).replace("_", "-")
            if name not in known:
                near = difflib.get_close_matches(name, list(known), n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.error(f"--config {path}: {key!r} is not an option of {self.prog}{hint}")
            words += _option_words(name, value, known[name])
        return words


def with_dashes(word: str) -> str:
    """--batch_size=8 -> --batch-size=8; values are left alone."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _option_words(name: str, value: Any, action: argparse.Action) -> list[str]:
    """One config entry as command-line words."""
    if value is None:
        return []
    if isinstance(value, bool):
        if value:
            return [f"--{name}"]
        return [f"--no-{name}"] if isinstance(action, argparse.BooleanOptionalAction) else []
    if not isinstance(value, (list, tuple)):
        return [f"--{name}={value}"]  # with =, since the value may begin with a dash
    return [f"--{name}", *map(str, value)]


_is_script = False


def end_script() -> None:
    """Ends this process immediately with status 0, if it is a script started by `run`."""
    if _is_script:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def run(main: Callable[[], Any], if_interrupted: str = "") -> None:
    """Calls a script's main; expected errors become one message and exit status 1.

    `if_interrupted`: message after Ctrl-C.
    """
    global _is_script
    _is_script = True
    _on_interrupt(signal.default_int_handler)
    _collect_garbage(True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        # after main, Ctrl-C ends the process without a traceback
        _on_interrupt(signal.SIG_DFL)
        _collect_garbage(False)
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        if os.environ.get(TRACEBACK, "0") not in ("", "0"):
            traceback.print_exc()
        else:
            print(f"\n{program()}: error: {_rank()}{_text_of(error)}", file=sys.stderr)
            print(f"({TRACEBACK}=1 in the environment shows where)", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        print(f"\ninterrupted {error or if_interrupted}".rstrip(), file=sys.stderr)
        sys.exit(130)


def _on_interrupt(handler: Callable | signal.Handlers) -> None:
    """Sets the handler of Ctrl-C, unless SIGINT is ignored or this is not the main thread."""
    alone = threading.current_thread() is threading.main_thread()
    if alone and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _collect_garbage(wanted: bool) -> None:
    """Switches Python's garbage collection on or off; existing objects are never searched.

    Otherwise the collector would repeatedly search all of PyTorch during its import and at exit.
    """
    gc.freeze()
    if wanted:
        gc.enable()
    else:
        gc.disable()


def program() -> str:
    """The program as called by the user: "train.py", or "python -m models.export"."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return Path(sys.argv[0]).name
    return f"python -m {spec.name.removesuffix('.__main__')}"


def _rank() -> str:
    """Prefix of an error message, "rank N: "; empty for rank 0 or a single process.

    Other ranks wait first. If rank 0 fails with the same error, torchrun ends this process during
    the wait, so that the error is printed only once.
    """
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        return ""
    time.sleep(OTHERS_WAIT)
    return f"rank {rank}: "


def _text_of(error: Exception) -> str:
    """The message of an error; for an error in a DataLoader worker, without its traceback."""
    text = str(error)
    if not text.startswith("Caught "):
        return text
    return text.rpartition(f"\n{type(error).__name__}: ")[2].strip()


def positive_int(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def fraction(text: str) -> float:
    """A number in 0..1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in 0..1, got {text}")
    return value


def positive_float(text: str) -> float:
    """A number above 0."""
    value = _number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def one_of(kind: str, choices: Iterable[str]) -> Callable[[str], str]:
    """Argument type: one of `choices`; the error lists them and suggests a similar one."""
    known = list(choices)

    def check(text: str) -> str:
        if text not in known:
            near = difflib.get_close_matches(text, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise argparse.ArgumentTypeError(
                f"{text!r} is no {kind}; {hint}choose from {', '.join(known)}"
            )
        return text

    return check
