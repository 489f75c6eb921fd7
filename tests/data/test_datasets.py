"""Fetching a data set into its folder: what was there before, and what is new."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from mmlop.data import datasets
from mmlop.data.datasets import DataSet
from mmlop.data.manifest import Contents, Manifest, Picture
from mmlop.errors import MmlopError


def eurosat(content: str = "0" * 16) -> DataSet:
    """One of the public ones, of one picture."""
    picture = Picture("River/River_1.jpg", 0, "train", content)
    return DataSet("eurosat", "land", "MIT", "{}", 1, lambda _: Contents(("River",), (picture,), "published"))


def test_pictures_that_changed_are_accepted_once_the_manifest_is_removed(tmp_path: Path) -> None:
    first = datasets.fetch(eurosat(), tmp_path / "eurosat")
    assert datasets.fetch(eurosat(), tmp_path / "eurosat") == first
    with pytest.raises(MmlopError) as caught:
        datasets.fetch(eurosat("1" * 16), tmp_path / "eurosat")
    assert str(caught.value) == (
        f"eurosat: 1 pictures are not those fetched before, River/River_1.jpg for one: remove {tmp_path / 'eurosat'} to "
        f"accept them, or the pictures to download them again, then run `mmlop data fetch eurosat`."
    )
    file = tmp_path / "eurosat/manifest.json"
    assert Manifest.load(file) == first
    file.unlink()
    assert datasets.fetch(eurosat("1" * 16), tmp_path / "eurosat") == Manifest.load(file) != first


DAMAGE = ["cut short", "empty", "changed by hand", "of an older format", "of another shape"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_manifest_of_no_use_is_as_good_as_none(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """Or nobody could ever fetch the data set again."""
    file = tmp_path / "eurosat/manifest.json"
    good = datasets.fetch(eurosat(), file.parent)
    text = file.read_text()
    fields = json.loads(text)
    older = {key: value for key, value in fields.items() if key != "skipped"} | {"pictures": [["River/River_1.jpg", 0]]}
    bad = [text[:100], "", text.replace("MIT", "none"), json.dumps(older), "[]"][DAMAGE.index(damage)]
    file.write_text(bad)
    with caplog.at_level(logging.WARNING):
        assert datasets.fetch(eurosat("1" * 16), file.parent) == Manifest.load(file) != good
    (record,) = caplog.records
    assert record.getMessage().startswith("eurosat is not compared with an earlier fetch, whose manifest is of no use (")
    assert str(file) in record.getMessage()
