"""Unpacking zip and tar archives from elsewhere: only what is wanted, where it is wanted, and nothing outside."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Self

from mmlop.data.download import bar, unwritable
from mmlop.errors import MmlopError

Place = Callable[[PurePosixPath], PurePosixPath | None]  # a member's path -> where to write it; None: leave it out
Inside = Callable[[PurePosixPath], bool]

CHUNK = 1 << 20
SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
SQUEEZED: dict[bytes, Callable[[Any], Any]] = {  # by the first bytes: file names are not to be relied on
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"]\x00\x00\x80": lzma.open,
}
DAMAGE = (  # what the standard library raises on bytes that are no archive it knows, or no longer one
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    NotImplementedError,
)


def unpack(archive: Path, folder: Path, place: Place, inside: Inside = lambda _: False) -> int:
    """Write the members that ``place`` wants into ``folder``, each as a whole or not at all; how many were written.

    Files that are there already with the right size are left, and not counted: a second call goes on where the first one
    was stopped. Members for which ``inside`` holds are archives themselves, and are read through: their members are shown
    to ``place`` and ``inside`` below the archive's path without its suffix.

    Raises MmlopError, naming the archive and the member, where one would be written outside ``folder``, for devices and
    pipes, for links that are wanted, and for two members that differ but have one place; also if the archive is encrypted.
    Raises Damaged if it is damaged or cut short (then what was written of it is removed), and DiskFull.
    """
    try:
        source = archive.open("rb")
    except OSError as error:
        raise MmlopError(f"The archive {archive} cannot be read: {error.strerror}.") from error
    target = _Target(archive, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with source, bar(desc=archive.name, unit=" files") as progress:
            for member in _Walk(archive, inside).members(source, PurePosixPath()):
                if (wanted := place(member.path)) is not None:
                    target.put(member, wanted)
                    progress.update()
    except Damaged:  # a check sum may come only at the end of all that it is of
        target.clear()
        raise
    except OSError as error:
        raise unwritable(folder, error) from error
    return len(target.written)


def named(wanted: Collection[str]) -> Place:
    """Members whose path ends with one of these paths, to be written there, whatever folders are wrapped around them.

    Where several fit, the longest does:

    >>> named(["1.jpg", "Faces/1.jpg"])(PurePosixPath("caltech-101/101_ObjectCategories/Faces/1.jpg"))
    PurePosixPath('Faces/1.jpg')
    """
    known = frozenset(wanted)

    def place(path: PurePosixPath) -> PurePosixPath | None:
        endings = ("/".join(path.parts[start:]) for start in range(len(path.parts)))  # the longest first
        return next((PurePosixPath(ending) for ending in endings if ending in known), None)

    return place


class Damaged(MmlopError):
    """The archive's bytes are not what they were, or not of an archive at all: it may help to download it again."""

    def __init__(self, archive: Path, reason: object) -> None:
        super().__init__(
            f"{archive} is damaged, cut short, or no zip or tar archive ({reason}): remove it and run the same command "
            f"again."
        )


@dataclass(frozen=True)
class _Member:
    path: PurePosixPath
    size: int  # bytes, as declared
    link: bool
    open: Callable[[], Any]  # a binary stream, to be read before the next member is asked for


class _Header(tarfile.TarInfo):
    """A tar ends with a block of zeros. tarfile takes a damaged or missing header for its end as well."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(str(error)) from error


@dataclass(frozen=True)
class _Walk:
    """Through an archive, and the archives in it, in the order of their bytes."""

    archive: Path
    inside: Inside

    def members(self, stream: Any, prefix: PurePosixPath) -> Iterator[_Member]:
        with _damage(self.archive):
            head = stream.peek(8)
            squeezed = next((opener for magic, opener in SQUEEZED.items() if head.startswith(magic)), None)
            if head.startswith(ZIP):
                yield from self._zip(stream, prefix)
            elif squeezed is None:
                yield from self._tar(stream, prefix)
            else:
                with squeezed(stream) as plain:
                    yield from self._tar(plain, prefix)
                    while plain.read(CHUNK):  # the check sum is behind the end of the tar
                        pass

    def _zip(self, stream: Any, prefix: PurePosixPath) -> Iterator[_Member]:
        with tempfile.TemporaryFile() as copy:
            if prefix.parts:  # the list of a zip is at its end: one in another archive cannot be read in passing
                shutil.copyfileobj(stream, copy, CHUNK)
            with zipfile.ZipFile(copy if prefix.parts else stream) as members:
                for info in members.infolist():
                    path = prefix / self._safe(info.filename)
                    kind = stat.S_IFMT(info.external_attr >> 16)
                    if kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
                        raise self._device(info.filename)
                    if not info.filename.endswith(("/", "\\")):
                        opener = partial(self._open, members, info)
                        yield from self._through(_Member(path, info.file_size, kind == stat.S_IFLNK, opener))

    def _tar(self, stream: Any, prefix: PurePosixPath) -> Iterator[_Member]:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as members:
            for info in members:
                path = prefix / self._safe(info.name)
                if info.isdev():
                    raise self._device(info.name)
                link = info.issym() or info.islnk()
                if info.isreg() or link:
                    yield from self._through(_Member(path, info.size, link, partial(members.extractfile, info)))

    def _through(self, member: _Member) -> Iterator[_Member]:
        """The member itself, or what is in it."""
        if member.path.name.startswith("._") or "__MACOSX" in member.path.parts:  # macOS keeps its own notes there
            return
        if member.link or not self.inside(member.path):
            yield member
            return
        suffix = next((suffix for suffix in SUFFIXES if member.path.name.lower().endswith(suffix)), "")
        stem = member.path.name[: -len(suffix)] if suffix else member.path.name
        with member.open() as stream:
            yield from self.members(stream, member.path.with_name(stem or member.path.name))

    def _open(self, members: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
        if info.flag_bits & 1:
            raise MmlopError(f"{self.archive} is encrypted ({info.filename}): get one that is not.")
        return members.open(info)

    def _safe(self, name: str) -> PurePosixPath:
        path = name.replace("\\", "/")
        if _leads_out(path):
            raise MmlopError(
                f"{self.archive}: the member {name!r} leads outside the folder: the archive is not to be trusted."
            )
        return PurePosixPath(path)

    def _device(self, name: str) -> MmlopError:
        return MmlopError(f"{self.archive}: the member {name!r} is a device or a pipe: the archive is not to be trusted.")


@dataclass
class _Target:
    """The folder that members of an archive are written to."""

    archive: Path
    folder: Path
    written: list[PurePosixPath] = field(default_factory=list)
    seen: set[PurePosixPath] = field(default_factory=set)
    real: set[PurePosixPath] = field(default_factory=lambda: {PurePosixPath()})  # folders that are no links

    def put(self, member: _Member, wanted: PurePosixPath) -> None:
        """Raises MmlopError if the member must not be there."""
        if member.link:
            raise MmlopError(
                f"{self.archive}: the member {member.path} is a link, which is not followed: unpack it by hand."
            )
        self._check(member, wanted)
        file = self.folder / wanted
        there = file.is_file() and file.stat().st_size == member.size
        if wanted in self.seen:
            if not there or not self._same(member, file):
                raise MmlopError(f"{self.archive}: {member.path} is a second and different member for {wanted}.")
        elif not there:
            self._write(member, file)
            self.written.append(wanted)
        self.seen.add(wanted)

    def clear(self) -> None:
        for path in self.written:
            (self.folder / path).unlink(missing_ok=True)

    def _check(self, member: _Member, wanted: PurePosixPath) -> None:
        if not wanted.parts or _leads_out(str(wanted)):
            raise MmlopError(f"{self.archive}: the member {member.path} would be written outside {self.folder}.")
        for step in (wanted, *wanted.parents):
            if step not in self.real and (self.folder / step).is_symlink():
                raise MmlopError(f"{self.archive}: {member.path} would be written through the link {self.folder / step}.")
        self.real.update(wanted.parents)

    def _same(self, member: _Member, file: Path) -> bool:
        with _damage(self.archive), member.open() as new, file.open("rb") as old:
            while piece := new.read(CHUNK):
                if piece != old.read(len(piece)):
                    return False
        return True

    def _write(self, member: _Member, file: Path) -> None:
        out = tempfile.NamedTemporaryFile(prefix=".unpacking.", dir=self.folder, delete=False)  # noqa: SIM115
        beside = Path(out.name)
        try:
            with out, _damage(self.archive), member.open() as source:
                left = member.size
                while piece := source.read(CHUNK):
                    left -= len(piece)
                    if left < 0:
                        break
                    out.write(piece)
            if left:
                raise Damaged(self.archive, f"{member.path} is not of the size that is declared")
            beside.chmod(0o644)
            file.parent.mkdir(parents=True, exist_ok=True)
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)


def _leads_out(path: str) -> bool:
    return path.startswith("/") or ".." in path.split("/") or "\0" in path or bool(re.match("[A-Za-z]:", path))


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    """Say as a sentence what the standard library says of a damaged archive."""
    try:
        yield
    except DAMAGE as error:
        raise Damaged(archive, error) from error
    except OSError as error:
        if error.errno is not None:  # the disk's, not the archive's: gzip and bz2 raise OSError too
            raise
        raise Damaged(archive, error) from error
