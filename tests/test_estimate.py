"""Too few pictures for a test part: all are trained on, and accuracy is estimated by k-fold, done once more by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_clip
from PIL import Image

from mmlop import config, protocols, report, results, tables
from mmlop.backbone import Backbone, wrap
from mmlop.classifier import Classifier
from mmlop.data import splits
from mmlop.data.manifest import Fetched, Manifest, Picture, content_of
from mmlop.data.pictures import prepare_all
from mmlop.data.splits import FOLDS
from mmlop.experiment import Bench, Trained
from mmlop.features import frozen_text, image_features

NAMES = ("bolt", "nut", "washer")
COUNTS = (7, 2, 1)
SEEDS = (1, 2)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random")


@pytest.fixture(scope="module")
def bench(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder, generator, rows = tmp_path_factory.mktemp("parts"), np.random.default_rng(0), []
    for label, count in enumerate(COUNTS):
        for number in range(count):
            file = folder / f"{label}-{number}.png"
            Image.fromarray(generator.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(file)
            rows.append(Picture(file.name, label, "train", content_of(file.read_bytes())))
    manifest = Manifest("parts", NAMES, "a photo of a {}.", "own", "a folder", tuple(rows), "k-fold")
    profile = {
        "architecture": "tiny",
        "prompts": {"tokens": 2, "depth": 2},
        "train": {"epochs": 2, "learning_rate": 0.05},
    }
    values = {
        "datasets": ["parts"],
        "backbone": "tiny",
        "fewshot": {"shots": 16, "seeds": SEEDS},
        "protocols": {"few_shot": {"shots": [1]}},
        "profiles": {"tiny": profile},
    }
    params = config.Params.model_validate(values)
    return Bench(params, backbone, Fetched(manifest, folder), splits.make(manifest, [1, 16], SEEDS))


@pytest.fixture(scope="module")
def trained(bench: Bench) -> dict[int, list[Trained]]:
    wanted = protocols.trainings(bench.params, bench.has_parts)
    return {seed: [bench.run(one, [seed])[seed] for one in wanted] for seed in SEEDS}


def test_the_deliverable_is_trained_on_every_picture(bench: Bench, trained: dict[int, list[Trained]]) -> None:
    for (delivered,) in trained.values():
        assert sorted(delivered.trained_on) == sorted(picture.content for picture in bench.manifest.pictures)


def test_every_picture_is_judged_by_an_adapter_that_never_saw_it(
    bench: Bench, backbone: Backbone, trained: dict[int, list[Trained]]
) -> None:
    delivered = trained[1][-1]
    right, judged = 0, set()
    for fold in range(FOLDS):
        held_out = [
            picture
            for label, count in enumerate(COUNTS)
            if count > 1
            for index, picture in enumerate(sorted(bench.manifest.of("train", [label]), key=lambda p: p.content))
            if index % FOLDS == fold
        ]
        paths = frozenset(picture.path for picture in held_out)
        other = bench.train(delivered.training, [1], range(3), without=paths)[1]
        assert not {picture.content for picture in held_out} & set(other.trained_on)
        assert len(other.trained_on) + len(held_out) == sum(COUNTS)
        for picture in held_out:
            (prediction,) = Classifier(other.adapter, backbone).predict(bench.data.file(picture))
            right += prediction.label == NAMES[picture.label]
        judged |= paths
    assert len(judged) == 9  # the only washer is always trained on
    assert delivered.metrics == {"accuracy_estimate": pytest.approx(100 * right / 9, abs=1e-4)}
    assert delivered.adapter.info.metrics == delivered.metrics


def test_zero_shot_is_measured_on_the_same_pictures(bench: Bench, backbone: Backbone) -> None:
    judged = [picture for picture in bench.manifest.pictures if COUNTS[picture.label] > 1]
    assert len(judged) == 9
    text = frozen_text(backbone, NAMES, ["a photo of a {}."])
    right = 0
    for picture in judged:
        image = image_features(backbone, prepare_all(bench.data, [picture], 32))
        right += int((image @ text.T).argmax()) == picture.label
    assert bench.zero_shot()["accuracy"] == pytest.approx(100 * right / 9, abs=1e-4)


def test_the_number_is_marked_as_an_estimate_everywhere(
    bench: Bench, trained: dict[int, list[Trained]], tmp_path: Path
) -> None:
    run = results.write(tmp_path, bench, trained)
    assert run["deliverable"]["metrics"].keys() == {"accuracy_estimate"}
    assert run["deliverable"]["confusion"] == []
    assert run["zero_shot"].keys() == {"accuracy", "ece"}
    assert run["data"]["split"] == "k-fold"
    assert "estimated by k-fold" in results.sentence(run)
    rows = report.read(tmp_path / "results" / "parts.jsonl")
    assert {row["metric"] for row in rows if row["method"] == "mmlop"} == {"accuracy_estimate"}
    assert {row["split"] for row in rows} == {"k-fold"}
    markdown = tables.to_markdown(report.summarise(rows))
    assert f"| parts | {run['zero_shot']['accuracy']:.1f} | ≈ {run['summary']['accuracy_estimate']:.1f} ± " in markdown
    assert tables.ESTIMATE in markdown
    assert json.loads((tmp_path / "results" / "parts.json").read_text())["mmlop"]["accuracy_estimate"]


def test_one_picture_per_class_gives_no_estimate(bench: Bench, backbone: Backbone) -> None:
    few = tuple(next(p for p in bench.manifest.pictures if p.label == label) for label in range(3))
    manifest = Manifest("parts", NAMES, "a photo of a {}.", "own", "a folder", few, "k-fold")
    single = Bench(bench.params, backbone, Fetched(manifest, bench.data.folder), splits.make(manifest, [1, 16], SEEDS))
    (delivered,) = (single.run(one, [1])[1] for one in protocols.trainings(single.params, single.has_parts))
    assert delivered.metrics == {}
    assert len(delivered.trained_on) == 3


def test_one_picture_per_class_is_trained_on_and_written_all_the_same(
    bench: Bench, backbone: Backbone, tmp_path: Path
) -> None:
    few = tuple(next(p for p in bench.manifest.pictures if p.label == label) for label in range(3))
    manifest = Manifest("parts", NAMES, "a photo of a {}.", "own", "a folder", few, "k-fold")
    single = Bench(bench.params, backbone, Fetched(manifest, bench.data.folder), splits.make(manifest, [1, 16], SEEDS))
    found = [single.run(one, SEEDS) for one in protocols.trainings(single.params, single.has_parts)]
    run = results.write(tmp_path, single, {seed: [trained[seed] for trained in found] for seed in SEEDS})
    assert run["zero_shot"] == run["summary"] == {}
    assert len(run["deliverable"]["trained_on"]) == 3
    assert results.sentence(run)
    rows = report.read(tmp_path / "results" / "parts.jsonl")
    assert tables.to_markdown(report.summarise(rows))


@pytest.mark.parametrize("method", ["zero_shot", "linear_probe", "tip_adapter", "coop", "clip_lora"])
def test_every_kind_of_method_is_estimated(bench: Bench, backbone: Backbone, method: str) -> None:
    params = config.Params.model_validate(bench.params.model_dump() | {"method": method})
    other = Bench(params, backbone, bench.data, bench.split)
    (delivered,) = (other.run(one, [1])[1] for one in protocols.trainings(params, other.has_parts))
    assert delivered.adapter.info.method == method
    assert set(delivered.metrics) == {"accuracy_estimate"}
    if method == "zero_shot":  # which training on other folds does not change
        assert delivered.metrics["accuracy_estimate"] == other.zero_shot()["accuracy"]
