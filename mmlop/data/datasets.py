"""The data sets by name, and fetching one: pictures on disk with a manifest beside them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmlop import config
from mmlop.config import Source
from mmlop.data import folder
from mmlop.data.manifest import Manifest, Picture, content_of
from mmlop.errors import MmlopError, listing
from mmlop.files import replacing


@dataclass(frozen=True)
class Drawing:
    """How many pictures a rendered data set gets, and from which seed; downloaded ones are what they are."""

    seed: int = 0
    per_class: Mapping[str, int] = field(default_factory=lambda: {"train": 32, "val": 16, "test": 40})


@dataclass(frozen=True)
class DataSet:
    """One data set: what it is, and how to put its pictures into a folder."""

    name: str
    description: str
    licence: str
    template: str
    classes: Callable[[], tuple[str, ...]]
    fill: Callable[[Path, Drawing], tuple[Picture, ...]]  # puts its pictures into an empty folder


def names(sources: Mapping[str, Source] | None = None) -> list[str]:
    """The names of all built-in data sets and of one's own ``sources``."""
    return [*_mini(), *(sources or {})]


def get(name: str, sources: Mapping[str, Source] | None = None) -> DataSet:
    """Raises MmlopError, naming the nearest, for an unknown name."""
    known = _mini()
    if sources and name in sources:
        if name in known:
            raise MmlopError(f"'{name}' under sources in params.yaml is the name of a built-in data set: choose another.")
        return _own(name, sources[name])
    if name not in known:
        raise MmlopError(f"There is no data set '{name}'. Known: {listing(names(sources), name)}.")
    return known[name]


def fetch(dataset: DataSet, target: Path, drawing: Drawing | None = None) -> Manifest:
    """Fill ``target`` with the data set's pictures and its manifest.json, whole or not at all."""
    with replacing(target) as beside:
        beside.mkdir()
        pictures = dataset.fill(beside, drawing or Drawing())
        manifest = Manifest(
            dataset.name, dataset.classes(), dataset.template, dataset.licence, dataset.description, pictures
        )
        manifest.save(beside / "manifest.json")
    return manifest


def _own(name: str, source: Source) -> DataSet:
    where = config.root() / source.folder.expanduser()
    return DataSet(
        name,
        f"your own pictures in {where}",
        source.licence,
        source.template,
        lambda: folder.class_names(where),
        lambda target, _: folder.fill(where, target),
    )


def _mini() -> dict[str, DataSet]:
    """The rendered benchmark: nothing to download."""
    from mmlop.data.mini.benchmark import TASKS, MiniTask, render

    def naming(task: MiniTask) -> Callable[[], tuple[str, ...]]:
        return lambda: task.classes

    def filling(task: MiniTask) -> Callable[[Path, Drawing], tuple[Picture, ...]]:
        def fill(target: Path, drawing: Drawing) -> tuple[Picture, ...]:
            pictures = []
            counts: dict[tuple[str, int], int] = {}
            for part, label, image in render(task, drawing.seed, drawing.per_class):
                number = counts[part, label] = counts.get((part, label), -1) + 1
                path = f"{part}/{task.classes[label].replace(' ', '_')}/{number:03d}.png"
                buffer = io.BytesIO()
                image.save(buffer, format="PNG")
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                (target / path).write_bytes(buffer.getvalue())
                pictures.append(Picture(path, label, part, content_of(buffer.getvalue())))
            return tuple(sorted(pictures, key=lambda p: (p.part, p.label, p.path)))

        return fill

    licence = "BSD-3-Clause (scikit-learn digits)"
    return {
        task.name: DataSet(
            task.name,
            task.description,
            licence if task.name == "mini_digits" else "Apache-2.0 (rendered by mmlop)",
            task.template,
            naming(task),
            filling(task),
        )
        for task in TASKS.values()
    }
