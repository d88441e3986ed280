"""What every command line shares: types of values, Ctrl-C, errors as messages."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils import cli
from utils.cli import TRACEBACK, fraction, one_of, positive_float, positive_int, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (positive_int, {"1": 1, "12": 12}, ["0", "-3"]),
        (positive_float, {"0.5": 0.5, "1e-9": 1e-9}, ["0", "-1", "nan"]),
        (fraction, {"0": 0.0, "1": 1.0, "0.25": 0.25}, ["-0.1", "1.1", "nan"]),
        (one_of("colour", ["red", "green"]), {"red": "red"}, ["gren"]),
    ],
)
def test_types_of_values(kind, good, bad):
    import argparse

    for text, value in good.items():
        assert kind(text) == value
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)


@pytest.fixture(autouse=True)
def process_as_before():
    """What Ctrl-C does is what it was, afterwards, and garbage is sought."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    gc.unfreeze()
    gc.enable()


def test_garbage_is_sought_within_main_and_not_while_a_script_imports_or_ends():
    def main():
        assert gc.isenabled() and gc.get_freeze_count() > 0

    for _ in range(2):
        run(main)
        assert not gc.isenabled()
    with pytest.raises(SystemExit):  # a mistake leaves it as it is
        run(lambda: int("no number"))
    assert gc.isenabled()


def test_an_interruption_is_told_within_main_and_silent_between_two():
    run(lambda: None)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # while a script imports

    def main():
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    run(main)


def test_a_process_that_is_to_ignore_interruptions_goes_on_doing_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(lambda: None)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, FloatingPointError, MemoryError])
def test_an_expected_error_is_one_message_and_status_1(error, capsys, monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)

    def main():
        raise error("what, rule, remedy")

    with pytest.raises(SystemExit) as stopped:
        run(main)
    message = capsys.readouterr().err
    assert stopped.value.code == 1
    assert "error: what, rule, remedy" in message and "Traceback" not in message


def test_an_error_of_a_reading_process_is_told_without_its_traceback(capsys, monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)

    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise ValueError("a.tif: 12 band(s)\nwhere 13 are needed")

    with pytest.raises(SystemExit):
        run(lambda: list(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    message = capsys.readouterr().err
    assert "error: a.tif: 12 band(s)\nwhere 13 are needed\n" in message
    assert "Traceback" not in message and "worker" not in message


def test_the_traceback_can_be_asked_for(capsys, monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(SystemExit):
        run(lambda: int("x"))
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", ""])
def test_the_traceback_can_be_switched_off(capsys, monkeypatch, value):
    monkeypatch.setenv(TRACEBACK, value)
    with pytest.raises(SystemExit):
        run(lambda: int("x"))
    message = capsys.readouterr().err
    assert "Traceback" not in message and "error: invalid literal" in message


def test_another_process_waits_and_tells_its_rank(capsys, monkeypatch):
    waited = []
    monkeypatch.delenv(TRACEBACK, raising=False)
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    for rank, error in (("0", "error: invalid"), ("3", "error: rank 3: invalid")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit):
            run(lambda: int("x"))
        assert error in capsys.readouterr().err
    assert waited == [cli.OTHERS_WAIT]  # rank 0 did not


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failing", "error"), [("012", "error: no luck"), ("2", "rank 2: no luck")]
)
def test_an_error_of_all_processes_is_told_once(tmp_path, failing, error):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from utils.cli import run\n"
        "def main():\n"
        f"    if os.environ['RANK'] in {failing!r}:\n"
        "        raise ValueError('no luck')\n"
        "    time.sleep(60)\n"
        "run(main)\n"
    )
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", str(script)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), TRACEBACK: "0"}
    done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True)
    assert done.stderr.count("no luck") == 1 and error in done.stderr


@pytest.mark.parametrize("module", ["models.export", "report", "datasets.prepare"])
def test_errors_of_a_module_name_it_as_the_user_does(module, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    words = ["check", nowhere] if module == "datasets.prepare" else [nowhere]
    env = {**os.environ, TRACEBACK: ""}
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"\npython -m {module}: error: ")


def test_our_own_mistakes_are_not_hidden():
    with pytest.raises(AssertionError):
        run(lambda: (_ for _ in ()).throw(AssertionError("ours")))


def test_a_name_that_the_terminal_cannot_show_is_escaped():
    code = "from utils.cli import run; run(lambda: print('Z\\u00fcrich \\udcff'))"
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "Z\\xfcrich \\udcff\n"
