"""What a training leaves on disk, from a real one on a few small pictures, checked by measuring again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_clip
from make_adapter import make_adapter
from PIL import Image

from mmlop import config, evaluation, protocols, results
from mmlop.adapter import Adapter, identity
from mmlop.backbone import Backbone, wrap
from mmlop.classifier import Classifier
from mmlop.data import splits
from mmlop.data.manifest import Fetched, Manifest, Picture, content_of
from mmlop.errors import MmlopError
from mmlop.experiment import Bench, Trained, best
from mmlop.features import frozen_text, image_features
from mmlop.protocols import Training
from mmlop.training import Epoch

NAMES = ("red", "green", "blue", "dark", "light")
LEVELS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (20, 20, 20), (230, 230, 230))
SEEDS = (1, 2)
SHOTS = (1, 2, 4)
TRAINING = Training("all_classes", 2)


def fill(folder: Path) -> Manifest:
    """Noisy colours: 4 training, 3 validation and 4 test pictures for each of five classes."""
    generator, rows = np.random.default_rng(0), []
    for label, level in enumerate(LEVELS):
        for part, count in (("train", 4), ("val", 3), ("test", 4)):
            for number in range(count):
                cast, noise = generator.normal(0, 70, 3), generator.normal(0, 40, (36, 40, 3))
                pixels = np.clip(np.array(level) + cast + noise, 0, 255).astype(np.uint8)
                file = folder / f"{part}-{label}-{number}.png"
                Image.fromarray(pixels).save(file)
                rows.append(Picture(file.name, label, part, content_of(file.read_bytes())))
    manifest = Manifest("colours", NAMES, "a photo of a {}.", "CC0", "drawn", tuple(rows))
    manifest.save(folder / "manifest.json")
    return manifest


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random")


@pytest.fixture(scope="module")
def params() -> config.Params:
    profile = {
        "architecture": "tiny",
        "templates": "promptsrc",
        "prompts": {"tokens": 2, "depth": 2},
        "train": {"epochs": 2, "learning_rate": 0.05},
    }
    fewshot, loss = {"shots": 2, "seeds": SEEDS}, {"text": 0, "image": 0}  # free to move far in two epochs
    values = {"datasets": ["colours"], "backbone": "tiny", "fewshot": fewshot, "loss": loss, "profiles": {"tiny": profile}}
    values["protocols"] = {"few_shot": {"shots": [1, 4], "epochs": 3}}
    return config.Params.model_validate(values)


@pytest.fixture(scope="module")
def bench(backbone: Backbone, params: config.Params, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("colours")
    return Bench(params, backbone, Fetched(manifest := fill(folder), folder), splits.make(manifest, SHOTS, SEEDS))


@pytest.fixture(scope="module")
def trained(bench: Bench) -> dict[int, list[Trained]]:
    found = [bench.run(one, SEEDS) for one in protocols.trainings(bench.params)]
    return {seed: [trained[seed] for trained in found] for seed in SEEDS}


@pytest.fixture(scope="module")
def written(
    bench: Bench, trained: dict[int, list[Trained]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("project")
    return root, results.write(root, bench, trained)


def hits(classifier: Classifier, folder: Path, pictures: list[Picture], labels: list[int]) -> float:
    """Percent of pictures, predicted one by one among the names of ``labels``, that get their own name."""
    right = 0
    for picture in pictures:
        (prediction,) = classifier.predict(folder / picture.path, [NAMES[label] for label in labels])
        right += prediction.label == NAMES[picture.label]
    return 100 * right / len(pictures)


def one(run: dict[str, Any], seed: int | str, protocol: str) -> dict[str, Any]:
    """What run.json says of one training."""
    (found,) = [trained for trained in run["seeds"][str(seed)] if trained["protocol"] == protocol]
    return dict(found)


def is_curve(line: dict[str, Any]) -> bool:
    return line["protocol"] == "few_shot" and line["metric"] == "accuracy"


def test_zero_shot_by_hand(bench: Bench, backbone: Backbone) -> None:
    found, tests = bench.zero_shot(), bench.manifest.of("test")
    pictures, labels = bench.prepared("test")
    images = image_features(backbone, pictures)
    for name, group in (("base", [0, 1, 2]), ("novel", [3, 4]), ("accuracy", [0, 1, 2, 3, 4])):
        text = frozen_text(backbone, [NAMES[label] for label in group], ["a photo of a {}."])
        rows = [index for index, picture in enumerate(tests) if picture.label in group]
        right = sum(group[int((images[i] @ text.T).argmax())] == tests[i].label for i in rows)
        assert found[name] == pytest.approx(100 * right / len(rows), abs=1e-4), name
        error = evaluation.calibration_error(
            backbone.logit_scale * images[rows] @ text.T, torch.tensor([group.index(tests[i].label) for i in rows])
        )
        assert found["ece" if name == "accuracy" else f"ece_{name}"] == pytest.approx(error, abs=1e-3)
    assert found["hm"] == pytest.approx(evaluation.harmonic_mean(found["base"], found["novel"]), abs=1e-3)
    assert labels.tolist() == [picture.label for picture in tests]


def test_base_to_novel_by_hand(bench: Bench, backbone: Backbone, trained: dict[int, list[Trained]]) -> None:
    first = trained[1][0]
    assert first.training == Training("base_to_novel", 2, base_only=True)
    again = bench.train(first.training, SEEDS, bench.split.base)[1]  # the same bits as before
    assert again.history == first.history
    assert again.adapter.info.classes == NAMES[:3]
    classifier, found = Classifier(again.adapter, backbone), first.metrics
    for name, group in (("base", [0, 1, 2]), ("novel", [3, 4])):
        tests = bench.manifest.of("test", group)
        assert found[name] == pytest.approx(hits(classifier, bench.data.folder, tests, group), abs=1e-4)
    assert "accuracy" not in found
    assert found["hm"] == pytest.approx(evaluation.harmonic_mean(found["base"], found["novel"]), abs=1e-3)


def test_the_few_shot_curve_by_hand(bench: Bench, backbone: Backbone, trained: dict[int, list[Trained]]) -> None:
    found = [one for one in trained[2] if one.training.protocol == "few_shot"]
    assert [one.training.shots for one in found] == [1, 4]
    for one in found:
        assert len(one.history) == 3  # epochs of its own
        assert len(one.trained_on) == 5 * one.training.shots
        tests = bench.manifest.of("test")
        expected = hits(Classifier(one.adapter, backbone), bench.data.folder, tests, list(range(5)))
        assert one.metrics["accuracy"] == pytest.approx(expected, abs=1e-4)


def test_the_deliverable_by_hand(bench: Bench, backbone: Backbone, written: tuple[Path, dict[str, Any]]) -> None:
    root, run = written
    folder = root / "runs" / "colours" / "adapter"
    adapter, deliverable = Adapter.load(folder), run["deliverable"]
    assert adapter.info.classes == NAMES
    assert deliverable["identity"] == identity(folder)
    classifier = Classifier(adapter, backbone)
    every = list(range(5))
    for metric, part in (("accuracy", "test"), ("validation", "val")):
        expected = hits(classifier, bench.data.folder, bench.manifest.of(part), every)
        assert adapter.info.metrics[metric] == pytest.approx(expected, abs=1e-4)
    counts = np.array(deliverable["confusion"])
    assert counts.sum(axis=1).tolist() == [4] * 5
    assert 100 * counts.trace() / counts.sum() == pytest.approx(adapter.info.metrics["accuracy"], abs=1e-4)
    by_path = {picture.path: picture.content for picture in bench.manifest.pictures}
    shots = bench.split.draws[2][deliverable["seed"]].train
    assert deliverable["trained_on"] == sorted(by_path[path] for path in shots)


def test_the_deliverable_is_the_best_seed_on_validation_pictures(written: tuple[Path, dict[str, Any]]) -> None:
    _, run = written
    scores = {seed: one(run, seed, "all_classes")["metrics"]["validation"] for seed in run["seeds"]}
    assert scores[str(run["deliverable"]["seed"])] == max(scores.values())


def test_seeds_are_ranked_by_validation_alone(backbone: Backbone) -> None:
    def having(**metrics: float) -> Trained:
        return Trained(Training("all_classes", 1), make_adapter(backbone, metrics=metrics), metrics, [], ())

    several = [having(validation=50, accuracy=90), having(validation=60, accuracy=10), having(validation=60, accuracy=20)]
    assert best(dict(zip([4, 2, 3], several, strict=True))) == 2
    assert best({4: having(accuracy=10), 2: having(accuracy=90)}) == 4  # no validation pictures: the first
    assert best({4: having(accuracy_estimate=10), 2: having(accuracy_estimate=90)}) == 2


def test_run_json_is_what_was_returned(written: tuple[Path, dict[str, Any]], bench: Bench) -> None:
    root, run = written
    stored = json.loads((root / "runs" / "colours" / "run.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(run))
    assert (stored["data_hash"], stored["split_hash"]) == (bench.manifest.hash, bench.split.hash)
    assert stored["trainable"] == 2 * (2 + 32 + 32)
    seeds = [one(run, seed, "base_to_novel")["metrics"]["base"] for seed in SEEDS]
    assert run["summary"]["base"] == pytest.approx(sum(seeds) / 2, abs=1e-4)
    assert run["summary"]["base_std"] == pytest.approx(abs(seeds[0] - seeds[1]) / 2**0.5, abs=1e-4)


def test_results_files_agree_with_the_run(written: tuple[Path, dict[str, Any]]) -> None:
    root, run = written
    lines = [json.loads(line) for line in (root / "results" / "colours.jsonl").read_text().splitlines()]
    assert {(line["dataset"], line["source"], line["split"]) for line in lines} == {("colours", "colours", "given")}
    curve = {(line["shots"], line["seed"]): line["value"] for line in lines if is_curve(line)}
    assert list(curve) == [(1, 1), (4, 1), (1, 2), (4, 2)]
    assert run["summary"]["accuracy_at_4"] == pytest.approx((curve[4, 1] + curve[4, 2]) / 2, abs=1e-4)
    lines = [line for line in lines if line["protocol"] != "few_shot"]
    keys = [(line["protocol"], line["method"], line["seed"], line["metric"]) for line in lines]
    assert len(set(keys)) == len(keys)
    value = {key: line["value"] for key, line in zip(keys, lines, strict=True)}
    for seed in SEEDS:
        for protocol, metric in (("base_to_novel", "novel"), ("all_classes", "accuracy")):
            assert value[protocol, "mmlop", seed, metric] == one(run, seed, protocol)["metrics"][metric]
    assert value["base_to_novel", "zero_shot", None, "base"] == run["zero_shot"]["base"]
    assert value["all_classes", "zero_shot", None, "accuracy"] == run["zero_shot"]["accuracy"]
    assert {line["shots"] for line in lines if line["method"] == "mmlop"} == {2}
    metrics = json.loads((root / "results" / "colours.json").read_text())
    assert metrics["mmlop"]["hm"] == run["summary"]["hm"]
    assert metrics["zero_shot"]["hm"] == run["zero_shot"]["hm"]
    histories: list[list[Epoch]] = [one(run, seed, "base_to_novel")["history"] for seed in SEEDS]
    rows = list(csv.DictReader((root / "results" / "colours.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row, *epochs in zip(rows, *histories, strict=True):
        assert float(row["loss"]) == pytest.approx(sum(epoch["loss"] for epoch in epochs) / 2, rel=1e-5)


def test_writing_again_gives_the_same_bytes(
    bench: Bench, trained: dict[int, list[Trained]], written: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    root, _ = written
    results.write(tmp_path, bench, trained)
    files = sorted(file.relative_to(root) for file in root.rglob("*") if file.is_file())
    assert len(files) == 8
    for file in files:
        assert (tmp_path / file).read_bytes() == (root / file).read_bytes(), file


def test_the_adapter_knows_what_its_card_says(bench: Bench, written: tuple[Path, dict[str, Any]]) -> None:
    root, run = written
    info = Adapter.load(root / "runs" / "colours" / "adapter").info
    for name in ("base", "novel", "hm"):
        found, summary = info.report[name], run["summary"]
        assert (found.mean, found.std, found.seeds) == (summary[name], summary[f"{name}_std"], len(SEEDS))
    parts = {"accuracy": "test", "ece": "test", "validation": "val"}
    assert info.pictures == {name: len(bench.manifest.of(part)) for name, part in parts.items()}
    assert (info.origin.source, info.origin.licence) == (bench.manifest.source, bench.manifest.licence)


def test_rows_and_sentence_for_people(written: tuple[Path, dict[str, Any]]) -> None:
    _, run = written
    rows = results.table(run)
    assert [row["run"] for row in rows] == ["zero-shot", "mmlop seed 1", "mmlop seed 2", "mmlop mean"]
    assert rows[0]["base"] == f"{run['zero_shot']['base']:.2f}"
    assert rows[0]["validation"] == ""
    assert rows[-1]["accuracy"] == f"{run['summary']['accuracy']:.2f}"
    assert f"hm {run['zero_shot']['hm']:.1f} -> {run['summary']['hm']:.1f}" in results.sentence(run)


def test_splits_of_other_data_are_refused(bench: Bench, params: config.Params, backbone: Backbone, tmp_path: Path) -> None:
    other = fill(tmp_path)
    Manifest("colours", NAMES, "a {}.", "CC0", "drawn", other.pictures).save(tmp_path / "manifest.json")
    with pytest.raises(MmlopError, match="splits of colours were drawn from other data: make them again"):
        Bench(params, backbone, Fetched(Manifest.load(tmp_path / "manifest.json"), tmp_path), bench.split)


def test_a_picture_that_is_gone_is_named(params: config.Params, backbone: Backbone, tmp_path: Path) -> None:
    manifest = fill(tmp_path)
    for number in range(4):
        (tmp_path / f"train-1-{number}.png").unlink()
    with pytest.raises(MmlopError, match=r"train-1-\d\.png is not, or no longer, on this machine"):
        Bench(params, backbone, Fetched(manifest, tmp_path), splits.make(manifest, SHOTS, SEEDS)).run(TRAINING, SEEDS)


def test_training_leaves_the_global_generator_alone(bench: Bench) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bench.train(Training("base_to_novel", 2, base_only=True), [2], bench.split.base)
    assert torch.equal(torch.rand(3), expected)
