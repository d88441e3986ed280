"""What the README tells people to type is understood by the scripts."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from options.train import build_parser

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every `python ...` in a fenced block or between backticks."""
    text = "\n".join((README, *DOCS))
    blocks = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    inline = [re.sub(r"\s+", " ", found) for found in re.findall(r"`(python [^`]+)`", text)]
    found = [line for line in lines if line.startswith("python ")] + inline
    return sorted({command for command in found if "--help" not in command})


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    if re.search(r"train\.py \S+\.json", command):
        pytest.skip("names a file of the original Rucode; see test_rucode_config.py")
    words = shlex.split(command)[1:]
    if words[0] == "-m":
        name, arguments = words[1], words[2:]
    else:
        name, arguments = words[0].removesuffix(".py"), words[1:]
    if "--resume" in arguments:  # needs a run to go on with
        assert name == "train"
        build_parser().parse_args(arguments)
    else:
        importlib.import_module(name).parse_args(arguments)


def test_the_readme_has_commands_for_every_script():
    scripts = {shlex.split(command)[1] for command in commands()}
    assert {path.name for path in ROOT.glob("*.py")} <= scripts


@pytest.mark.parametrize("table", ["models.NETWORKS", "models.BACKBONES", "datasets.DATASETS"])
def test_every_name_of_a_table_is_in_the_readme(table):
    module, _, name = table.rpartition(".")
    missing = [
        key
        for key in getattr(importlib.import_module(module), name)
        # ranges such as `resnet18` to `resnet152`, and HRNet's variants, stand for their members
        if not re.search(rf"[` ]{key}`", README) and not re.match(r"resnet|hrnet", key)
    ]
    assert not missing


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_parses_and_its_values_arrive(path):
    parser = build_parser()
    args = vars(parser.parse_args(["--config", str(path)]))
    for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        assert args[key] == value


def test_the_readmes_links_to_files_work():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
