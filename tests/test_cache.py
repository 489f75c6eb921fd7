"""What is kept on disk: the same as computed anew, never stale, never half, and not necessary."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_clip
from PIL import Image

from mmlop import cache
from mmlop.backbone import Backbone, wrap
from mmlop.data.manifest import Fetched, Manifest, Picture, content_of
from mmlop.data.pictures import prepare, prepare_all
from mmlop.data.reading import read
from mmlop.errors import MmlopError
from mmlop.features import frozen_images, frozen_text, image_features

pytest_plugins = ["small_disk"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMLOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def counting(value: float, calls: list[float]) -> Callable[[np.ndarray], None]:
    def fill(target: np.ndarray) -> None:
        calls.append(value)
        target[:] = value

    return fill


def test_it_is_computed_once_for_each_thing_it_depends_on() -> None:
    calls: list[float] = []
    for about in ({"a": 1}, {"a": 2}, {"a": 1}, {"b": 1}, {"a": 2}):
        cache.tensor("toy", about, (2, 3), "float32", counting(len(calls), calls))
    assert len(calls) == 3
    assert cache.tensor("toy", {"a": 2}, (2, 3), "float32", counting(9, calls)).tolist() == [[1.0] * 3] * 2
    assert cache.tensor("other", {"a": 2}, (2, 3), "float32", counting(9, calls)).tolist() == [[9.0] * 3] * 2
    assert cache.tensor("toy", {"a": 2}, (3, 2), "float32", counting(7, calls)).tolist() == [[7.0] * 2] * 3
    assert cache.tensor("toy", {"a": 2}, (2, 3), "uint8", counting(8, calls)).dtype == torch.uint8


def test_changing_a_tensor_changes_nothing_on_disk() -> None:
    calls: list[float] = []
    cache.tensor("toy", 1, (4,), "float32", counting(5, calls)).zero_()
    assert cache.tensor("toy", 1, (4,), "float32", counting(6, calls)).tolist() == [5.0] * 4


@pytest.mark.parametrize("spoil", [b"", b"garbage", None])
def test_a_spoilt_file_is_made_again(own_folder: Path, spoil: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[float] = []
    cache.tensor("toy", 1, (400,), "float32", counting(5, calls))
    (file,) = own_folder.rglob("*.npy")
    file.write_bytes(file.read_bytes()[:-100] if spoil is None else spoil)
    with caplog.at_level(logging.WARNING):
        assert cache.tensor("toy", 1, (400,), "float32", counting(5, calls)).tolist() == [5.0] * 400
    assert "made again" in caplog.text
    assert len(calls) == 2
    cache.tensor("toy", 1, (400,), "float32", counting(5, calls))
    assert len(calls) == 2


def test_a_failure_leaves_nothing(own_folder: Path) -> None:
    def fill(target: np.ndarray) -> None:
        target[:1] = 1
        raise MmlopError("a picture is broken")

    with pytest.raises(MmlopError, match="a picture is broken"):
        cache.tensor("toy", 1, (4,), "float32", fill)
    assert not [file for file in own_folder.rglob("*") if file.is_file()]


def test_a_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MMLOP_CACHE", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING):
        assert cache.tensor("toy", 1, (4,), "float32", counting(5, [])).tolist() == [5.0] * 4
    assert "not kept for the next time" in caplog.text


def test_a_full_disk_is_done_without(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a process of its own this would be the end of it, by a bus error."""
    monkeypatch.setenv("MMLOP_CACHE", str(small_disk))
    with caplog.at_level(logging.WARNING):
        found = cache.tensor("toy", 1, (2**20,), "float32", counting(5, []))
    assert found.min() == found.max() == 5
    assert "not kept for the next time" in caplog.text
    assert not [file for file in small_disk.rglob("*") if file.is_file()]


def test_a_change_of_the_code_is_a_change_of_the_key(tmp_path: Path) -> None:
    package = tmp_path / "mmlop"
    shutil.copytree(Path(cache.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    ask = [sys.executable, "-c", "from mmlop import cache; print(cache.sources('losses.py', 'data/reading.py'))"]

    def key() -> str:
        return subprocess.run(ask, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    before = key()
    assert before == cache.sources("losses.py", "data/reading.py") == key()
    (package / "encode.py").write_text("")
    assert key() == before
    with (package / "data" / "reading.py").open("a") as file:
        file.write("# another\n")
    assert key() != before


# What is kept of data sets and models


def photograph(folder: Path, count: int = 5) -> Fetched:
    generator, rows = np.random.default_rng(0), []
    folder.mkdir()
    for number in range(count):
        file = folder / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file)
        rows.append(Picture(file.name, number % 2, "test", content_of(file.read_bytes())))
    return Fetched(Manifest("zoo", ("cat", "dog"), "a {}.", "CC0", "drawn", tuple(rows)), folder)


def test_prepared_pictures_come_from_the_disk_as_they_went_there(tmp_path: Path) -> None:
    data = photograph(tmp_path / "zoo")
    pictures = data.manifest.of("test")
    slow = torch.stack([prepare(read(data.file(picture)), 32) for picture in pictures])
    assert torch.equal(prepare_all(data, pictures, 32), slow)
    os.rename(data.folder, tmp_path / "moved")
    elsewhere = Fetched(data.manifest, tmp_path / "nowhere")
    assert torch.equal(prepare_all(elsewhere, pictures, 32), slow)  # not one file is read again
    with pytest.raises(MmlopError, match="not, or no longer, on this machine"):
        prepare_all(elsewhere, pictures, 24)
    with pytest.raises(MmlopError, match="not, or no longer, on this machine"):
        prepare_all(elsewhere, pictures[::-1], 32)


def test_a_picture_that_is_another_is_never_taken_for_it(tmp_path: Path) -> None:
    data = photograph(tmp_path / "zoo")
    pictures = data.manifest.of("test")
    prepare_all(data, pictures, 32)
    data.file(pictures[0]).write_bytes(data.file(pictures[1]).read_bytes())
    changed = [replace(pictures[0], content=pictures[1].content), *pictures[1:]]
    found = prepare_all(data, changed, 32)
    assert torch.equal(found[0], found[1])


def test_frozen_features_are_those_of_this_model_and_no_other(tmp_path: Path) -> None:
    data = photograph(tmp_path / "zoo")
    pictures, contents = prepare_all(data, data.manifest.of("test"), 32), [p.content for p in data.manifest.pictures]

    def models() -> dict[str, Backbone]:
        wide = wrap(tiny_clip(), "tiny", "random")
        wide.model.double()
        others: dict[str, Any] = {"seed 1": tiny_clip(1), "plain": tiny_clip()}
        found = {name: wrap(model, "tiny", "random") for name, model in others.items()}
        return found | {"double": wide, "bf16": wrap(tiny_clip(), "tiny", "random", "bf16")}

    for _ in range(2):  # the second time, all come from the disk
        for name, model in models().items():
            kept = frozen_images(model, pictures, contents)
            assert torch.equal(kept, image_features(model, pictures)), name
            texts = frozen_text(model, ("cat", "sea_horse"), ("a {}.", "the {}."))
            fresh = models()[name]
            os.environ["MMLOP_CACHE"] = str(tmp_path / "empty")  # put back by the fixture
            assert torch.equal(texts, frozen_text(fresh, ("cat", "sea_horse"), ("a {}.", "the {}."))), name
            assert not torch.equal(texts, frozen_text(fresh, ("cat", "sea_horse"), ("a {}.",))), name
            os.environ["MMLOP_CACHE"] = str(tmp_path / "cache")
