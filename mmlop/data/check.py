"""Which of one's own pictures can be used: each is opened and decoded once, and all that is wrong is found at once."""

from __future__ import annotations

import os
import stat
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mmlop.data.entries import Entry, Listed, Offender
from mmlop.data.manifest import content_of

CHUNK = 2000  # pictures handed to the threads at once, which bounds what waits in memory
THREADS = min(8, os.cpu_count() or 1)


def usable(base: Path, listed: Listed) -> tuple[list[Entry], list[Offender]]:
    """The entries that can be used, with their content hashes, and everything that cannot, with the reason."""
    offenders = list(listed.offenders)
    readable = []
    for entry, content, problem in _seen(base, listed.entries):
        if problem:
            offenders.append((entry.path, problem + entry.at))
        else:
            readable.append(replace(entry, content=content))
    bad_classes = dict(_bad_names(listed.classes))
    ambiguous = dict(_in_two_classes(readable))
    offenders += [*bad_classes.items(), *ambiguous.items()]
    good = [entry for entry in readable if entry.label not in bad_classes and entry.path not in ambiguous]
    filled = {entry.label for entry in good}
    empty = [name for name in listed.classes if name not in filled and name not in bad_classes]
    offenders += [(name, "a class without a usable picture") for name in empty]
    return good, [(printable(path), printable(reason)) for path, reason in offenders]


def printable(text: str) -> str:
    """File names may hold line ends, and bytes that are not UTF-8, which nothing can print or store: as \\n and \\udc.."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _seen(base: Path, entries: list[Entry]) -> Iterator[tuple[Entry, str, str]]:
    """Each entry with its picture's content hash, or with what is wrong with it."""
    from PIL import Image

    with ThreadPoolExecutor(THREADS) as pool, warnings.catch_warnings():
        # As an error, since a warning would go unnoticed. Set here for all threads, which share the filters.
        warnings.simplefilter("ignore", UserWarning)  # odd metadata, which leaves the picture as it is
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, len(entries), CHUNK):
            chunk = entries[start : start + CHUNK]
            looks = pool.map(_look, (os.path.join(base, entry.path) for entry in chunk))
            for entry, (content, problem) in zip(chunk, looks, strict=True):
                yield entry, content, problem


def _look(file: str) -> tuple[str, str]:
    """The content hash of a picture file, or why it cannot be used; the other one is empty."""
    from mmlop.data.reading import decode, reason

    try:
        file.encode()
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
            return "", "not a file"
        if status.st_size == 0:
            return "", "an empty file"
        data = Path(file).read_bytes()
    except UnicodeEncodeError:
        return "", "a file name that is not UTF-8"
    except FileNotFoundError:
        return "", "a link that leads nowhere" if os.path.islink(file) else "missing"
    except (OSError, ValueError) as error:
        return "", f"cannot be opened: {getattr(error, 'strerror', None) or error}"
    try:
        decode(data, quick=True)
    except Exception as error:  # each of Pillow's decoders raises its own kinds; all end here as a reason
        return "", f"not a readable picture: {reason(error)}"
    return content_of(data), ""


def _bad_names(classes: Iterable[str]) -> Iterator[Offender]:
    """Class names that are none, or that cannot be told from another by what they say."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            yield name, "a class name that is not UTF-8"
            continue
        words = unicodedata.normalize("NFC", name).replace("_", " ").split()
        if not words:
            yield name, "a class name without a letter"
            continue
        alike[unicodedata.normalize("NFC", " ".join(words).casefold())].append(name)
    for names in alike.values():
        for name in names[1:]:
            yield name, f"a class name like '{names[0]}' but for case, spaces, underscores or the form of its Unicode"
        if len(names) > 1:
            yield names[0], f"a class name like '{names[1]}' but for case, spaces, underscores or the form of its Unicode"


def _in_two_classes(entries: Iterable[Entry]) -> Iterator[Offender]:
    """Pictures that are in more than one class, each with one in another."""
    copies: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        copies[entry.content].append(entry)
    for same in copies.values():
        for entry in same:
            other = next((one for one in same if one.label != entry.label), None)
            if other:
                yield entry.path, f"the same picture as {other.path} in another class{entry.at}"
