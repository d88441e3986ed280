"""The tree keeps its shape: imports go one way, files stay short, nothing is unpickled."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
PACKAGES = {"commands", "models", "datasets", "utils"}
OURS = SCRIPTS | PACKAGES | {"tests", "benchmarks"}
# which of ours each package may import, itself included
ALLOWED = {
    "commands": {"commands", "models", "datasets", "utils"},
    "models": {"models", "utils"},
    "datasets": {"datasets", "utils"},
    "utils": {"utils"},
}
MAX_LINES = 400


def source_files() -> list[Path]:
    found = list(ROOT.glob("*.py"))
    for folder in (*sorted(PACKAGES), "tests", "benchmarks"):
        found += sorted((ROOT / folder).rglob("*.py"))
    return found


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full, not relative"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_imports_go_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package}/ has no modules"
    faults = {
        str(path.relative_to(ROOT)): sorted((imported(path) & OURS) - ALLOWED[package])
        for path in files
    }
    assert {path: names for path, names in faults.items() if names} == {}


def test_nothing_but_tests_and_benchmarks_imports_a_script():
    assert "train" in SCRIPTS
    for path in source_files():
        if path.parent.name not in ("tests", "benchmarks"):
            assert not imported(path) & SCRIPTS, f"{path.relative_to(ROOT)} imports a script"


def test_the_import_test_sees_imports_inside_functions(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("def f():\n    from datasets.second import x\n    import models.heads\n")
    assert imported(path) == {"datasets", "models"}


def test_files_are_short():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in source_files()
        if path.parent.name != "tests"
    }
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def calls(path: Path, name: str) -> list[ast.Call]:
    """Calls of `something.name(...)` in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == name
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("torch", "pickle")
    ]


def test_torch_load_reads_tensors_and_plain_values_only():
    found = 0
    for path in source_files():
        if path.parent.name == "tests":
            continue
        assert not calls(path, "loads"), f"{path} unpickles"
        for call in calls(path, "load"):
            found += 1
            only = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
            assert call.func.value.id == "torch" and only.get("weights_only") is True, path
    assert found, "nothing calls torch.load; this test looks at nothing"


def test_packages_never_exit():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path == ROOT / "utils" / "cli.py":  # which ends a script on an error
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            library = [node for node in tree.body if not is_main_block(node)]
            named = [
                node
                for node in ast.walk(ast.Module(library, []))
                if isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("exit", "quit", "sys.exit", "os._exit")
            ]
            assert not named, f"{path.relative_to(ROOT)} line {named[0].lineno} exits"


def is_main_block(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
