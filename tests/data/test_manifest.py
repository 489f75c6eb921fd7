"""A manifest: kept whole, recognised when changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmlop.data.manifest import Manifest, Picture, content_of
from mmlop.errors import MmlopError

MANIFEST = Manifest(
    "zoo",
    ("zèbre", "ape"),
    "a photo of a {}.",
    "CC0",
    "drawn by hand",
    (
        Picture("ape/1.png", 1, "train", "a" * 16),
        Picture("zebra/1.png", 0, "train", "b" * 16),
        Picture("zebra/2.png", 0, "val", "c" * 16),
        Picture("ape/2.png", 1, "test", "d" * 16),
    ),
    "content",
    (("ape/3.png", "it is empty"),),
)


def test_a_round_trip_keeps_everything_in_order(tmp_path: Path) -> None:
    MANIFEST.save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json") == MANIFEST
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    stored = json.loads(text)
    assert stored["pictures"] == [[p.path, p.label, p.part, p.content] for p in MANIFEST.pictures]
    assert '\n    ["zebra/2.png", 0, "val", "cccccccccccccccc"],\n' in text  # a line each, so that a diff is readable
    assert "zèbre" in text
    empty = replace(MANIFEST, pictures=())
    empty.save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json") == empty


def test_parts_and_labels_are_selected_in_order() -> None:
    assert [p.path for p in MANIFEST.of("train")] == ["ape/1.png", "zebra/1.png"]
    assert [p.path for p in MANIFEST.of("train", [0])] == ["zebra/1.png"]
    assert MANIFEST.of("test", []) == []


@pytest.mark.parametrize(
    "change",
    [
        {"name": "zoo2"},
        {"classes": ("zebra", "ape")},
        {"template": "a drawing of a {}."},
        {"licence": "CC-BY"},
        {"source": "elsewhere"},
        {"split": "own"},
        {"skipped": ()},
        {"pictures": MANIFEST.pictures[::-1]},
        {"pictures": MANIFEST.pictures[:-1]},
        {"pictures": (replace(MANIFEST.pictures[0], content="e" * 16), *MANIFEST.pictures[1:])},
        {"pictures": (replace(MANIFEST.pictures[0], label=0), *MANIFEST.pictures[1:])},
        {"pictures": (replace(MANIFEST.pictures[0], part="test"), *MANIFEST.pictures[1:])},
    ],
    ids=str,
)
def test_the_hash_changes_with_everything(change: dict[str, Any]) -> None:
    assert replace(MANIFEST, **change).hash != MANIFEST.hash


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    MANIFEST.save(file)
    file.write_text(file.read_text(encoding="utf-8").replace("ape/1.png", "ape/9.png"), encoding="utf-8")
    with pytest.raises(MmlopError, match=r"manifest\.json was changed after it was written: fetch the data set again"):
        Manifest.load(file)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "{}", '{"hash": "x", "pictures": []}', '{"hash": "x", "pictures": [["a"]], "classes": []}'],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(MmlopError, match=r"manifest\.json is not a manifest"):
        Manifest.load(tmp_path / "manifest.json")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MmlopError, match=r"manifest\.json is not a manifest"):
        Manifest.load(tmp_path / "manifest.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MmlopError, match=r"manifest\.json does not exist: fetch the data set first"):
        Manifest.load(tmp_path / "manifest.json")


def test_content_is_the_beginning_of_the_sha_256() -> None:
    assert content_of(b"abc") == hashlib.sha256(b"abc").hexdigest()[:16] == "ba7816bf8f01cfea"
