"""What a service has predicted, kept in a folder: features, labels and scores of each picture, and if asked the picture.

The files (mmlop/prediction_files.py) can be read while they grow, by a batch of rows every two seconds. A process that is
killed loses the rows it had not yet appended; a batch that was cut off is left out by readers. Nothing is synced to the
disk: a machine that loses power may lose more.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from mmlop.errors import MmlopError
from mmlop.prediction_files import Part, Row, parts, schema, whole

logger = logging.getLogger(__name__)

DAYS = 30.0  # after which a file is removed
LIMIT = 1 << 30  # bytes of all files; the oldest go first
PART = 32 << 20  # bytes after which a new file is begun
EVERY = 2.0  # seconds between batches
BATCH, BUFFER = 1 << 20, 64 << 20  # bytes in memory that are written at once; beyond which rows are dropped


class PredictionLog:
    """``add`` never waits for the disk: where that is too slow or full, predictions are dropped, counted and reported.

    Several services may log to one folder.
    """

    def __init__(self, folder: Path | str, pictures: bool = False, *, days: float = DAYS, limit: int = LIMIT) -> None:
        """Files older than ``days`` are removed, and the oldest beyond ``limit`` bytes. Raises MmlopError where ``folder``
        cannot be made or written to."""
        self.folder, self.pictures, self.days, self.limit = Path(folder), pictures, days, limit
        self.dropped = 0  # since the start
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MmlopError(
                f"Predictions cannot be logged to {folder} ({error.strerror}): choose another folder."
            ) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise MmlopError(
                f"Predictions cannot be logged to {folder}, which may not be written to: choose another folder."
            )
        self._rows: list[Row] = []
        self._held = self._reported = 0
        self._lock, self._writing, self._wake = threading.Lock(), threading.Lock(), threading.Event()
        self._closing = False
        self._part: Part | None = None
        self._thread = threading.Thread(target=self._work, name="prediction-log", daemon=True)
        self._thread.start()

    def add(
        self,
        name: str,
        identity: str,
        features: np.ndarray,
        labels: Sequence[str],
        scores: Sequence[float],
        candidates: Sequence[str] | None = None,
        picture: bytes | None = None,
    ) -> None:
        """Log one picture's prediction, from any thread.

        ``features``: f' [d], kept in half precision. ``labels`` and ``scores``: the first few, most probable first.
        ``candidates``: the classes that were scored; None: the adapter's own. ``picture`` is kept only if the log was made
        with ``pictures``.
        """
        half = np.array(features, dtype=np.float16).reshape(-1)
        kept = picture if self.pictures else None
        given = None if candidates is None else tuple(candidates)
        row = Row(time.time_ns() // 1000, name, identity, half, tuple(labels), tuple(map(float, scores)), given, kept)
        with self._lock:
            if self._closing or self._held + row.size > BUFFER:
                self.dropped += 1
                return
            self._rows.append(row)
            self._held += row.size
            if self._held >= BATCH:
                self._wake.set()

    def flush(self) -> None:
        """Write what was added so far, and wait for it."""
        with self._writing:
            with self._lock:
                rows, self._rows, self._held = self._rows, [], 0
            problem = "the disk is too slow"
            try:
                if rows:
                    self._current().append(rows)
            except Exception as error:  # whatever it is, the service goes on, and so does this thread
                problem = str(error)
                self.dropped += len(rows)
                if self._part is not None:
                    self._part.abandon()
                    self._part = None
        if self.dropped > self._reported:
            lost = self.dropped - self._reported
            logger.warning("%d predictions were not logged to %s (%s)", lost, self.folder, problem)
            self._reported += lost

    def close(self) -> None:
        """Write what is left. What is added from now on is dropped."""
        with self._lock:
            self._closing = True
        self._wake.set()
        self._thread.join()

    def __enter__(self) -> PredictionLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while not self._closing:
            self._wake.wait(EVERY)
            self._wake.clear()
            self.flush()
        self.flush()
        if self._part is not None:
            self._part.close()

    def _current(self) -> Part:
        """The file to append to: a new one where the last is large or old enough, or was removed by someone else."""
        if self._part is not None and self._part.finished(min(PART, self.limit // 8)):
            self._part.close()
            self._part = None
        if self._part is None:
            self._remove_old()
            self._part = Part(self.folder)
        return self._part

    def _remove_old(self) -> None:
        found = []
        for file in parts(self.folder):
            with suppress(FileNotFoundError):  # another service removes old ones, too
                found.append((file, file.stat()))
        total, oldest = sum(stat.st_size for _, stat in found), time.time() - 86400 * self.days
        for file, stat in found:
            if stat.st_mtime < oldest or total > self.limit * 7 // 8:  # room for the file that is begun now
                with suppress(FileNotFoundError):
                    file.unlink()
                total -= stat.st_size


@dataclass(frozen=True)
class Logged:
    """Rows of a log, oldest first."""

    features: np.ndarray  # [N, d], float32
    confidence: np.ndarray  # [N], of the first label
    labels: tuple[str, ...]  # the first of each row
    own: np.ndarray  # [N], bool: whether the candidates were the adapter's own classes
    times: np.ndarray  # [N], datetime64[us], UTC
    total: int  # how many there are, of which these are an even choice

    def __len__(self) -> int:
        return len(self.labels)


def read(
    folder: Path | str,
    name: str | None = None,
    since: datetime | timedelta | None = None,
    identity: str | None = None,
    most: int | None = None,
) -> Logged:
    """The rows of an adapter, by the name it was asked for or by its identity, ``since`` a moment or within a span of time.

    Of more than ``most`` rows, evenly spaced ones are read. Raises MmlopError where there is no log, or where the rows are
    of backbones with features of different lengths.
    """
    if not Path(folder).is_dir():
        raise MmlopError(f"There is no prediction log at {folder}: `mmlop serve --log FOLDER` writes one.")
    start = datetime.now(UTC) - since if isinstance(since, timedelta) else since
    kept: list[tuple[np.ndarray, Any]] = []  # batches, with the places of their rows among all
    total, held, step = 0, 0, 1
    for batch in _batches(Path(folder), start, name, identity):
        places, chosen = _every(step, np.arange(total, total + len(batch)), batch)
        total += len(batch)
        if len(chosen):
            kept.append((places, chosen))
            held += len(chosen)
        while most is not None and held > most:
            step *= 2
            kept = [pair for one in kept if len((pair := _every(step, *one))[0])]
            held = sum(len(places) for places, _ in kept)
    return _logged([batch for _, batch in kept], total)


def _every(step: int, places: np.ndarray, batch: Any) -> tuple[np.ndarray, Any]:
    chosen = places % step == 0
    return places[chosen], batch.filter(chosen)


def _logged(batches: Sequence[Any], total: int) -> Logged:
    import pyarrow as pa
    from pyarrow import compute

    table = pa.Table.from_batches(batches, schema().remove(schema().get_field_index("picture"))).sort_by("time")
    features = table["features"].combine_chunks()
    lengths = sorted(compute.unique(compute.list_value_length(features)).to_pylist())
    if len(lengths) > 1:
        raise MmlopError(f"The log holds features of lengths {lengths}, of several backbones: read one adapter's.")
    return Logged(
        features=features.flatten().to_numpy().astype(np.float32).reshape(len(table), *lengths or [0]),
        confidence=compute.list_element(table["scores"], 0).to_numpy().astype(np.float64),
        labels=tuple(compute.list_element(table["labels"], 0).to_pylist()),
        own=compute.is_null(table["candidates"]).to_numpy(),
        times=table["time"].cast(pa.timestamp("us")).to_numpy(),
        total=total,
    )


def _batches(folder: Path, start: datetime | None, name: str | None, identity: str | None) -> Iterator[Any]:
    """The rows that are asked for, without their pictures."""
    import pyarrow as pa
    from pyarrow import compute

    first = pa.scalar(start or datetime.fromtimestamp(0, UTC), pa.timestamp("us", tz="UTC"))
    for file in parts(folder):
        for batch in whole(file, start):
            wanted = compute.greater_equal(batch["time"], first)
            for column, value in (("name", name), ("identity", identity)):
                if value is not None:
                    wanted = compute.and_(wanted, compute.equal(batch[column], value))
            yield batch.filter(wanted)
