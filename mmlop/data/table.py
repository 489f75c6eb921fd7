"""Your own pictures as a table: CSV or JSON Lines with a path, a label and perhaps a part in every row."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePath

from mmlop.data.entries import Entry, Listed
from mmlop.errors import MmlopError, listing

PART_OF = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
PART_KEYS = ("split", "part")
KEYS = ("path", "label", *PART_KEYS)
SHOWN = 10  # problems named in a message

Row = tuple[int, dict[str, str]]  # line and fields, or line and what is wrong with it under ""


def read(file: Path) -> Listed:
    """The rows of a table. Blank labels, and rows that name a picture again, are offenders.

    Raises MmlopError for a file that is no such table, with the lines that are wrong.
    """
    if file.suffix.lower() not in (".csv", ".jsonl"):
        raise MmlopError(f"{file} is no table: it must be a .csv or a .jsonl file.")
    text = _text(file)
    rows = list(_csv_rows(text, file) if file.suffix.lower() == ".csv" else _json_rows(text))
    _refuse(file, [f"line {line} {row['']}" for line, row in rows if "" in row])
    if not rows:
        raise MmlopError(f"{file} has no rows: it needs one per picture, with its path and label.")
    _refuse(file, list(_wrong_parts(rows)))
    listed = Listed()
    for line, row in rows:
        path, label = _path(row["path"], file.parent), row["label"]
        if not path or not label:
            listed.offenders.append((path or file.name, f"no {'label' if path else 'path'}, line {line}"))
        else:
            listed.entries.append(Entry(path, label, PART_OF.get(_part(row).lower()), line))
    _drop_repeats(listed, file.parent)
    listed.classes = sorted({row["label"] for _, row in rows if row["label"]})
    return listed


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise MmlopError(f"The table {file} does not exist: correct its path.") from None
    except OSError as error:
        raise MmlopError(f"The table {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MmlopError(f"{file} is not UTF-8 text, as line {line} shows: save it as UTF-8.") from error


def _csv_rows(text: str, file: Path) -> Iterator[Row]:
    header = text.partition("\n")[0]
    delimiter = next((one for one in ",;\t" if one in header), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    names: list[str] = []
    try:
        for values in reader:
            if not names:
                names = [value.strip().lower() for value in values]
                if problem := _wrong_keys(names):
                    raise MmlopError(
                        f"{file} {problem} in its first line, which should be `path,label` or `path,label,split`."
                    )
            elif len(values) == len(names):
                yield reader.line_num, dict(zip(names, map(str.strip, values), strict=True))
            elif values:  # no blank line
                yield reader.line_num, {"": f"has {len(values)} fields instead of {len(names)}"}
    except csv.Error as error:
        yield reader.line_num, {"": f"is not CSV ({error})"}


def _json_rows(text: str) -> Iterator[Row]:
    for line, content in enumerate(text.split("\n"), start=1):  # splitlines() would also split inside of strings
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            yield line, {"": f"is not JSON ({str(error).partition(':')[0]})"}
            continue
        if not isinstance(row, dict):
            yield line, {"": "is no JSON object"}
            continue
        row = {key: value for key, value in row.items() if value is not None or key not in PART_KEYS}
        odd = [key for key, value in row.items() if isinstance(value, bool) or not isinstance(value, str | int)]
        if problem := _wrong_keys(list(row)):
            yield line, {"": problem}
        elif odd:
            yield line, {"": f"has a '{odd[0]}' that is no text"}
        else:
            yield line, {key: str(value).strip() for key, value in row.items()}


def _wrong_keys(names: list[str]) -> str | None:
    missing = [key for key in ("path", "label") if key not in names]
    unknown = [name for name in names if name not in KEYS]
    if missing:
        return f"has no '{missing[0]}'"
    if unknown:
        return f"has '{unknown[0]}', which is none of {listing(KEYS, unknown[0])}"
    if len(set(names)) < len(names) or set(PART_KEYS) <= set(names):
        return "has something twice"
    return None


def _part(row: dict[str, str]) -> str:
    return row.get("split") or row.get("part") or ""


def _wrong_parts(rows: list[Row]) -> Iterator[str]:
    given = next((line for line, row in rows if _part(row)), None)
    for line, row in rows:
        part = _part(row)
        if part and part.lower() not in PART_OF:
            yield f"line {line} has the part '{part}', which is none of {listing(PART_OF, part.lower())}"
        elif given and not part:
            yield f"line {line} has no part although line {given} has one (every row has one, or none has)"


def _refuse(file: Path, problems: list[str]) -> None:
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise MmlopError(f"{file}: {'; '.join(problems[:SHOWN] + more)}: correct the table.")


def _path(text: str, base: Path) -> str:
    """As in a manifest: from the table's folder, with forward slashes; absolute where it is outside."""
    if not text:
        return ""
    path = PurePath(text)
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def _drop_repeats(listed: Listed, base: Path) -> None:
    """A picture named again is left out after the first time; from the first on, where the rows do not agree about it."""
    rows_of: dict[str, list[Entry]] = defaultdict(list)
    for entry in listed.entries:
        rows_of[os.path.abspath(base / entry.path)].append(entry)
    dropped = set()
    for first, *others in rows_of.values():
        if any((entry.label, entry.part) != (first.label, first.part) for entry in others):
            dropped.add(first.line)
            lines = ", ".join(str(entry.line) for entry in (first, *others))
            listed.offenders.append((first.path, f"lines {lines} do not agree on its label or part"))
        else:
            listed.offenders += [(entry.path, f"line {entry.line} repeats line {first.line}") for entry in others]
        dropped.update(entry.line for entry in others)
    listed.entries = [entry for entry in listed.entries if entry.line not in dropped]
