"""Few-shot draws and base and novel halves, against CoOp's own rules written out."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlop.data.manifest import Manifest, Picture
from mmlop.data.splits import Split, draw, make
from mmlop.errors import MmlopError


def manifest(train: list[int], val: list[int] | None = None, classes: int | None = None) -> Manifest:
    """Pictures in the order of the given labels."""
    pictures = [Picture(f"train/{i}.jpg", label, "train", f"{i:016x}") for i, label in enumerate(train)]
    pictures += [Picture(f"val/{i}.jpg", label, "val", f"{i:016x}") for i, label in enumerate(val or [])]
    pictures.append(Picture("test/0.jpg", 0, "test", "0" * 16))
    count = classes if classes is not None else max(train) + 1
    return Manifest("zoo", tuple(f"class {i}" for i in range(count)), "a {}.", "CC0", "none", tuple(pictures))


def coop(train: list[tuple[str, int]], val: list[tuple[str, int]], shots: int, seed: int) -> tuple[list[str], list[str]]:
    """Dassl's generate_fewshot_dataset after random.seed, as CoOp's data sets call it."""
    generator, parts = random.Random(seed), []
    for items, count in ((train, shots), (val, min(shots, 4))):
        tracker = defaultdict(list)
        for item in items:
            tracker[item[1]].append(item)
        chosen = []
        for _, group in tracker.items():
            chosen += generator.sample(group, count) if len(group) >= count else group
        parts.append([path for path, _ in chosen])
    return parts[0], parts[1]


labels = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(labels, st.lists(st.integers(0, 4), max_size=30), st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 1000))
def test_a_draw_is_coops(train: list[int], val: list[int], shots: int, seed: int) -> None:
    zoo = manifest(train, val, classes=5)
    by_part = {part: [(p.path, p.label) for p in zoo.pictures if p.part == part] for part in ("train", "val")}
    found = draw(zoo, shots, seed)
    assert (list(found.train), list(found.val)) == coop(by_part["train"], by_part["val"], shots, seed)


def test_a_draw_never_changes() -> None:
    """Fixed here, so that neither Python nor an edit can change what a seed means."""
    zoo = manifest([i % 7 for i in range(200)][::-1], [i % 7 for i in range(60)])
    digest = hashlib.sha256()
    for seed in (1, 2, 3):
        for shots in (1, 2, 4, 8, 16):
            found = draw(zoo, shots, seed)
            digest.update("\n".join(found.train + found.val).encode())
    assert digest.hexdigest()[:16] == "b4f9da739c4b361f"


@settings(max_examples=40, deadline=None)
@given(labels, st.integers(1, 6), st.integers(0, 100))
def test_every_class_gives_its_shots_once(train: list[int], shots: int, seed: int) -> None:
    zoo = manifest(train, train, classes=5)
    found = draw(zoo, shots, seed)
    label_of = {picture.path: picture.label for picture in zoo.pictures}
    for label in set(train):
        of_class = [path for path in found.train if label_of[path] == label]
        assert len(of_class) == len(set(of_class)) == min(shots, train.count(label))
        assert len([path for path in found.val if label_of[path] == label]) == min(shots, 4, train.count(label))
    assert not set(found.train) & set(found.val)
    assert all(path.startswith("train/") for path in found.train)


def test_seeds_and_shots_differ_and_do_not_disturb_each_other() -> None:
    zoo = manifest([i % 3 for i in range(90)])
    split = make(zoo, [4], [1, 2, 3])
    assert len({draw.train for draw in split.draws[4].values()}) == 3
    assert make(zoo, [4], [3]).draws[4][3] == split.draws[4][3]
    several = make(zoo, [16, 1, 4], [2, 3])
    assert list(several.draws) == [1, 4, 16]
    assert several.draws[4][3] == split.draws[4][3]
    assert not set(several.draws[1][2].train) <= set(several.draws[4][2].train)  # drawn anew, as in CoOp


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 37, 101])
def test_base_is_the_first_half_rounded_up(classes: int) -> None:
    split = make(manifest(list(range(classes))), [1], [1])
    assert len(split.base) == (classes + 1) // 2
    assert split.base + split.novel == tuple(range(classes))


def test_all_classes_are_drawn_whatever_is_base() -> None:
    zoo = manifest([i % 5 for i in range(50)])
    label_of = {picture.path: picture.label for picture in zoo.pictures}
    assert {label_of[path] for path in make(zoo, [2], [1]).draws[2][1].train} == set(range(5))


def test_too_few_pictures_are_all_taken_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    zoo = manifest([0] * 20 + [1] * 3 + [2] * 5)
    with caplog.at_level(logging.WARNING):
        split = make(zoo, [16], [1, 2, 3])
    assert len(caplog.records) == 1
    assert "zoo: fewer than 16 training pictures for class 1 (3), class 2 (5): all are taken" in caplog.text
    assert all(len(draw.train) == 16 + 3 + 5 for draw in split.draws[16].values())


def test_no_warning_where_there_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        make(manifest([0] * 16 + [1] * 16), [16], [1])
    assert not caplog.records


def test_a_class_without_pictures_is_an_error() -> None:
    with pytest.raises(MmlopError, match="zoo: class 1 without a training picture"):
        make(manifest([0, 2, 2]), [1], [1])


def test_a_round_trip_keeps_everything(tmp_path: Path) -> None:
    split = make(manifest([i % 3 for i in range(30)], [0, 1, 2]), [4], [3, 1, 2])
    split.save(tmp_path / "split.json")
    loaded = Split.load(tmp_path / "split.json")
    assert loaded == split
    assert loaded.hash == split.hash
    assert loaded.manifest == manifest([i % 3 for i in range(30)], [0, 1, 2]).hash


def test_the_hash_changes_with_data_shots_and_seeds() -> None:
    zoo = manifest([i % 3 for i in range(30)])
    hashes = [make(zoo, [4], [1]).hash, make(zoo, [2], [1]).hash, make(zoo, [4], [2]).hash, make(zoo, [4], [1, 2]).hash]
    hashes.append(make(manifest([i % 3 for i in range(30)], [0]), [4], [1]).hash)
    assert len(set(hashes)) == 5
    assert make(zoo, [4], [1]).hash == hashes[0]


def test_an_edited_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    with pytest.raises(MmlopError, match=r"split\.json does not exist: make the splits first"):
        Split.load(file)
    make(manifest([0, 1, 0, 1]), [1], [1]).save(file)
    file.write_text(file.read_text().replace('"1": {', '"2": {'))
    with pytest.raises(MmlopError, match=r"split\.json was changed after it was written: make the splits again"):
        Split.load(file)
    for content in (
        "",
        "[]",
        "{}",
        "3",
        '{"hash": "x", "draws": {"one": {"1": [[], []]}}}',
        '{"hash": "x", "draws": {"1": {"1": [[]]}}}',
        '{"hash": "x", "draws": {"1": [[], []]}}',
    ):
        file.write_text(content)
        with pytest.raises(MmlopError, match=r"split\.json is not a split"):
            Split.load(file)
