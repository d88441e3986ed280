"""Options that other programs pickled: read, and nothing else is ever done with them."""

import argparse
import json
import os
import pickle
from pathlib import Path

import pytest

from models.args_pkl import MAX_BYTES, find_args, read_args, read_args_pkl

OPTIONS = {
    "experiment_name": "deeplab_s1_s2",
    "seed": None,
    "lr": 0.01,
    "use_s1": True,
    "no_savanna": False,
    "out_stride": 16,
    "history": [1, (2.5, "x"), {"a": "y"}],
}


def write(path: Path, value: object, protocol: int | None = None) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickled_namespace_is_read_by_name(tmp_path, protocol):
    path = write(tmp_path / "args.pkl", argparse.Namespace(**OPTIONS), protocol)
    assert read_args_pkl(path) == read_args(path) == OPTIONS


def test_the_same_options_as_json(tmp_path):
    options = {k: v for k, v in OPTIONS.items() if k != "history"}
    path = tmp_path / "args.json"
    path.write_text(json.dumps(options))
    assert read_args(path) == options


class Runs:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r"args\.pkl is no pickled argparse\.Namespace") as error:
        read_args_pkl(path)
    assert "could run code" in str(error.value) and "args.json" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("inside", [True, False])
def test_a_command_is_refused_and_not_run(tmp_path, protocol, inside):
    proof = tmp_path / "executed"
    evil = Runs(os.system, f"touch {proof}")
    content = argparse.Namespace(lr=evil, model="deeplab") if inside else evil
    path = write(tmp_path / "args.pkl", content, protocol)
    error = refused(path)
    assert not proof.exists()
    # protocols 0 and 1 ask for a helper of Python's before they come to the command
    assert "it asks for " in error and (protocol < 2 or "system" in error)
    pickle.loads(path.read_bytes())
    assert proof.exists()  # it would have


@pytest.mark.parametrize(
    "evil",
    [
        Runs(eval, "1"),
        Runs(getattr, argparse.Namespace, "mro"),
        Runs(__import__, "os"),
        Path("a"),
        argparse.ArgumentParser,
        argparse.Namespace,
        object(),
        {1, 2},
        complex(1, 2),
        argparse.Namespace(lr=1),
        range(3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_namespace_of_anything_but_plain_values_is_refused(tmp_path, evil):
    path = write(tmp_path / "args.pkl", argparse.Namespace(model="deeplab", lr=evil))
    refused(path)
    refused(write(path, argparse.Namespace(lr=[{"a": (evil,)}])))
    refused(write(path, argparse.Namespace(lr={evil: 1} if evil.__hash__ else [evil])))


@pytest.mark.parametrize("content", [OPTIONS, [1], "text", None, argparse.Namespace, 5])
def test_what_is_no_namespace_is_refused(tmp_path, content):
    refused(write(tmp_path / "args.pkl", content))


def test_a_namespace_that_holds_itself_is_refused(tmp_path):
    knot = []
    knot.append(knot)
    refused(write(tmp_path / "args.pkl", argparse.Namespace(a=knot)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps(argparse.Namespace(**OPTIONS))[:-20],
        b"\x80\x04\x95" + b"\xff" * 8,  # a frame longer than memory
        b"Pelsewhere\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # an extension code
        b"0.",  # pops what is not there
        bytes(MAX_BYTES + 1),
    ],
    ids=["empty", "text", "cut", "frame", "persistent", "extension", "stack", "large"],
)
def test_broken_files_are_refused(tmp_path, content):
    path = tmp_path / "args.pkl"
    path.write_bytes(content)
    refused(path)


def test_no_file_can_change_argparse(tmp_path):
    # argparse.Namespace itself, and attributes for it: the class, a (dict, attributes) state, BUILD
    content = b"cargparse\nNamespace\n(N(S'marker'\nI1\ndtb."
    path = tmp_path / "args.pkl"
    path.write_bytes(content)
    refused(path)
    assert not hasattr(argparse.Namespace, "marker")
    try:
        pickle.loads(content)
        assert hasattr(argparse.Namespace, "marker")  # a usual reading would have
    finally:
        del argparse.Namespace.marker


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pkl; check the path"):
        read_args_pkl(tmp_path / "nowhere.pkl")
    path = tmp_path / "args.json"
    for text, error in (("{", "is not JSON"), ("[1]", "holds a list")):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"args\.json {error}"):
            read_args(path)


def test_options_are_found_beside_a_checkpoint_and_beside_its_folder(tmp_path):
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint_step_5.pth"
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "args.pkl").touch()  # too far away
    assert find_args(checkpoint) is None
    places = [
        checkpoint.parents[1] / "args.json",
        checkpoint.parents[1] / "args.pkl",
        checkpoint.parent / "args.json",
        checkpoint.parent / "args.pkl",
    ]
    for path in places:  # each goes before those above
        path.touch()
        assert find_args(checkpoint) == path


def test_values_nested_ever_deeper_are_refused_at_once(tmp_path):
    value = "x"
    for _ in range(60):  # a walk over all of it would visit 2 to the power of 60 values
        value = (value, value)
    refused(write(tmp_path / "args.pkl", argparse.Namespace(a=value)))
    shallow = argparse.Namespace(a=[[1, 2], {"b": (3, None)}])
    assert read_args_pkl(write(tmp_path / "args.pkl", shallow)) == vars(shallow)
