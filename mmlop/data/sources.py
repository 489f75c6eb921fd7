"""Entries added to params.yaml: every line that is not concerned stays as it is, comments and layout too.

A YAML library that loads and dumps would move comments and rewrite values (`null` becomes nothing, for one). So the file is
only read by one: its nodes say at which character something belongs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mmlop import config
from mmlop.config import Params, Source
from mmlop.errors import MmlopError
from mmlop.files import replacing

Keys = tuple[str, ...]  # leads to a node: ("sources", "parts")


def described(name: str, path: Path, template: str | None, licence: str | None, skip_bad: bool, params: Params) -> Source:
    """The source that `mmlop data add` is asked for. Raises MmlopError where it cannot be added to ``params``."""
    from mmlop.data import datasets

    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise MmlopError(
            f"'{name}' cannot be a data set's name: small letters, digits, - and _ only, a letter or digit first."
        )
    if name in datasets.names(params) or name in params.datasets + params.test_sets:
        whose = "under sources in params.yaml" if name in params.sources else "built in or listed"
        raise MmlopError(f"There is a data set '{name}' already, {whose}: choose another name.")
    key = "table" if path.suffix.lower() in (".csv", ".jsonl") and not os.path.isdir(path) else "folder"
    if key == "folder" and os.path.isfile(path):
        raise MmlopError(
            f"{path} is neither a folder nor a table: give a folder of class folders, or a .csv or .jsonl file."
        )
    given = {"template": template, "licence": licence, "skip_bad": skip_bad or None}
    values = {key: _stored(path)} | {field: value for field, value in given.items() if value is not None}
    try:
        return Source.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        raise MmlopError(f"The {problem['loc'][0]} '{problem['input']}' will not do: {message}.") from error


def add(file: Path, name: str, source: Source) -> None:
    """Add the source, and list it under `datasets`, in params.yaml at ``file``."""
    entry = source.model_dump(mode="json", exclude_unset=True)
    entry = {key: entry.pop(key) for key in ("folder", "table") if key in entry} | {"template": source.template} | entry
    _edit(file, lambda text: _append(_put(text, ("sources",), name, entry), ("datasets",), name))


def allow_own_split(file: Path, name: str) -> None:
    """Add the public data set to `data.own_split` in params.yaml at ``file``."""
    _edit(file, lambda text: _append(text, ("data", "own_split"), name))


def skip_bad(file: Path, name: str) -> None:
    """Have unusable pictures of a source left out, in params.yaml at ``file``."""
    _edit(file, lambda text: _put(text, ("sources", name), "skip_bad", True))


def _stored(path: Path) -> Path:
    """Relative to the project where it is inside of it, so that the project can be moved; else absolute."""
    absolute, root = Path(os.path.abspath(os.path.expanduser(path))), config.root()
    return absolute.relative_to(root) if absolute.is_relative_to(root) else absolute


def _edit(file: Path, change: Callable[[str], str]) -> None:
    """Replace the file by its changed text, once that is valid."""
    data = file.read_bytes()
    ends = "\r\n" if b"\r\n" in data else "\n"
    text = change(data.decode("utf-8").replace("\r\n", "\n"))
    with replacing(file) as beside:
        beside.write_bytes(text.replace("\n", ends).encode("utf-8"))
        try:
            config.load(beside)
        except MmlopError as error:
            raise MmlopError(f"{file} is laid out in a way that cannot be edited for you: edit it by hand.") from error


def _find(text: str, keys: Keys) -> tuple[yaml.Node | None, bool]:
    """The node, and whether it is written inside of braces or brackets."""
    node, inside = yaml.compose(text, yaml.SafeLoader), False
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            return None, inside
        inside = inside or bool(node.flow_style)
        node = next((value for name, value in node.value if name.value == key), None)
    return node, inside


def _put(text: str, keys: Keys, key: str, value: Any) -> str:
    """Set a key of the mapping that ``keys`` lead to, which is made if need be."""
    node, inside = _find(text, keys)
    if not isinstance(node, yaml.MappingNode):
        return _put(text, keys[:-1], keys[-1], {key: value})
    for name, old in node.value:
        if name.value == key:
            return text[: old.start_mark.index] + _inline(value) + text[old.end_mark.index :]
    if node.flow_style and (node.value or inside):
        return _insert_inline(text, node, f"{key}: {_inline(value)}")
    column = 2 * len(keys) if node.flow_style else node.value[0][0].start_mark.column
    text = _insert_lines(text, _last(node), _block({key: value}, column))
    return _blank(text, node) if node.flow_style else text  # was {}


def _append(text: str, keys: Keys, value: str) -> str:
    """Add to the list that ``keys`` lead to, which is made if need be."""
    node, _ = _find(text, keys)
    if not isinstance(node, yaml.SequenceNode):
        return _put(text, keys[:-1], keys[-1], [value])
    if value in [item.value for item in node.value]:
        return text
    if node.flow_style:
        return _insert_inline(text, node, _inline(value))
    return _insert_lines(text, _last(node), _block([value], node.start_mark.column))


def _inline(value: Any) -> str:
    return _dump(value, True).removesuffix("...\n").strip()


def _block(value: Any, column: int) -> str:
    return "".join(" " * column + line + "\n" for line in _dump(value, False).split("\n")[:-1])


def _dump(value: Any, flow: bool) -> str:
    """Letters as they are, unless something unprintable (a line separator, say) would be among them."""
    plain: str = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True, sort_keys=False, width=10**6)
    if plain.replace("\n", "").isprintable():
        return plain
    escaped: str = yaml.safe_dump(value, default_flow_style=flow, sort_keys=False, width=10**6)
    return escaped


def _last(node: yaml.Node) -> yaml.Node:
    """What ends a node: the end of a block also takes in the comments behind it."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node


def _insert_inline(text: str, node: yaml.CollectionNode, item: str) -> str:
    """Behind the last item inside of braces or brackets."""
    if node.value:
        last = node.value[-1]
        at = (last[1] if isinstance(last, tuple) else last).end_mark.index
        return f"{text[:at]}, {item}{text[at:]}"
    return text[: node.start_mark.index + 1] + item + text[node.end_mark.index - 1 :]


def _insert_lines(text: str, last: yaml.Node, lines: str) -> str:
    """Behind the line that ``last`` ends in."""
    at = last.end_mark.index
    if text[at - 1] != "\n":  # which it is behind a text of several lines
        at = text.find("\n", at) + 1
    return text[:at] + lines + text[at:] if at else f"{text}\n{lines}"


def _blank(text: str, node: yaml.Node) -> str:
    """Take an empty collection out, and leave a comment behind it in its column."""
    start, end = node.start_mark.index, node.end_mark.index
    if text[end:].partition("\n")[0].strip():
        return text[:start] + " " * (end - start) + text[end:]
    return text[:start].rstrip(" ") + text[end:]
