"""Getting the pictures of a public data set onto this machine: those that are there stay, the others are downloaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmlop.data.archives import Damaged, Place, named, unpack
from mmlop.data.download import DiskFull, Remote, download, need_room, verify
from mmlop.data.public.record import Annotations, Parts, Public
from mmlop.errors import MmlopError

logger = logging.getLogger(__name__)

Read = Callable[[Path], Parts]  # of the data set's folder

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")


@dataclass(frozen=True)
class View:
    """What there is of a data set."""

    parts: Parts
    missing: tuple[str, ...] = ()  # pictures that the parts name
    problem: str = ""  # why this is not the whole data set; empty if it is


def obtain(spec: Public, where: Path, read: Read, failures: Sequence[str] = (), least: int = 0) -> Parts:
    """The parts that ``read`` finds in the data set's folder, once all of its pictures are there, ``least`` at least.

    Raises MmlopError with what went wrong for each source (and before: ``failures``), if none makes the data set whole.
    """
    view = look(spec, where, read, least)
    if not view.problem:
        return view.parts
    if spec.arrange:
        spec.arrange(spec, where)
    else:
        failures = [*failures, *_from_any_source(spec, where, view, lambda: look(spec, where, read, least))]
    view = look(spec, where, read, least)
    if view.problem:
        tried = f" ({'; '.join(failures)})" if failures else ""
        raise MmlopError(
            f"{spec.title} in {where} is not whole: {view.problem}{tried}. Put what is missing there by hand, or remove "
            f"what is damaged."
        )
    return view.parts


def look(spec: Public, where: Path, read: Read, least: int) -> View:
    """What ``read`` finds in the data set's folder, and what is wrong with it."""
    try:
        parts = read(where)
    except MmlopError as error:
        return View({}, problem=str(error).rstrip("."))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # lists that do not fit together
        return View({}, problem=f"its annotations are damaged ({error!r})")
    items = [item for group in parts.values() for item in group]
    names = {item.label: item.name for item in items}
    missing = tuple(item.path for item in items if not (where / spec.pictures / item.path).is_file())
    problem = ""
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        problem = f"{len(missing)} of {len(items)} pictures are missing below {where / spec.pictures}: {some}"
    elif sorted(names) != list(range(spec.classes)):
        problem = f"it has pictures of {len(names)} of {spec.classes} classes"
    elif len(items) < least:
        problem = f"it has {len(items)} of {least} pictures"
    return View(parts, missing, problem)


def fetch_annotations(spec: Public, where: Path) -> list[str]:
    """Download what a layout reads beside the pictures; what could not be had, and why: the archives of the pictures may
    hold it too."""
    failures = []
    for source in spec.annotations:
        if all((where / file).is_file() for file in source.files):
            continue
        try:
            _unpack_annotations(source, where)
        except DiskFull:
            raise
        except MmlopError as error:
            failures.append(str(error).rstrip("."))
    return failures


def refuse_more(spec: Public, where: Path, parts: Parts) -> None:
    """Raises MmlopError where there are pictures that were not published: numbers on them would not compare."""
    train, val, test = spec.counts
    for names, count in ((("train", "val"), train + val), (("test",), test)):
        folders = [os.path.dirname(item.path) for name in names for item in parts[name]]
        if (more := len(folders) - count) > 0:
            raise MmlopError(
                f"{spec.title}: {where / spec.pictures / os.path.commonpath(folders)} holds {more} more than the {count} "
                f"pictures that were published: remove those that do not belong there."
            )


def kept(keep: Mapping[str, str]) -> Place:
    """The files of some folders, and single files, whatever folders are around them; each to its place."""

    def place(member: PurePosixPath) -> PurePosixPath | None:
        parts = member.parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            return None
        at = next((at for at in reversed(range(len(parts))) if parts[at] in keep), None)
        return None if at is None else PurePosixPath(keep[parts[at]], *parts[at + 1 :])

    return place


def _from_any_source(spec: Public, where: Path, view: View, look_again: Callable[[], View]) -> list[str]:
    """Unpack one source after the other until the data set is whole; what went wrong. Raises DiskFull."""
    there = sum(file.stat().st_size for file in where.rglob("*") if file.is_file())
    need_room(where, round(spec.gigabytes * 1e9 * (1 + spec.kept)) - there, spec.title)
    placed = [group for group in spec.sources if all((where / remote.name).exists() for remote in group)]
    failures: list[str] = []
    for group in [*placed, *(group for group in spec.sources if group not in placed)]:
        names = " and ".join(remote.name for remote in group)
        logger.info("%s: %s %s", spec.title, "going on with" if failures else "getting", names)
        try:
            _unpack(spec, where, group, view)
        except DiskFull:
            raise
        except MmlopError as error:
            failures.append(str(error).rstrip("."))
            continue
        view = look_again()
        if not view.problem:
            return []
        failures.append(f"{names} did not make it whole")
    return failures


def _unpack(spec: Public, where: Path, group: tuple[Remote, ...], view: View) -> None:
    """Unpack the pictures that are known to be missing, or else everything that belongs to the data set."""
    archives = [_archive(remote, where) for remote in group]
    folder, place = (where / spec.pictures, named(view.missing)) if view.missing else (where, kept(spec.keep))
    try:
        for archive in archives:
            unpack(archive, folder, place, inside=lambda member: member.name == spec.inside)
    except Damaged:
        _clear([remote for remote in group if remote.checksum is None], where)  # it may be that it came so
        raise
    _clear(group, where)


def _unpack_annotations(source: Annotations, where: Path) -> None:
    archive = _archive(source.remote, where)
    if archive.name.endswith(ARCHIVES):
        unpack(archive, where, named(source.files))
        _clear([source.remote], where)
    else:
        _mark(source.remote, where).unlink(missing_ok=True)  # it is what was wanted, and stays


def _archive(remote: Remote, where: Path) -> Path:
    """The file in the data set's folder, downloaded if it is not there."""
    file = where / remote.name
    if file.exists():
        verify(remote, file)
    elif remote.urls:
        download(remote, where)
        _mark(remote, where).touch()
    else:
        raise MmlopError(f"{remote.name} is no longer published: if you have it, put it into {where}")
    return file


def _clear(remotes: Sequence[Remote], where: Path) -> None:
    """Remove archives that were downloaded; those that were put there by hand stay."""
    for remote in remotes:
        if _mark(remote, where).exists():
            (where / remote.name).unlink(missing_ok=True)
            (where / f".{remote.name}.lock").unlink(missing_ok=True)
            _mark(remote, where).unlink()


def _mark(remote: Remote, where: Path) -> Path:
    return where / f".{remote.name}.downloaded"
