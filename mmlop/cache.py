"""What is the same for ever once computed, kept on disk under a name made of everything it depends on.

The name is a hash of ``about``; whatever changes the result has to be in there. Files may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlop import config
from mmlop.files import replacing

logger = logging.getLogger(__name__)


def tensor(kind: str, about: Any, shape: tuple[int, ...], dtype: str, fill: Callable[[np.ndarray], None]) -> Tensor:
    """An array of ``shape`` and ``dtype``, mapped from its file; ``fill`` writes it the first time.

    ``about`` is anything JSON can hold. What cannot be written (a full disk, no permission) is computed in memory, with a
    warning.
    """
    name = hashlib.sha256(json.dumps([kind, about, shape, dtype], sort_keys=True).encode()).hexdigest()[:40]
    file = config.cache() / kind / f"{name}.npy"
    if (known := _read(file, shape, dtype)) is not None:
        return known
    try:
        with replacing(file) as beside:
            stored = np.lib.format.open_memmap(beside, mode="w+", dtype=dtype, shape=shape)
            _reserve(beside)
            fill(stored)
            stored.flush()
            del stored
    except OSError as error:
        logger.warning("%s cannot be written (%s): not kept for the next time", file, error.strerror or error)
        values = np.empty(shape, dtype)
        fill(values)
        return torch.from_numpy(values)
    found = _read(file, shape, dtype)
    if found is None:
        raise RuntimeError(f"{file} was just written and cannot be read")
    return found


def sources(*names: str) -> str:
    """A hash of source files of this package, for keys of what they compute."""
    package = Path(__file__).parent
    return hashlib.sha256(b"".join((package / name).read_bytes() for name in names)).hexdigest()[:16]


def _reserve(file: Path) -> None:
    """Room on the disk for the whole of a mapped file, which has holes as yet: a disk that is found full while they are
    filled ends the process by a signal."""
    with file.open("r+b") as opened:
        size = file.stat().st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size)
            return
        header = opened.read(4096)
        opened.seek(0)
        opened.write(header)
        for start in range(opened.tell(), size, 2**20):
            opened.write(bytes(min(2**20, size - start)))


def _read(file: Path, shape: tuple[int, ...], dtype: str) -> Tensor | None:
    """Copy on write, so that nobody changes the file by changing the tensor."""
    try:
        values = np.load(file, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (ValueError, OSError, EOFError) as error:
        logger.warning("%s cannot be read (%s): made again", file, error)
        return None
    if values.shape != shape or values.dtype != np.dtype(dtype):
        logger.warning("%s holds something else: made again", file)
        return None
    return torch.from_numpy(values)
