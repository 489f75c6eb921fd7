"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmlop.errors import MmlopError

NEW = ".new"  # ends the name of a folder that holds what is being written
YOUNG = 10.0  # seconds in which such a folder may not have been locked yet


class NoRoom(MmlopError, OSError):
    """The disk is full, or the part of it that one may use."""

    errno, strerror = errno.ENOSPC, os.strerror(errno.ENOSPC)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to (a file or a folder); it takes the place of ``path`` when the block ends well and
    is removed when it raises. Raises NoRoom on a full disk."""
    try:
        with _beside(path) as beside:
            yield beside
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoRoom(f"There is no room on the disk to write {path}: make some, and run the same command again.") from error


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(path)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=NEW, dir=path.parent))
    lock = _lock(holder)
    beside = holder / path.name
    try:
        yield beside
        if beside.is_dir() and path.is_dir():  # a folder that is not empty cannot be replaced in one step
            os.rename(path, holder / "old")
            try:
                os.replace(beside, path)
            except BaseException:
                os.rename(holder / "old", path)
                raise
        else:
            os.replace(beside, path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_left_over(path: Path) -> None:
    """What processes have left that were killed while they wrote ``path``: their locks ended with them."""
    for holder in path.parent.glob(f".{glob.escape(path.name)}.*{NEW}"):
        if (lock := _lock(holder)) is not None:
            if time.time() - os.fstat(lock).st_mtime > YOUNG:
                shutil.rmtree(holder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A handle that locks a folder until it is closed; None where another one does, or the disk knows no locks."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def dump_json(value: Any) -> str:
    """JSON with sorted keys and two-space indent: the same bytes for the same value."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    write_text(path, dump_json(value))
