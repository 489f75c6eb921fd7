"""The data sets by name: the rendered ones, the public ones and one's own, all of them ending as a manifest."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmlop import config
from mmlop.config import Data, Params, Source
from mmlop.data import folder, public
from mmlop.data.manifest import Contents, Fetched, Manifest, Picture, content_of
from mmlop.data.mini import benchmark
from mmlop.errors import MmlopError, listing
from mmlop.files import replacing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSet:
    """One data set: what it is, and how to find out what is in it."""

    name: str
    description: str
    licence: str
    template: str
    classes: int | None  # how many; None for a folder of one's own that is not there now
    fill: Callable[[Path], Contents]  # may put pictures into the empty folder it is given
    pictures: Path | None = None  # where its pictures are and stay; None: where `fill` puts them
    variant_of: str | None = None  # the data set whose classes it shows otherwise


def names(params: Params) -> list[str]:
    """The names of all built-in data sets and of one's own sources."""
    return [*benchmark.TASKS, *public.SPECS, *params.sources]


def get(name: str, params: Params) -> DataSet:
    """Raises MmlopError, naming the nearest, for an unknown name."""
    built_in = name in benchmark.TASKS or name in public.SPECS
    if name in params.sources:
        if built_in:
            raise MmlopError(f"'{name}' under sources in params.yaml is the name of a built-in data set: choose another.")
        return _own(name, params.sources[name], name in params.test_sets)
    if not built_in:
        raise MmlopError(f"There is no data set '{name}'. Known: {listing(names(params), name)}.")
    return _mini(name, params.data) if name in benchmark.TASKS else _public(name, params.data)


def fetch(dataset: DataSet, target: Path) -> Manifest:
    """Put the data set's manifest.json, and pictures that have no other place, into ``target``, whole or not at all.

    Raises MmlopError, among much else, where a public data set's pictures are not those fetched into ``target`` before.
    """
    with replacing(target) as beside:
        beside.mkdir()
        found = dataset.fill(beside)
        manifest = Manifest(
            dataset.name,
            found.classes,
            dataset.template,
            dataset.licence,
            dataset.description,
            found.pictures,
            found.split,
            found.skipped,
        )
        if dataset.name in public.SPECS:
            _check_pinned(manifest, target / "manifest.json")
        manifest.save(beside / "manifest.json")
    return manifest


def fetched(name: str, params: Params, root: Path | None = None) -> Fetched:
    """A fetched data set of the project. Raises MmlopError if it was not fetched."""
    where = (root or config.root()) / "data" / name
    manifest = Manifest.load(where / "manifest.json")
    if name in params.sources:
        return Fetched(manifest, folder.base(params.sources[name]))
    if name in public.SPECS:
        return Fetched(manifest, public.pictures(public.SPECS[name], public.home()))
    return Fetched(manifest, where)


def _check_pinned(manifest: Manifest, before: Path) -> None:
    """What is published once should stay the same for ever, also where no checksum of it is known."""
    if not before.exists():
        return
    try:
        known = {picture.path: picture.content for picture in Manifest.load(before).pictures}
    except MmlopError as error:  # it would be in the way of every later fetch
        logger.warning("%s is not compared with an earlier fetch, whose manifest is of no use (%s)", manifest.name, error)
        return
    changed = [p.path for p in manifest.pictures if known.get(p.path, p.content) != p.content]
    if changed:
        raise MmlopError(
            f"{manifest.name}: {len(changed)} pictures are not those fetched before, {changed[0]} for one: remove "
            f"{before.parent} to accept them, or the pictures to download them again, then run `mmlop data fetch "
            f"{manifest.name}`."
        )


def _own(name: str, source: Source, tested_only: bool) -> DataSet:
    where = folder.location(source)
    return DataSet(
        name,
        f"your own pictures in {where}",
        source.licence,
        source.template,
        folder.count(source),
        lambda _: folder.contents(name, source, tested_only),
        folder.base(source),
    )


def _public(name: str, data: Data) -> DataSet:
    spec = public.SPECS[name]
    return DataSet(
        name,
        spec.description,
        spec.licence,
        spec.template,
        spec.classes,
        lambda _: public.contents(spec, public.home(), name in data.own_split),
        public.pictures(spec, public.home()),
        spec.variant_of,
    )


def _mini(name: str, data: Data) -> DataSet:
    """One of the rendered benchmark: nothing to download."""
    task = benchmark.TASKS[name]

    def fill(target: Path) -> Contents:
        pictures = []
        counts: dict[tuple[str, int], int] = {}
        for part, label, image in benchmark.render(task, data.seed, data.per_class.model_dump()):
            number = counts[part, label] = counts.get((part, label), -1) + 1
            path = f"{part}/{task.classes[label].replace(' ', '_')}/{number:03d}.png"
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(buffer.getvalue())
            pictures.append(Picture(path, label, part, content_of(buffer.getvalue())))
        ordered = tuple(sorted(pictures, key=lambda p: (p.part, p.label, p.path)))
        return Contents(task.classes, ordered, "rendered")

    licence = "BSD-3-Clause (scikit-learn digits)" if name == "mini_digits" else "Apache-2.0 (rendered by mmlop)"
    return DataSet(name, task.description, licence, task.template, len(task.classes), fill, None, task.variant_of)
