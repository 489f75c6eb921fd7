"""CoOp's split files: which picture papers train, validate and test on."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from mmlop.data.download import DiskFull, download, verify
from mmlop.data.public.record import Item, Parts, Public
from mmlop.errors import MmlopError


def find(spec: Public, where: Path, own_split: bool) -> tuple[Parts, bool] | None:
    """The parts of the split file, and whether it is the published one; None if there is none and another split will do.

    It is taken from the data set's folder, or downloaded into it. Raises MmlopError if the file there is another one, or
    there is none to be had, unless another split will do.
    """
    if spec.split is None:
        return None
    file = where / spec.split.name
    if not file.exists():
        try:
            download(spec.split, where, attempts=2 if own_split else 5)
        except DiskFull:
            raise
        except MmlopError as error:
            if own_split:
                return None
            raise MmlopError(
                f"{spec.title}: the split that papers use cannot be had: {_reason(error)}. Put {spec.split.name} into "
                f"{where} by hand, or, if a split of your own will do, {_own(spec)}."
            ) from error
        return read(file), True
    try:
        verify(spec.split, file)
    except MmlopError as error:
        if own_split:
            return read(file), False
        raise MmlopError(
            f"{file} is not the split that papers use (CoOp's code makes one of its own under this name): remove it to "
            f"download the published one, or, if this one will do, {_own(spec)}."
        ) from error
    return read(file), True


def read(file: Path) -> Parts:
    """The rows of train, val and test, in their order. Raises MmlopError if the file is not of that form."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        parts = {part: [Item(*row) for row in stored[part]] for part in ("train", "val", "test")}
        for item in (item for items in parts.values() for item in items):
            path = PurePosixPath(item.path)
            if path.is_absolute() or ".." in path.parts or type(item.label) is not int or not isinstance(item.name, str):
                raise ValueError(f"{list(item)} is no picture")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MmlopError(f"{file} is not a split file ({error}): remove it to download it again.") from error
    return parts


def _reason(error: MmlopError) -> str:
    """Without what to do about it: there is more to say on that."""
    return str(error).partition(": download it by hand")[0].rstrip(".")


def _own(spec: Public) -> str:
    return f"add {spec.name} to `data.own_split` in params.yaml (`mmlop data fetch {spec.name} --own-split`)"
