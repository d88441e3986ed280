"""The tree keeps its shape: imports go one way, files stay short, nothing is unpickled."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
# each room imports only from rooms further down; those of one line know nothing of each other
FLOORS = (
    ("options",),
    ("report",),
    ("maps",),
    ("training",),
    ("inference",),
    ("models", "datasets"),
    ("utils.speed", "utils.figures"),
    ("utils.rasters",),
    ("utils",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# nothing in the packages imports these
ABOVE = ("benchmarks", "tests", "helpers", "train", "label", "test", "predict")
FLOOR["scripts"] = -1
PACKAGES = sorted({room.partition(".")[0] for room in FLOOR if room != "scripts"})
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MAX_LINES = 400
MOST_IN_UTILS = 14  # files; folders are counted by themselves


def source_files(*folders: str) -> list[Path]:
    scripts = [] if folders else list(ROOT.glob("*.py"))
    folders = folders or (*PACKAGES, "benchmarks")
    return scripts + [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Modules, and names in modules, that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full, not relative"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str | None:
    """The room of a module of ours: its package, or its folder in utils."""
    package, _, rest = module.partition(".")
    if package in ABOVE:
        return "scripts"
    inner = f"{package}.{rest.partition('.')[0]}"
    return inner if inner in FLOOR else package if package in FLOOR else None


def upward(room: str, names: set[str]) -> list[str]:
    """Of what is imported, what a room must not know."""
    rooms = {name: room_of(name) for name in names}
    return sorted(
        name
        for name, other in rooms.items()
        if other not in (None, room) and FLOOR[other] <= FLOOR[room]
    )


def faults(root: Path) -> dict[str, list[str]]:
    """Files that import from their own floor or from above, and what."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            room = room_of(".".join(path.relative_to(root).with_suffix("").parts))
            if wrong := upward(room, imported(path)):
                found[str(path.relative_to(root))] = wrong
    return found


def test_every_room_is_there():
    rooms = FLOOR.keys() - {"scripts"}
    assert all((ROOT / room.replace(".", "/") / "__init__.py").is_file() for room in rooms)
    folders = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert folders <= {*PACKAGES, "benchmarks", "tests"}


def test_imports_go_one_way():
    assert faults(ROOT) == {}


@pytest.mark.parametrize(
    ("path", "line", "wrong"),
    [
        ("datasets/x.py", "from models.heads import FCNHead", "models.heads.FCNHead"),
        ("models/x.py", "import datasets.second", "datasets.second"),
        ("inference/x.py", "from training import losses", "training.losses"),
        ("utils/x.py", "from utils.speed import for_training", "utils.speed.for_training"),
        ("utils/rasters/x.py", "import utils.figures.charts", "utils.figures.charts"),
        ("utils/x.py", "import benchmarks.plain", "benchmarks.plain"),
        ("models/x.py", "from tests.helpers import networks", "tests.helpers.networks"),
        ("options/x.py", "import train", "train"),
        ("utils/x.py", "def f():\n    from maps import areas", "maps.areas"),
    ],
)
def test_an_upward_import_is_seen_wherever_it_stands(tmp_path, path, line, wrong):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(line + "\n")
    assert faults(tmp_path) == {path: [wrong]}
    (tmp_path / path).write_text("from utils.files import write_json\nimport torch.utils.data\n")
    assert faults(tmp_path) == {}


def test_nothing_imports_a_script_but_tests_and_benchmarks():
    assert "train" in SCRIPTS
    for path in source_files(*PACKAGES):
        names = {name.partition(".")[0] for name in imported(path)}
        assert not names & SCRIPTS, f"{path.relative_to(ROOT)} imports a script"


def test_tests_share_helpers_and_import_no_other_test():
    for path in source_files("tests"):
        names = {part for name in imported(path) for part in name.split(".")}
        tests = {name for name in names if name.startswith("test_") and name.islower()}
        assert not {f"{name}.py" for name in tests} & {p.name for p in source_files("tests")}


def test_only_the_doors_of_speed_are_used():
    doors = {"utils.speed", "utils.speed.for_training", "utils.speed.for_prediction"}
    for path in source_files():
        inside = {name for name in imported(path) if name.startswith("utils.speed")}
        if path.parent.name != "speed":
            assert inside <= doors, f"{path.relative_to(ROOT)} imports {inside - doors}"


def test_utils_is_no_drawer():
    assert len(list((ROOT / "utils").glob("*.py"))) <= MOST_IN_UTILS


def test_args_stop_at_the_scripts():
    for path in source_files(*PACKAGES):
        if path.relative_to(ROOT).parts[:2] in (("datasets", "prepare"), ("options", path.name)):
            continue  # command lines themselves
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, FUNCTIONS):
                taken = (*node.args.args, *node.args.kwonlyargs)
                types = [ast.unparse(arg.annotation) for arg in taken if arg.annotation]
                assert "args" not in [arg.arg for arg in taken], f"{path}: {node.name}"
                assert not any("Namespace" in one for one in types), f"{path}: {node.name}"


def test_files_are_short():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in source_files()
    }
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_functions_are_short():
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in source_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, FUNCTIONS) and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


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
        assert not calls(path, "loads"), f"{path} unpickles"
        for call in calls(path, "load"):
            found += 1
            only = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
            assert call.func.value.id == "torch" and only.get("weights_only") is True, path
    assert found, "nothing calls torch.load; this test looks at nothing"


def test_packages_never_exit():
    for path in source_files(*PACKAGES):
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
