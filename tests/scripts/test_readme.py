"""The commands, names, links and Python of README.md and docs/ are right."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from helpers.networks import make_teachers
from options.train import build_parser

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def commands() -> list[str]:
    """Every `python ...` in a fenced block or between backticks."""
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    inline = [re.sub(r"\s+", " ", found) for found in re.findall(r"`(python [^`]+)`", TEXT)]
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
def test_every_name_of_a_table_is_documented(table):
    module, _, name = table.rpartition(".")
    missing = [
        key
        for key in getattr(importlib.import_module(module), name)
        # ranges such as `resnet18` to `resnet152`, and HRNet's variants, stand for their members
        if not re.search(rf"[` ]{key}`", TEXT) and not re.match(r"resnet|hrnet", key)
    ]
    assert not missing


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_parses_and_its_values_arrive(path):
    parser = build_parser()
    args = vars(parser.parse_args(["--config", str(path)]))
    for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        assert args[key] == value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_and_headings_work(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert heading in anchors, target


def test_every_page_is_linked_from_the_readme():
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name}" not in README] == []


def test_the_readme_is_short():
    assert len(README.splitlines()) < 250


def test_the_architecture_names_files_that_exist():
    """Paths in backticks; a name without a folder is a file of the table's first column."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[a-z/]+/`(?:, )?)+) \|(.+)$", text, re.MULTILINE)
    assert len(rows) >= 9
    for rooms, rest in rows:
        folders = re.findall(r"`([a-z/]+)`", rooms)
        assert all((ROOT / folder).is_dir() for folder in folders), rooms
        for name in re.findall(r"`(\w+\.py)`", rest):
            assert any((ROOT / folder / name).is_file() for folder in folders), name
    for path in re.findall(r"`([a-z_]+/[\w/]+\.py)`", text):
        assert (ROOT / path).is_file(), path


def test_the_python_of_the_docs_runs(tmp_path, monkeypatch):
    """With untrained networks in the place of the checkpoints that it names."""
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names = re.findall(r"outdir/models/\w+\.pth", code)
    for path, name in zip(make_teachers(tmp_path / "outdir", len(names)), names, strict=True):
        path.rename(name)
    values = {"images": torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8)}
    exec(code, values)
    assert values["masks"].shape == (1, 2, 32, 32) and values["masks"].dtype == torch.uint8
