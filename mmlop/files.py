"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to (a file or a folder); it takes the place of ``path`` when the block ends well and
    is removed when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
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


def write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def dump_json(value: Any) -> str:
    """JSON with sorted keys and two-space indent: the same bytes for the same value."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    write_text(path, dump_json(value))
