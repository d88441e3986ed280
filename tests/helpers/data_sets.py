"""Data sets by name, with the folders and codings of a test."""

from datasets.build import Source
from datasets.samples import SceneSamples
from utils.structures import Scheme


def _source(name, root, folders=None, label_coding=None, index_dir=None, suffixes=None) -> Source:
    return Source(name, root, folders or {}, label_coding, index_dir, suffixes or {})


def find_scheme(name, root=None, *, folders=None, bands=None, flags=None) -> Scheme:
    """The scheme of a data set."""
    return _source(name, root, folders).scheme(bands, flags or {})


def build_dataset(name, part="train", root=None, *, scheme=None, **options) -> SceneSamples:
    """One part of a data set; options of Source.build, and folders, label_coding, suffixes."""
    own = {key: options.pop(key, None) for key in ("folders", "label_coding", "index_dir")}
    source = _source(name, root, **own, suffixes=options.pop("suffixes", None))
    return source.build(part, scheme or source.scheme(), **options)


def check_dataset(name, parts=None, root=None, *, scheme=None, progress=False, **options) -> dict:
    """Checks parts of a data set; `passed_file` lies in a folder of its own."""
    passed, threads = options.pop("passed_file", None), options.pop("threads", None)
    source = _source(name, root, **options)._replace(outdir=passed and passed.parent)
    return source.check(parts, scheme or source.scheme(), threads, progress)


def second(root, folder="train", **options) -> SceneSamples:
    """A folder of a data set in SECOND's layout."""
    return build_dataset("second", folder, root, **options)


def builder(name):
    """`build_dataset` of one data set: (root, part, **options)."""
    return lambda root, part="train", **options: build_dataset(name, part, root, **options)


def checker(name):
    """`check_dataset` of one data set: (root, parts, **options)."""
    return lambda root, parts=None, **options: check_dataset(name, parts, root, **options)


def scheme_finder(name):
    """`find_scheme` of one data set: (root, **options)."""
    return lambda root=None, **options: find_scheme(name, root, **options)
