"""Finds the files of Sentinel patches in three layouts.

`sen12ms`: ROOT/ROIs1158_spring/{s1,s2,lc}_<n>/*.tif, likewise for the other seasons, and
ROOT/SEN12MS_holdOutScenes.txt; labels are IGBP classes. `dfc2020`:
ROOT/ROIs0000_validation/{s1,s2,lc,dfc}_validation/*.tif and ROOT/ROIs0000_test/{s1,s2,lc,dfc}_0.
`tiff_dir`: ROOT/s2/*.tif and ROOT/s1, without labels. An id is the name of a Sentinel-2 file; the
other files have `_s1_`, `_lc_` or `_dfc_` in place of `_s2_`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.layout import Problem
from datasets.sentinel.patch_index import SUFFIX, list_patches
from datasets.sentinel.reader import BANDS, SentinelPatch, chosen_bands, mate, sibling_name
from datasets.splits import RULES, read_lines
from utils.schemes import S2_BANDS
from utils.structures import Scheme

SEASONS = ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter")
HOLDOUT_SCENES = "SEN12MS_holdOutScenes.txt"
BROKEN = {"ROIs1868_summer_s2_146_p202"}  # its Sentinel-1 image is all NaN
DFC_SCENES = {"val": "ROIs0000_validation/s2_validation", "test": "ROIs0000_test/s2_0"}
# kind of the labels
LABELS = {"sen12ms": "lc", "dfc2020": "dfc", "tiff_dir": None}


def find_patches(
    dataset: str,
    root: Path | str,
    part: str,
    scheme: Scheme,
    *,
    folders: Mapping[str, str] | None = None,
    index_dir: Path | str | None = None,
) -> tuple[list[SentinelPatch], str | None, list[Problem]]:
    """Finds the patches of a part without opening a file.

    Args:
        dataset: sen12ms, dfc2020 or tiff_dir.
        root: see the top of this file.
        part: train, val, test or holdout of sen12ms; val or test of dfc2020; any of tiff_dir.
        scheme: the files of its bands must exist.
        folders: replaces the list of held-out scenes, key holdout_scenes.
        index_dir: folder for the list of file names, see `datasets.sentinel.patch_index`.

    Returns:
        The patches, sorted by id; the kind of their labels, None if there are no labels; and
        a problem for every missing file.

    Raises:
        FileNotFoundError: no patches, or no list of held-out scenes.
        ValueError: no such part, or a scheme with other bands.
    """
    scenes = _scenes(dataset, Path(root), part, folders)
    kinds = list(dict.fromkeys(("s2", *chosen_bands(scheme), LABELS[dataset] or "s2")))
    wanted = {
        scene: [mate(SentinelPatch(scene, ""), kind)[0] for kind in kinds] for scene in scenes
    }
    every = [folder for one in wanted.values() for folder in one]
    files = list_patches(root, every, index_dir=index_dir)
    patches = [SentinelPatch(scene, name) for scene in scenes for name in files[scene]]
    patches = [patch for patch in patches if dataset != "sen12ms" or patch.name not in BROKEN]
    if not patches:
        raise FileNotFoundError(_no_patches_message(dataset, root, part, scenes))
    label = kinds[-1] if kinds[-1] == LABELS[dataset] else None
    if label and not any(files[one[-1]] for one in wanted.values()):
        label = None  # no label files at all: data for prediction only
    needed = [kind for kind in kinds[1:] if kind in BANDS or kind == label]
    problems = _missing_files(Path(root), patches, needed, files)
    return sorted(patches, key=lambda patch: patch.name), label, problems


def _missing_files(
    root: Path, patches: list[SentinelPatch], kinds: Sequence[str], files: Mapping[str, list[str]]
) -> list[Problem]:
    """Problems for missing files."""
    by_folder: dict[str, list[SentinelPatch]] = {}
    for patch in patches:
        by_folder.setdefault(patch.folder, []).append(patch)
    problems = []
    for kind in kinds:
        for scene, members in by_folder.items():
            folder, _ = mate(SentinelPatch(scene, ""), kind)
            present = set(files[folder])
            gone = [p.name for p in members if sibling_name(p.name, kind) not in present]
            problems += [
                Problem(
                    "missing mate", f"{root / folder / sibling_name(name, kind)}{SUFFIX} of {name}"
                )
                for name in gone
            ]
    return problems


def _scenes(dataset: str, root: Path, part: str, folders: Mapping[str, str] | None) -> list[str]:
    """Folders with the Sentinel-2 images of a part, relative to the root."""
    if dataset == "tiff_dir":
        return ["s2"]
    if dataset == "dfc2020":
        if part not in DFC_SCENES:
            raise ValueError(
                f"DFC2020 has no part {part!r}, only val and test; to train on its val pass "
                f"--split {', '.join(rule for rule in RULES if rule != 'official')} or a text file"
            )
        return [DFC_SCENES[part]]
    if part not in ("train", "val", "test", "holdout"):
        raise ValueError(f"SEN12MS has no part {part!r}, only train and holdout")
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; pass --data-root")
    seasons = [root / season for season in SEASONS if (root / season).is_dir()]
    found = [f"{s.name}/{scene.name}" for s in seasons for scene in s.glob("s2_*")]
    held_out = read_holdout(root / (folders or {}).get("holdout_scenes", HOLDOUT_SCENES))
    return sorted(scene for scene in found if (scene in held_out) == (part != "train"))


def read_holdout(path: Path) -> set[str]:
    """The held-out scenes, as folders of Sentinel-2 images such as ROIs1158_spring/s2_1.

    Args:
        path: text file with lines such as ROIs1158_spring/s1_1.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line does not have that form.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}, which says which scenes of SEN12MS are held out. Copy it there "
            "from the SEN12MS toolbox, or pass --folders holdout_scenes=FILE (absolute, or under "
            "--data-root)."
        )
    scenes = set()
    for line in read_lines(path):
        season, _, scene = line.strip("/").partition("/")
        if season not in SEASONS or not scene.startswith(("s1_", "s2_")):
            raise ValueError(
                f"{path}: {line!r} is no season and scene, such as {SEASONS[0]}/s1_1 (seasons: "
                f"{', '.join(SEASONS)}); mend the list"
            )
        scenes.add(f"{season}/s2_{scene[3:]}")
    return scenes


def _no_patches_message(dataset: str, root: Path | str, part: str, scenes: Sequence[str]) -> str:
    if dataset == "sen12ms":
        where = f"{root}/{'|'.join(SEASONS)}/s2_*"
        listed = f"by {HOLDOUT_SCENES}"
        why = f" that are held out {listed}" if part != "train" else f" not held out {listed}"
    else:
        where, why = f"{root}/{scenes[0]}", ""
    return (
        f"no Sentinel-2 patches in {where}{why} (expected *{SUFFIX} of {len(S2_BANDS)} bands). "
        "Unpack the archive there, or pass --data-root."
    )
