"""Collects the available outputs of a folder for a report."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from inference.label_record import RECORD, TEST_RECORDS
from report import maps as report_maps
from report.files import (
    Sources,
    data_roots,
    files_by_id,
    find_sources,
    read_json,
    read_lines,
    scheme_of_checkpoint,
    scheme_of_masks,
)
from report.pictures import picture_data
from report.structures import Amounts, Report, Section, TrainingRun
from report.tiles import (
    RANK_NAMES,
    Tiles,
    choose,
    count_tiles,
    find_tiles,
    read_picture,
    with_coding,
)
from utils.schemes import SECOND
from utils.structures import Scheme

PARTS = ("test", "val", "train")  # order of display; other parts follow
SUGGESTED = 5  # folders suggested in an error message


def collect(
    folder: Path | str,
    images: int,
    longest: int,
    data_root: Path | None = None,
    maps: Sequence[Path] | None = None,
) -> Report:
    """Reads a folder written by train.py, label.py, test.py or predict.py.

    Args:
        folder: an --outdir, one of its runs/<name> or masks/<part>, or the --out of predict.py.
        images: number of tiles of each part, or of maps, to show.
        longest: largest side of a picture in pixels.
        data_root: folder of the data set; None: as recorded in the outputs.
        maps: folders of the maps to report on; None: all in the folder.

    Raises:
        FileNotFoundError: there is no such folder, or it has no outputs of this program.
        ValueError: the maps have different tasks or classes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; pass an --outdir of train.py, label.py or "
                                "test.py, or the --out of predict.py")  # fmt: skip
    if found := report_maps.find_maps(folder) if maps is None else [Path(path) for path in maps]:
        return report_maps.report_of_maps(folder, found, images, longest)
    outdir, runs, masks = _find_outputs(folder)
    if not (runs or masks or _metrics_files(outdir)):
        raise FileNotFoundError(_nothing_in(folder))
    return _of_outputs(folder, outdir, runs, masks, images, longest, data_root)


def _nothing_in(folder: Path) -> str:
    """Error message: nothing to report on in this folder, and subfolders that have outputs."""
    text = (
        f"{folder} holds neither runs, metrics nor masks. Pass an --outdir of train.py, label.py "
        "or test.py, one of its runs/NAME or masks/PART, or the --out of predict.py."
    )
    below = islice(_folders_below(folder), SUGGESTED + 1)
    commands = [f"\n  python -m report {path}" for path in below]
    if not commands:
        return text
    more = "\n  ..." if len(commands) > SUGGESTED else ""
    return f"{text} Below it there are:{''.join(commands[:SUGGESTED])}{more}"


def _folders_below(folder: Path, levels: int = 2) -> Iterator[Path]:
    """Yields subfolders with outputs to report on, upper levels first."""
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    found = [path for path in below if _has_outputs(path)]
    yield from found
    if levels > 1:
        for path in below:
            if path not in found:
                yield from _folders_below(path, levels - 1)


def _has_outputs(folder: Path) -> bool:
    outdir, runs, masks = _find_outputs(folder)
    found = runs or any(map(find_tiles, masks)) or _metrics_files(outdir)
    return bool(found or report_maps.find_maps(folder))


def _find_outputs(folder: Path) -> tuple[Path, list[Path], list[Path]]:
    """The --outdir that a folder belongs to, the run folders, and the mask folders to show."""
    if (folder / "args.json").exists() or (folder / "log.jsonl").exists():
        return folder.parents[1] if folder.parent.name == "runs" else folder, [folder], []
    runs = sorted(path.parent for path in folder.glob("runs/*/args.json"))
    masks = [path for path in sorted(folder.glob("masks/*")) if path.is_dir()]
    if not runs and not masks and find_tiles(folder):
        outdir = folder.parents[1] if folder.parent.name == "masks" else folder
        return outdir, [], [folder]
    key = {part: number for number, part in enumerate(PARTS)}
    return folder, runs, sorted(masks, key=lambda path: (key.get(path.name, len(key)), path.name))


def _of_outputs(
    folder: Path,
    outdir: Path,
    run_folders: list[Path],
    mask_folders: list[Path],
    images: int,
    longest: int,
    data_root: Path | None,
) -> Report:
    runs = [_run(path) for path in run_folders]
    record = read_json(outdir / "masks" / "train" / RECORD)
    settings = record or (runs[-1].record.get("options", {}) if runs else {})
    paths = {
        path.name: outdir / TEST_RECORDS / f"{path.name}_options.json" for path in mask_folders
    }
    tests = {part: found for part, path in paths.items() if (found := read_json(path))}
    for test in tests.values():
        settings = test.get("options", settings)
    teachers = list((record or {}).get("checkpoints", ()))
    used = dict.fromkeys(path for test in tests.values() for path in test.get("checkpoints", ()))
    checkpoints = list(used) or [str(path) for path in sorted(outdir.glob("models/*.pth"))]
    tiles = [found for path in mask_folders if (found := find_tiles(path))]
    scheme = _scheme(outdir, runs, [*checkpoints, *teachers], tiles)
    roots = data_roots(outdir, settings, data_root)
    sections = [
        _section_of_tiles(found, outdir, scheme, roots, settings.get("folders"), images, longest)
        for found in tiles
    ]
    shown = {section.name for section in sections}
    if folder == outdir or runs:
        sections += _scores_without_masks(outdir, runs if folder != outdir else None, shown)
    records = {f"Training {run.name}": run.record for run in runs if run.record}
    records |= {f"Prediction of {part}": test for part, test in tests.items()}
    if record:
        records["Labelling"] = record
    pseudo = read_json(outdir / "metrics" / "pseudo_labels.json") if not _is_run(folder) else None
    threshold = read_json(outdir / "metrics" / "threshold.json") if folder == outdir else None
    return Report(
        folder, scheme, sections, runs, pseudo, teachers, checkpoints, records, threshold
    )  # fmt: skip


def _is_run(folder: Path) -> bool:
    return (folder / "log.jsonl").exists()


def _run(folder: Path) -> TrainingRun:
    record = read_json(folder / "args.json") or {}
    return TrainingRun(folder.name, read_lines(folder / "log.jsonl"), record)


def _section_of_tiles(
    tiles: Tiles,
    outdir: Path,
    scheme: Scheme,
    roots: list[Path],
    folders: Mapping[str, str] | list[str] | None,
    images: int,
    longest: int,
) -> Section:
    """Counts, scores and pictures of a folder of masks."""
    sources = find_sources(tiles.part, tiles.names, roots, _renamed(folders))
    if sources and scheme.task == "binary_change" and not tiles.pseudo:
        sources = with_coding(sources)
    with tqdm(total=len(tiles.names), unit="tile", desc=tiles.part, disable=None) as bar:
        counts = count_tiles(tiles, sources, scheme, bar.update)
    chosen = choose(tiles, counts.scores, images)
    pictures = []
    for name, verdict in chosen:
        picture = read_picture(tiles, sources, name, scheme, longest)
        picture = picture._replace(score=counts.scores.get(name), verdict=verdict)
        pictures.append(picture_data(picture, scheme))
    figures = [] if sources else _figures(outdir, tiles.part, images)
    changed = counts.transitions if counts.transitions is not None else counts.classes
    amounts = Amounts(
        counts.transitions, counts.classes, float(changed.sum() + counts.unchanged), "px"
    )
    return Section(
        tiles.part,
        _title(tiles),
        len(tiles.names),
        pictures,
        figures,
        None if tiles.pseudo else amounts,
        None if tiles.pseudo else read_json(outdir / "metrics" / f"{tiles.part}.json"),
        RANK_NAMES[scheme.task] if counts.scores else "",
        _missing(sources, roots),
        tiles.pseudo,
    )


def _title(tiles: Tiles) -> str:
    return "Pseudo-labels" if tiles.pseudo else f"Predictions of {tiles.part}"


def _missing(sources: Sources | None, roots: list[Path]) -> str:
    if sources:
        return ""
    looked = ", ".join(map(str, roots)) or "any known folder"
    return f"The images of these tiles are not in {looked}; name their folder with --data-root."


def _renamed(folders: Mapping[str, str] | list[str] | None) -> dict[str, str]:
    """--folders as a mapping, from the recorded option (a mapping or a list "NAME=FOLDER")."""
    if isinstance(folders, list):
        return dict(item.split("=", 1) for item in folders if "=" in item)
    return dict(folders or {})


def _figures(outdir: Path, part: str, count: int) -> list[Path]:
    found = list(files_by_id(outdir / "figures" / part).values())
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def _metrics_files(outdir: Path) -> list[Path]:
    found = sorted((outdir / "metrics").glob("*.json"))
    return [path for path in found if path.stem not in ("pseudo_labels", "threshold")]


def _scores_without_masks(
    outdir: Path, runs: list[TrainingRun] | None, shown: set[str]
) -> list[Section]:
    """Sections of scores without masks, such as those of a validation.

    With `runs`, only scores that one of these runs wrote.
    """
    sections = []
    for path in _metrics_files(outdir):
        metrics = read_json(path)
        if path.stem in shown or not isinstance(metrics, dict):
            continue
        if runs is not None and not any(_is_of(metrics, run) for run in runs):
            continue
        title = {"val": "Validation"}.get(path.stem, f"Scores of {path.stem}")
        sections.append(Section(path.stem, title, 0, [], [], None, metrics))
    return sections


def _is_of(metrics: Mapping[str, Any], run: TrainingRun) -> bool:
    """Whether the scores are those of the run's last validation."""
    last = next((line for line in reversed(run.log) if line.get("kind") == "val"), {})
    shared = [key for key in last if key in metrics]
    return bool(shared) and all(last[key] == metrics[key] for key in shared)


def _scheme(
    outdir: Path, runs: list[TrainingRun], checkpoints: list[str], tiles: list[Tiles]
) -> Scheme:
    """Classes and palette, from a checkpoint, else from the masks, else those of SECOND."""
    lasts = [outdir / "runs" / run.name / "last.pth" for run in runs]
    for path in [*checkpoints, *lasts]:
        if found := scheme_of_checkpoint(Path(str(path).split(" of ")[0])):
            return found
    for one in tiles:
        return scheme_of_masks(next(iter(one.masks[0].values())), len(one.masks))
    return SECOND
