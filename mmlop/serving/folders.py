"""Adapters in folders of this machine, by name."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from mmlop import adapter as adapters
from mmlop.errors import MmlopError
from mmlop.serving.found import Found, UnknownAdapter
from mmlop.serving.fresh import Fresh

FILES = ("adapter.safetensors", "adapter.json")  # what makes the identity
MOMENT = 0.1  # seconds in which a folder that is being replaced is in its place again

Stamp = tuple[tuple[int, int, int], ...]


class Folders:
    """Folders of adapters, each known by its own name or by the one given with it, and folders of such folders.

    The latter are looked through again every ``refresh`` seconds. What changed in an adapter's folder is seen at once, by
    the times and sizes of its files.
    """

    def __init__(self, refresh: float) -> None:
        self._refresh = refresh
        self._single: dict[str, Path] = {}
        self._holders: list[Fresh[dict[str, Path]]] = []
        self._seen: dict[Path, tuple[Stamp, str]] = {}

    def add(self, folder: Path, name: str = "") -> None:
        """Raises MmlopError where it is no adapter and holds none, or where a name is taken."""
        if (folder / "adapter.json").is_file():
            found = {name or folder.resolve().name: folder}
            taken = self._require_free(found)
            self._single |= taken
        elif name:
            raise MmlopError(f"{folder} is no adapter, so it cannot be named '{name}': it has no adapter.json.")
        else:
            holder = Fresh(partial(_inside, folder), self._refresh)
            self._require_free(holder.get())
            self._holders.append(holder)

    def names(self) -> list[str]:
        return [*self._single, *(name for holder in self._holders for name in holder.get())]

    def find(self, name: str) -> Found | None:
        """None for a name that no folder has. Raises UnknownAdapter where its files are gone."""
        folders = [self._single, *(holder.get() for holder in self._holders)]
        folder = next((one[name] for one in folders if name in one), None)
        return None if folder is None else Found(name, folder, self._identity(name, folder), None, str(folder))

    def _require_free(self, found: dict[str, Path]) -> dict[str, Path]:
        if taken := set(self.names()) & set(found):
            name = min(taken)
            raise MmlopError(f"Two adapters are named '{name}', one of them in {found[name]}: give one as NAME=FOLDER.")
        return found

    def _identity(self, name: str, folder: Path) -> str:
        for pause in (MOMENT, None):
            try:
                stamp = _stamp(folder)
                known = self._seen.get(folder)
                if known is None or known[0] != stamp:
                    known = self._seen[folder] = stamp, adapters.identity(folder)
                return known[1]
            except OSError:
                if pause is not None:
                    time.sleep(pause)
        raise UnknownAdapter(f"The files of '{name}' are not there any more.")


def _inside(folder: Path) -> dict[str, Path]:
    """The adapters in a folder, by the names of their own folders. Hidden ones are being written."""
    if not folder.is_dir():
        raise MmlopError(f"{folder} does not exist: give an adapter's folder, or a folder of such.")
    found = sorted(one for one in folder.iterdir() if not one.name.startswith(".") and (one / "adapter.json").is_file())
    if not found:
        raise MmlopError(f"{folder} is no adapter and holds none: give an adapter's folder, or a folder of such.")
    return {one.name: one for one in found}


def _stamp(folder: Path) -> Stamp:
    """What differs whenever an adapter's files do, without reading them."""
    found = [os.stat(folder / file) for file in FILES]
    return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)
