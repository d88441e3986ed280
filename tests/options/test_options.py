"""The command lines of the scripts: published names and defaults, help, mistakes, configs."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from datasets import DATASETS
from models import BACKBONES, NETWORKS
from options.train import build_parser
from utils.cli import Parser

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [name for name in ("train", "label", "test", "predict") if (ROOT / f"{name}.py").exists()]

# what takes long to import
SLOW = {"torch", "torchvision", "timm", "tensorboard", "rasterio", "scipy", "matplotlib"}
SLOW |= {"cv2", "pandas", "shapely", "pyogrio", "onnx", "onnxruntime", "jinja2"}

# specs: defaults of the published scripts, which existing commands rely on
PUBLISHED_DEFAULTS = {
    "batch_size": 8,
    "val_batch_size": 16,
    "epochs": 30,
    "lr": 0.00015,
    "weight_decay": 1e-4,
    "backbone": "hrnet_w18",
    "model": "pspnet",
    "lightweight": False,
    "pretrain_from": None,
    "load_from": None,
    "pretrained": None,
    "tta": "none",
    "save_mask": False,
    "use_pseudo_label": None,
}


def parse(*words):
    return train.parse_args([str(word) for word in words])


def error_of(capsys, *words) -> str:
    """What the parser says about a wrong command line, which it must refuse with status 2."""
    with pytest.raises(SystemExit) as stopped:
        parse(*words)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def parser_of(script, monkeypatch) -> Parser:
    """The parser a script builds, taken at the moment it would parse."""
    module = importlib.import_module(script)
    assert Path(module.__file__).parent == ROOT, f"{script} is another module of that name"

    class Taken(Exception):
        pass

    seen = []

    def take(self, argv=None):
        seen.append(self)
        raise Taken

    with monkeypatch.context() as patch:
        patch.setattr(Parser, "parse_args", take)
        with pytest.raises(Taken):
            module.parse_args([])
    return seen[0]


@pytest.mark.parametrize(("flag", "default"), PUBLISHED_DEFAULTS.items())
def test_published_flags_keep_their_names_and_defaults(flag, default):
    assert getattr(parse(), flag) == default
    assert flag.replace("_", "-") in build_parser().options()


def test_the_default_data_root_is_the_published_one():
    assert parse().data_root is None and parse().dataset == "second"
    assert Path(DATASETS["second"].root) == Path("data/dataset")


@pytest.mark.parametrize(
    "command",
    [
        "--data-root data/dataset --backbone hrnet_w18 --pretrained --model pspnet --lightweight",
        "--backbone hrnet_w40 --pretrained --model fcn --lightweight --tta --save-mask",
        "--pretrained --use-pseudo-label --batch-size 16 --val-batch-size 4 --epochs 60",
        "--load-from outdir/models/pspnet_hrnet_w18_38.74.pth --model pspnet --tta --save-mask",
        "--pretrain-from a.pth --lr 0.0003 --weight-decay 0",
    ],
)
def test_published_commands_parse(command):
    parse(*command.split())


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_says_what_it_does(script, monkeypatch):
    options = parser_of(script, monkeypatch).options()
    assert len(options) > 10
    assert [name for name, action in options.items() if not (action.help or "").strip()] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_groups_and_defaults(script, monkeypatch, capsys):
    module = importlib.import_module(script)
    with pytest.raises(SystemExit) as stopped:
        module.parse_args(["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    own = ("inputs and outputs:", "--out ") if script == "predict" else ("data:", "--dataset")
    for word in (*own, "runtime:", "--config", "--tta", "--device", "default"):
        assert word in shown
    for name in parser_of(script, monkeypatch).options():
        assert f"--{name}" in shown


def modules_of(*words: str) -> set[str]:
    """The modules that a python process imports until it ends."""
    command = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_waits_for_torch_and_for_nothing_else_that_is_slow_to_import(script):
    found = modules_of(f"{script}.py", "--help")
    assert f"options.{script}" in found
    assert found & SLOW == {"torch"}


def test_train_help_lists_networks_backbones_and_units(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for name in (*NETWORKS, *BACKBONES, *DATASETS, "default: 0.00015", "pairs", "0..1"):
        assert name in shown


def test_options_may_be_written_with_underscores():
    args = parse("--batch_size", 4, "--val_batch_size=2", "--use_pseudo_label", "a_dir/with_scores")
    assert (args.batch_size, args.val_batch_size) == (4, 2)
    assert args.use_pseudo_label == "a_dir/with_scores"


def test_values_keep_their_underscores():
    assert parse("--backbone=hrnet_w18_v1").backbone == "hrnet_w18_v1"
    assert parse("--name", "my_run").name == "my_run"


@pytest.mark.parametrize(
    ("words", "value"), [((), "none"), (("--tta",), "flip_rot"), (("--tta", "d4"), "d4")]
)
def test_bare_tta_means_the_six_published_views(words, value):
    assert parse(*words).tta == value


def test_bare_tta_before_another_flag():
    args = parse("--tta", "--save-mask")
    assert args.tta == "flip_rot" and args.save_mask


@pytest.mark.parametrize("flag", ["pretrained", "use_pseudo_label"])
def test_bare_flags_differ_from_none_at_all_and_from_a_value(flag):
    word = f"--{flag.replace('_', '-')}"
    values = [getattr(parse(*words), flag) for words in ((), (word,), (word, "some/where"))]
    assert values == [None, "", "some/where"]


def test_bare_ema_has_a_usual_decay():
    assert [parse(*w).ema for w in ((), ("--ema",), ("--ema", 0.9))] == [None, 0.999, 0.9]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--bathc-size", 4), ("--bathc-size", "--batch-size")),
        (("--batch-siz", 4), ("--batch-siz", "--batch-size")),  # no silent abbreviations
        (("--use-s3",), ("--use-s3",)),
        (("stray",), ("'stray'",)),
        (("--batch-size", 0), ("--batch-size", "at least 1")),
        (("--batch-size", "many"), ("--batch-size", "many")),
        (("--lr", -1), ("--lr", "above 0")),
        (("--dropout", 1.5), ("--dropout", "0..1")),
        (("--model", "pspnte"), ("--model", "pspnte", "pspnet", "fcn")),
        (("--dataset", "secnd"), ("--dataset", "secnd", "second")),
        (("--tta", "d8"), ("--tta", "d8", "d4")),
        (("--amp", "half"), ("--amp", "bf16", "fp32")),
        (("--output-stride", 5), ("--output-stride", "8", "32")),
        (("--config", "nowhere.yaml"), ("nowhere.yaml", "no such file")),
        (("--cache-dir", "c"), ("--cache-dir", "--cache disk")),
        (("--cache-dir", "c", "--cache", "ram"), ("--cache-dir", "--cache disk")),
    ],
)
def test_a_wrong_command_line_is_named_with_its_remedy(words, error, capsys):
    message = error_of(capsys, *words)
    for part in error:
        assert part in message
    assert len(message.splitlines()) <= 3 and "train.py --help" in message


def test_a_config_gives_defaults_and_the_command_line_wins(config):
    path = config("model: fcn\nbatch_size: 4\nval-batch-size: 2\nlr: 1e-3\n")
    args = parse("--config", path)
    assert (args.model, args.batch_size, args.val_batch_size, args.lr) == ("fcn", 4, 2, 1e-3)
    assert args.epochs == 30
    for words in (("--config", path, "--model", "unet"), ("--model", "unet", "--config", path)):
        assert parse(*words).model == "unet" and parse(*words).batch_size == 4
    assert parse(f"--config={path}").model == "fcn"


def test_a_config_holds_switches_lists_and_nothing(config):
    path = config(
        "lightweight: true\nsave_mask: false\nsync_bn: false\ntta: true\nname: null\n"
        "class_weights: [2, 1, 2, 2, 1, 1]\nema: true\n"
    )
    args = parse("--config", path)
    assert args.lightweight and not args.save_mask and not args.sync_bn and args.name is None
    assert args.tta == "flip_rot" and args.class_weights == [2, 1, 2, 2, 1, 1] and args.ema == 0.999
    assert parse("--config", path, "--sync-bn").sync_bn


def test_an_empty_config_changes_nothing(config):
    path = config("# nothing yet\n")
    without = vars(parse())
    assert {k: v for k, v in vars(parse("--config", path)).items() if k != "config"} == {
        k: v for k, v in without.items() if k != "config"
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("modle: fcn\n", ("modle", "model", "train.py")),
        ("config: other.yaml\n", ("config",)),
        ("model: fnc\n", ("--model", "fnc", "fcn")),
        ("batch_size: 0\n", ("--batch-size", "at least 1")),
        ("[1, 2]\n", ("option: value",)),
        ("model: [unclosed\n", ("not YAML",)),
    ],
)
def test_a_wrong_config_is_named(config, capsys, text, error):
    message = error_of(capsys, "--config", config(text))
    for part in error:
        assert part in message


def test_given_names_what_was_said_and_not_the_defaults(config):
    path = config("epochs: 3\n")
    given = build_parser().given(["--config", str(path), "--batch_size=8", "--tta"])
    assert given >= {"config", "epochs", "batch_size", "tta"}
    assert not given & {"model", "lr", "lightweight", "seed"}


def test_default_workers_fit_the_machine():
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    assert 1 <= parse().num_workers <= max(cores, 2)


def test_a_switch_of_the_config_can_be_turned_off(tmp_path):
    config = tmp_path / "recipe.yaml"
    config.write_text("lightweight: true\n")
    parser = build_parser()
    assert parser.parse_args(["--config", str(config)]).lightweight
    assert not parser.parse_args(["--config", str(config), "--no-lightweight"]).lightweight
    assert parser.parse_args(["--no-lightweight", "--lightweight"]).lightweight
    assert parser.given(["--no-lightweight"]) == {"lightweight"}
    config.write_text("lightweight: false\n")
    assert not parser.parse_args(["--config", str(config)]).lightweight
    config.write_text("no_lightweight: true\n")
    with pytest.raises(SystemExit):
        parser.parse_args(["--config", str(config)])
