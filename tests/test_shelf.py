"""The shelf of loaded classifiers: each loaded once, however many ask at once, and the one not asked for longest goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from make_adapter import make_adapter
from make_run import save_backbone

from mmlop import backbone as backbones
from mmlop.adapter import identity
from mmlop.classifier import Classifier
from mmlop.errors import MmlopError
from mmlop.serving.catalogue import Found
from mmlop.serving.shelf import Shelf

ADAPTERS = 6
PICTURES = torch.tensor(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """Adapters of two backbones, in turns."""
    root = tmp_path_factory.mktemp("shelf")
    clips = [backbones.load(str(save_backbone(root / f"clip-{seed}", seed))) for seed in (0, 1)]
    for place in range(ADAPTERS):
        make_adapter(clips[place % 2], seed=place).save(root / str(place))
    folders = [root / str(place) for place in range(ADAPTERS)]
    return [Found(folder.name, folder, identity(folder), None, str(folder)) for folder in folders]


def at_once(calls: list[Callable[[], Classifier]]) -> list[Classifier]:
    """The results of calls that start together, a thread each."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Classifier]) -> Classifier:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def header(one: Found) -> int:
    """Bytes of a safetensors file before its numbers."""
    with (one.folder / "adapter.safetensors").open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def test_what_is_taken_is_the_adapter(found: list[Found]) -> None:
    shelf = Shelf(ADAPTERS)
    for one in found:
        taken = shelf.take(one)
        assert torch.equal(taken.probabilities(PICTURES), Classifier.load(one.folder).probabilities(PICTURES))
        assert shelf.take(one) is taken
    stats = shelf.stats()
    assert (stats.hits, stats.loads, stats.evictions, stats.held) == (6, 6, 0, 6)
    assert stats.bytes == sum((one.folder / "adapter.safetensors").stat().st_size for one in found) - 6 * header(found[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, ADAPTERS), st.lists(st.integers(0, ADAPTERS - 1), max_size=25))
def test_the_one_not_asked_for_longest_goes(found: list[Found], size: int, taken: list[int]) -> None:
    shelf, kept, hits = Shelf(size), list[int](), 0  # the latest last
    for which in taken:
        shelf.take(found[which])
        hits += which in kept
        kept = ([one for one in kept if one != which] + [which])[-size:]
    stats = shelf.stats()
    assert (stats.hits, stats.loads, stats.held) == (hits, len(taken) - hits, len(kept))
    assert stats.evictions == stats.loads - stats.held
    for which in kept:
        shelf.take(found[which])
    assert shelf.stats().hits == hits + len(kept)


def test_many_threads_load_each_adapter_once(found: list[Found]) -> None:
    shelf = Shelf(ADAPTERS)
    taken = at_once([lambda one=one: shelf.take(one) for one in found * 5])  # type: ignore[misc]
    assert taken == taken[:ADAPTERS] * 5
    assert shelf.stats().loads == ADAPTERS


def test_a_backbone_is_loaded_once_for_all_threads(tmp_path: Path) -> None:
    home = save_backbone(tmp_path / "clip")
    loaded = backbones.load(str(home))
    for place in range(ADAPTERS):
        make_adapter(loaded, seed=place).save(tmp_path / str(place))
    folders = [tmp_path / str(place) for place in range(ADAPTERS)]
    shelf = Shelf(ADAPTERS)
    found = [Found(folder.name, folder, identity(folder), None, str(folder)) for folder in folders]
    taken = at_once([lambda one=one: shelf.take(one) for one in found])  # type: ignore[misc]
    assert len({id(one.backbone) for one in taken}) == 1


def test_three_backbones_in_turns_are_still_shared(tmp_path: Path) -> None:
    shelf = Shelf(ADAPTERS)
    clips = [backbones.load(str(save_backbone(tmp_path / f"clip-{seed}", seed))) for seed in range(3)]
    taken = []
    for place in range(ADAPTERS):
        folder = tmp_path / str(place)
        make_adapter(clips[place % 3], seed=place).save(folder)
        taken.append(shelf.take(Found(folder.name, folder, identity(folder), None, str(folder))))
    assert [taken[place].backbone is taken[place - 3].backbone for place in range(3, ADAPTERS)] == [True] * 3


def test_class_features_are_there_when_it_is_taken(found: list[Found]) -> None:
    """No text is encoded by a prediction for the adapter's own classes."""
    classifier = Shelf(1).take(found[0])
    texts = []
    hook = classifier.backbone.text.token_embedding.register_forward_hook(lambda *_: texts.append(1))
    try:
        classifier.probabilities(PICTURES)
        assert texts == []
        classifier.probabilities(PICTURES, ("rain", "cat"))
        assert texts
    finally:
        hook.remove()


def test_what_cannot_be_loaded_is_tried_again(found: list[Found], tmp_path: Path) -> None:
    shelf, folder = Shelf(2), tmp_path / "adapter"
    late = replace(found[0], folder=folder)
    for _ in range(2):
        with pytest.raises(MmlopError, match=r"is no adapter: it has no adapter\.json"):
            shelf.take(late)
    failures = []

    def fail() -> Classifier:
        with pytest.raises(MmlopError, match="is no adapter") as caught:
            shelf.take(late)
        failures.append(caught.value)
        return Classifier.load(found[0].folder)

    at_once([fail] * 8)
    assert len(failures) == 8
    folder.symlink_to(found[0].folder)
    assert shelf.take(late).classes == ("cat", "dog", "sea_horse")
    assert (shelf.stats().loads, shelf.stats().held) == (1, 1)


def test_an_adapter_that_was_changed_is_not_taken_for_the_one_that_was_found(found: list[Found]) -> None:
    shelf = Shelf(2)
    with pytest.raises(MmlopError, match="were changed while they were read: ask again"):
        shelf.take(replace(found[0], folder=found[2].folder))
    assert shelf.stats().held == 0


def test_one_that_takes_long_to_load_holds_up_no_other(found: list[Found], tmp_path: Path) -> None:
    many = tuple(f"a class of things with the number {number}" for number in range(1500))
    clip = Classifier.load(found[0].folder).backbone
    make_adapter(clip, classes=many).save(tmp_path / "slow")
    shelf, slow = Shelf(2), replace(found[0], folder=tmp_path / "slow", identity=identity(tmp_path / "slow"))
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(shelf.take, slow)
        time.sleep(0.1)
        assert shelf.take(found[1]).classes == ("cat", "dog", "sea_horse")
        assert not loading.done()
        assert loading.result().classes == many
