"""Content hashes of files, remembered in a small database, so that files that did not change are not read again."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from mmlop.data.download import bar
from mmlop.data.manifest import content_of
from mmlop.errors import MmlopError

logger = logging.getLogger(__name__)

READERS = 8  # threads; hashing waits for the disk
BATCH = 10_000  # files handed to them at a time
SETTLED = 2.0  # seconds
PATIENCE = 1.0  # seconds to wait for another process that writes to the database
TABLE = (
    "CREATE TABLE IF NOT EXISTS files"
    " (path TEXT PRIMARY KEY, size INTEGER, modified INTEGER, changed INTEGER, content TEXT) WITHOUT ROWID"
)

T = TypeVar("T")


class State(NamedTuple):
    """What shows that a file was changed. The last one cannot be set back, as copying tools do with the other time."""

    size: int
    modified: int  # nanoseconds
    changed: int  # nanoseconds


def of(folder: Path, paths: Sequence[str], database: Path, settled: float = SETTLED) -> list[str]:
    """The content hash (``manifest.content_of``) of each file, in order; ``paths`` start from ``folder``.

    ``database`` remembers them with the size and times of the files, but for files that changed less than ``settled``
    seconds ago: within a tick of its clock, a file system may show the same times for two contents. Where it cannot be
    used every file is read.

    Raises MmlopError, naming the file, for one that cannot be read.
    """
    done: list[str] = []
    remembered = _Remembered(database)
    options = {"desc": "reading pictures", "total": len(paths), "unit": "", "unit_scale": False}
    try:
        with ThreadPoolExecutor(READERS) as readers, bar(**options) as progress:
            for start in range(0, len(paths), BATCH):
                batch = paths[start : start + BATCH]
                states = dict(zip(batch, readers.map(lambda path: _state(folder / path), batch), strict=True))
                known = remembered.find(states)
                others = [path for path in states if path not in known]
                asked = time.time_ns()  # before reading: what changes from here on shows other times later
                fresh = dict(zip(others, readers.map(lambda path: _content(folder / path), others), strict=True))
                old = [path for path in others if states[path].changed < asked - settled * 1e9]
                remembered.add((path, *states[path], fresh[path]) for path in old)
                done += [known[path] if path in known else fresh[path] for path in batch]
                progress.update(len(batch))
    finally:
        remembered.close()
    return done


def _state(file: Path) -> State:
    try:
        found = file.stat()
    except OSError as error:
        raise _unreadable(file, error) from error
    return State(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _content(file: Path) -> str:
    try:
        return content_of(file.read_bytes())
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> MmlopError:
    return MmlopError(f"{file} cannot be read ({error.strerror or error}): replace it.")


class _Remembered:
    """The database. It saves time and nothing else: whatever is wrong with it, the hashes can be had without it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.connection: sqlite3.Connection | None = None
        self._do(lambda connection: connection.execute(TABLE), None)

    def find(self, states: dict[str, State]) -> dict[str, str]:
        """The hashes of those files that are as they were."""

        def select(connection: sqlite3.Connection) -> dict[str, str]:
            found = {}
            for path, state in states.items():
                row = connection.execute("SELECT size, modified, changed, content FROM files WHERE path = ?", (path,))
                if (known := row.fetchone()) and known[:3] == state:
                    found[path] = known[3]
            return found

        return self._do(select, {})

    def add(self, rows: Iterable[tuple[str | int, ...]]) -> None:
        def insert(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)

        self._do(insert, None)

    def close(self) -> None:
        if self.connection:
            self.connection.close()
            self.connection = None

    def _do(self, action: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What ``action`` returns; ``otherwise`` where the database cannot be used. A damaged one is made anew."""
        try:
            self.connection = self.connection or sqlite3.connect(self.file, PATIENCE)
            return action(self.connection)
        except sqlite3.OperationalError as error:  # a folder that is read-only, a full disk, another process at it
            logger.debug("%s cannot be used: %s", self.file, error)
        except sqlite3.DatabaseError as error:
            logger.warning("%s is damaged (%s): it is made anew", self.file, error)
            self.close()
            with suppress(OSError):
                self.file.unlink()
                self._do(lambda connection: connection.execute(TABLE), None)
        return otherwise
