"""The files of a prediction log: Arrow streams (for pyarrow.ipc.open_stream) to which batches of rows are appended."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

logger = logging.getLogger(__name__)

PATTERN = "predictions-*.arrows"
AGE = 3600.0  # seconds after which a new file is begun


def schema() -> Any:
    import pyarrow as pa

    fields = {
        "time": pa.timestamp("us", tz="UTC"),
        "name": pa.string(),  # of the adapter, as it was asked for
        "identity": pa.string(),  # of the adapter
        "features": pa.list_(pa.float16()),
        "labels": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
        "candidates": pa.string(),  # null: the adapter's own classes; else a hash of those that were given
        "picture": pa.binary(),  # as it was sent; null unless pictures are kept
    }
    return pa.schema(list(fields.items()), metadata={"mmlop.format": "1"})


@dataclass(frozen=True)
class Row:
    time: int  # microseconds since 1970, UTC
    name: str
    identity: str
    features: np.ndarray  # [d], float16
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    candidates: tuple[str, ...] | None
    picture: bytes | None

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return 500 + self.features.nbytes + len(self.picture or b"")


def parts(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob(PATTERN))


class Part:
    """One file, while it is written."""

    def __init__(self, folder: Path) -> None:
        from pyarrow import ipc

        self.begun, self.batches = time.time(), 0
        now = datetime.now(UTC)
        self.path = folder / f"predictions-{now:%Y%m%dT%H%M%S.%f}-{secrets.token_hex(3)}.arrows"
        self.file: BinaryIO = self.path.open("xb")
        self.writer = ipc.new_stream(self.file, schema(), options=ipc.IpcWriteOptions(compression="zstd"))

    def append(self, rows: Sequence[Row]) -> None:
        self.writer.write_batch(_batch(rows))
        self.file.flush()
        self.batches += 1

    def finished(self, size: int) -> bool:
        stat = os.fstat(self.file.fileno())
        return stat.st_size > size or time.time() - self.begun > AGE or stat.st_nlink == 0

    def close(self) -> None:
        with suppress(OSError):  # all rows are written: what is missing is the mark of the end, which readers do without
            self.writer.close()
            self.file.close()

    def abandon(self) -> None:
        """After a write that failed: readers stop before the batch that is not whole."""
        self.file.raw.close()  # type: ignore[attr-defined]  # without writing what is left in memory
        if not self.batches:
            self.path.unlink(missing_ok=True)


def whole(file: Path, start: datetime | None) -> Iterator[Any]:
    """The whole batches of a file; none where all its rows are older than ``start``."""
    import pyarrow as pa
    from pyarrow import ipc

    columns = [place for place, field in enumerate(schema()) if field.name != "picture"]
    try:
        if start is not None and file.stat().st_mtime < start.timestamp() - 60:  # file systems' clocks are coarse
            return
        with pa.memory_map(str(file)) as mapped:
            yield from ipc.open_stream(mapped, options=ipc.IpcReadOptions(included_fields=columns))
    except FileNotFoundError:  # removed in the meantime, as too old
        return
    except (pa.ArrowInvalid, OSError) as error:
        logger.info("%s ends with a batch that is not whole: it is being written, or was cut off (%s)", file, error)


def _batch(rows: Sequence[Row]) -> Any:
    import pyarrow as pa

    columns: dict[str, Any] = {field.name: [getattr(row, field.name) for row in rows] for field in schema()}
    columns["candidates"] = [None if row.candidates is None else hashed(row.candidates) for row in rows]
    features = columns.pop("features")
    arrays = {name: pa.array(values, schema().field(name).type) for name, values in columns.items()}
    offsets = np.cumsum([0, *map(len, features)], dtype=np.int32)
    arrays["features"] = pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(features)))
    return pa.record_batch([arrays[field.name] for field in schema()], schema=schema())


def hashed(candidates: Sequence[str]) -> str:
    """A name for a set of candidate classes in their order: the first 16 hex digits of a SHA-256."""
    return hashlib.sha256("\0".join(candidates).encode()).hexdigest()[:16]
