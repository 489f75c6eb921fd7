"""Adapters of one data set tested on another, by hand, and what is written about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_clip
from make_adapter import make_adapter
from PIL import Image

from mmlop import protocols, report, tables, transfer
from mmlop.adapter import Adapter
from mmlop.backbone import Backbone, wrap
from mmlop.classifier import Classifier
from mmlop.data.manifest import Fetched, Manifest, Picture, content_of
from mmlop.errors import MmlopError
from mmlop.experiment import Trained
from mmlop.features import frozen_text, image_features
from mmlop.lora import LoraShape
from mmlop.probe import ProbeShape
from mmlop.prompts import PromptShape
from mmlop.shapes import NoShape, Shape
from mmlop.tip import CacheShape

NAMES = ("red", "green", "blue car")
SOURCE = Manifest("toy", ("cat", "dog"), "a {}.", "CC0", "drawn", (), "published")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    folder, generator, rows = tmp_path_factory.mktemp("cars"), np.random.default_rng(3), []
    for number in range(40):
        file = folder / f"{number:03d}.png"
        Image.fromarray(generator.integers(0, 256, (33, 40, 3), dtype=np.uint8)).save(file)
        part = "test" if number else "train"
        rows.append(Picture(file.name, number % 3, part, content_of(file.read_bytes())))
    return Fetched(Manifest("cars", NAMES, "a photo of a {}.", "CC0", "drawn", tuple(rows), "own"), folder)


@pytest.fixture(scope="module")
def adapters(backbone: Backbone) -> dict[int, Adapter]:
    return {seed: make_adapter(backbone, seed=seed) for seed in (1, 2)}


def test_every_number_by_hand(backbone: Backbone, target: Fetched, adapters: dict[int, Adapter]) -> None:
    zero_shot, found = transfer.measure(adapters, backbone, target)
    tests = target.manifest.of("test")
    for seed, adapter in adapters.items():
        classifier = Classifier(adapter, backbone)
        right = [classifier.predict(target.file(one), NAMES)[0].label == NAMES[one.label] for one in tests]
        assert found[seed]["accuracy"] == pytest.approx(100 * sum(right) / len(right), abs=1e-3)
    text = frozen_text(backbone, NAMES, ["a photo of a {}."])
    images = [image_features(backbone, transfer.prepare_all(target, [one], 32)) for one in tests]
    right = [int((image @ text.T).argmax()) == one.label for image, one in zip(images, tests, strict=True)]
    assert zero_shot["accuracy"] == pytest.approx(100 * sum(right) / len(right), abs=1e-3)


def test_adapters_of_a_source_come_back(adapters: dict[int, Adapter], tmp_path: Path) -> None:
    trained = {seed: Trained(protocols.Training("transfer", 1), one, {}, [], ()) for seed, one in adapters.items()}
    transfer.save(tmp_path / "transfer" / "toy", trained)
    back = transfer.load(tmp_path / "transfer" / "toy")
    assert list(back) == [1, 2]
    assert all(back[seed].info == adapters[seed].info for seed in back)
    with pytest.raises(MmlopError, match=r"holds no adapters: train them first \(`dvc repro source@dogs`\)"):
        transfer.load(tmp_path / "transfer" / "dogs")


def test_the_files_and_the_report(
    backbone: Backbone, target: Fetched, adapters: dict[int, Adapter], tmp_path: Path
) -> None:
    mean = transfer.write(tmp_path, SOURCE, "cross_dataset", adapters, backbone, target)
    file = tmp_path / "results" / "transfer" / "toy" / "cars.jsonl"
    rows = report.read(file)
    assert {(row["source"], row["dataset"], row["protocol"], row["split"]) for row in rows} == {
        ("toy", "cars", "cross_dataset", "own")
    }
    values = [row["value"] for row in rows if row["metric"] == "accuracy" and row["seed"] is not None]
    assert mean["accuracy"] == pytest.approx(sum(values) / 2, abs=1e-3)
    metrics = json.loads(file.with_suffix(".json").read_text())
    assert metrics["mmlop"]["accuracy"] == mean["accuracy"]
    assert metrics["zero_shot"]["accuracy"] == mean["zero_shot"]
    summary = report.summarise(rows)
    assert summary["transfer"]["toy"]["cross_dataset"]["cars"]["mmlop"]["accuracy"] == mean["accuracy"]
    markdown = tables.to_markdown(summary)
    assert "**From toy to other data sets**" in markdown
    assert f"| cars * | {mean['zero_shot']:.1f} | {mean['accuracy']:.1f} ± " in markdown
    assert tables.OWN_SPLIT in markdown


def test_a_source_with_a_split_of_its_own_marks_what_comes_from_it(
    backbone: Backbone, target: Fetched, adapters: dict[int, Adapter], tmp_path: Path
) -> None:
    published = Fetched(replace(target.manifest, split="published"), target.folder)
    for split, expected in (("own", "own"), ("published", "published")):
        transfer.write(tmp_path, replace(SOURCE, split=split), "cross_dataset", adapters, backbone, published)
        rows = report.read(tmp_path / "results" / "transfer" / "toy" / "cars.jsonl")
        assert {row["split"] for row in rows} == {expected}


def test_a_target_without_test_pictures_is_refused(backbone: Backbone, adapters: dict[int, Adapter]) -> None:
    empty = Fetched(Manifest("cars", NAMES, "a {}.", "CC0", "drawn", ()), Path())
    with pytest.raises(MmlopError, match="cars has no test pictures"):
        transfer.measure(adapters, backbone, empty)


def test_a_linear_probe_cannot_be_transferred_to_other_classes(backbone: Backbone, target: Fetched) -> None:
    shape = ProbeShape(3, backbone.embed_dim)
    factors = {name: torch.ones(size) for name, size in shape.factors.items()}
    info = make_adapter(backbone, method="linear_probe").info.model_copy(update={"shape": shape})
    with pytest.raises(MmlopError, match="linear_probe adapter was not trained on 'red', and knows no other classes"):
        transfer.measure({1: Adapter(factors, info)}, backbone, target)
    known = info.model_copy(update={"classes": ("blue car", "red", "green")})
    _, found = transfer.measure({1: Adapter(factors, known)}, backbone, target)
    assert found[1]["accuracy"] == pytest.approx(100 * 13 / 39, abs=1e-3)  # all alike: red, the first, has a third


def test_every_open_method_is_transferred_by_the_names_of_the_target(backbone: Backbone, target: Fetched) -> None:
    shapes: dict[str, Shape] = {
        "coop": PromptShape(1, 4, None, 32, 32, "full", "text"),
        "vpt": PromptShape(2, 4, None, 32, 32, "full", "vision"),
        "clip_lora": LoraShape(2, 2, 2, 32, 32),
        "tip_adapter": CacheShape(6, 3, 16),
        "zero_shot": NoShape(),
    }
    for method, shape in shapes.items():
        generator = torch.Generator().manual_seed(0)
        factors = {name: 0.1 * torch.rand(size, generator=generator) for name, size in shape.factors.items()}
        info = make_adapter(backbone, method=method, drift_correction=False).info.model_copy(update={"shape": shape})
        zero_shot, found = transfer.measure({1: Adapter(factors, info)}, backbone, target)
        if method in ("tip_adapter", "zero_shot"):  # without votes for unknown classes the frozen CLIP alone
            assert found[1] == {name: zero_shot[name] for name in found[1]}
        classifier, tests = Classifier(Adapter(factors, info), backbone), target.manifest.of("test")
        right = [classifier.predict(target.file(one), NAMES)[0].label == NAMES[one.label] for one in tests]
        assert found[1]["accuracy"] == pytest.approx(100 * sum(right) / len(right), abs=1e-3), method
