"""Few-shot draws against those that were made with CoOp's own code from its split files, by their fingerprints.

The split files are not in the project: these tests run where they were downloaded, below MMLOP_DATA. The rule itself is
tested in test_splits.py without any file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mmlop.data import public
from mmlop.data.download import verify
from mmlop.data.manifest import PARTS, Manifest, Picture
from mmlop.data.public import splitfile
from mmlop.data.public.record import Parts
from mmlop.data.splits import draw
from mmlop.errors import MmlopError

FINGERPRINTS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "coop_fingerprints.json").read_text(encoding="utf-8")
)["datasets"]


def fingerprint(paths: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]


def parts(name: str) -> Parts:
    """The published parts, of the split file or of official lists; skips where there are none on this machine."""
    spec = public.SPECS[name]
    where = public.home() / spec.folder
    try:
        if spec.split is None:
            return spec.layout(where)
        verify(spec.split, where / spec.split.name)
        return splitfile.read(where / spec.split.name)
    except MmlopError as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_draws_are_those_of_coop(name: str) -> None:
    found = parts(name)
    pictures = tuple(
        Picture(item.path, item.label, part, f"{at:016x}") for part in PARTS for at, item in enumerate(found[part])
    )
    classes = tuple(f"class {label}" for label in sorted({picture.label for picture in pictures}))
    manifest = Manifest(
        name=name,
        classes=classes,
        template="a {}.",
        licence="none",
        source="a split file",
        split="published",
        pictures=pictures,
    )
    for shots, seed, *expected in FINGERPRINTS[name]["draws"]:
        drawn = draw(manifest, shots, seed)
        known = [
            value
            for part in (drawn.train, drawn.val)
            for value in (len(part), fingerprint(part), fingerprint(sorted(part)))
        ]
        assert known == expected, f"{shots} shots, seed {seed}"


@pytest.mark.parametrize("name", [name for name in FINGERPRINTS if FINGERPRINTS[name]["parts"]])
def test_parts_are_those_of_the_split_file(name: str) -> None:
    found = parts(name)
    known = {part: fingerprint(sorted(item.path for item in found[part])) for part in PARTS}
    assert known == FINGERPRINTS[name]["parts"]


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_there_are_fingerprints_for_all_draws_of_papers(name: str) -> None:
    draws = FINGERPRINTS[name]["draws"]
    assert [tuple(row[:2]) for row in draws] == [(shots, seed) for shots in (1, 2, 4, 8, 16) for seed in (1, 2, 3)]
    spec = public.SPECS[name]
    assert all(row[2] <= spec.classes * row[0] and row[5] <= spec.classes * min(row[0], 4) for row in draws)


@pytest.mark.parametrize("name", [name for name, spec in public.SPECS.items() if spec.split])
def test_a_record_counts_what_is_in_the_split_file(name: str) -> None:
    found, spec = parts(name), public.SPECS[name]
    assert tuple(len(found[part]) for part in PARTS) == spec.counts
    assert {item.label for part in PARTS for item in found[part]} == set(range(spec.classes))
