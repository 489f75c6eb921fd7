"""Your own folder of pictures as a data set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmlop.config import Source
from mmlop.data import datasets
from mmlop.data.folder import part_of
from mmlop.data.manifest import Manifest
from mmlop.errors import MmlopError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("nut", "bolt"):
        for number in range(30):
            file = tmp_path / "photos" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 9, 3), dtype=np.uint8)).save(file)
    return tmp_path / "photos"


def fetch(photos: Path, target: Path) -> Manifest:
    sources = {"parts": Source(folder=photos, template="a photo of a {}, a machine part.")}
    return datasets.fetch(datasets.get("parts", sources), target)


def test_every_picture_is_in_one_part(photos: Path, tmp_path: Path) -> None:
    manifest = fetch(photos, tmp_path / "data")
    assert manifest == Manifest.load(tmp_path / "data/manifest.json")
    assert manifest.classes == ("bolt", "nut")
    assert {p.path for p in manifest.pictures} == {f"{c}/{n}.png" for c in manifest.classes for n in range(30)}
    for picture in manifest.pictures:
        assert (tmp_path / "data" / picture.path).read_bytes() == (photos / picture.path).read_bytes()
        assert picture.part == part_of(picture.content)


def test_a_growing_folder_moves_nothing(photos: Path, tmp_path: Path) -> None:
    before = {p.content: p.part for p in fetch(photos, tmp_path / "data").pictures}
    Image.new("RGB", (8, 8), "red").save(photos / "nut" / "0a.png")
    after = {p.content: p.part for p in fetch(photos, tmp_path / "data").pictures}
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()


def test_shares_are_50_20_30() -> None:
    parts = [part_of(f"{number:016x}") for number in range(0, 16**16, 16**16 // 1000)][:1000]
    assert [parts.count(part) for part in ("train", "val", "test")] == pytest.approx([500, 200, 300], abs=1)


def test_copies_count_once_and_not_in_two_classes(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "nut/3.png", photos / "nut/copy.png")
    assert len(fetch(photos, tmp_path / "data").pictures) == 60
    shutil.copy(photos / "nut/3.png", photos / "bolt/copy.png")
    with pytest.raises(MmlopError, match="same picture in two classes"):
        fetch(photos, tmp_path / "data")
    assert len(Manifest.load(tmp_path / "data/manifest.json").pictures) == 60  # the old one is still whole


def test_missing_folder_and_too_few_classes(tmp_path: Path) -> None:
    with pytest.raises(MmlopError, match="does not exist"):
        fetch(tmp_path / "nowhere", tmp_path / "data")
    (tmp_path / "one" / "nut").mkdir(parents=True)
    with pytest.raises(MmlopError, match="one folder of pictures per class"):
        fetch(tmp_path / "one", tmp_path / "data")


def test_a_name_that_is_taken(photos: Path) -> None:
    with pytest.raises(MmlopError, match="name of a built-in data set"):
        datasets.get("mini_digits", {"mini_digits": Source(folder=photos)})


def test_a_folder_is_relative_to_the_project(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").touch()
    monkeypatch.chdir(photos)
    assert datasets.get("parts", {"parts": Source(folder=Path("photos"))}).classes() == ("bolt", "nut")
