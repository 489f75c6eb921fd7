"""Every method on a few small pictures: measured by protocol, saved and loaded, and what each means beside frozen CLIP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_clip
from PIL import Image
from test_results import NAMES, fill, hits
from test_training import draws_of
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from mmlop import evaluation, protocols, results
from mmlop.adapter import Adapter
from mmlop.backbone import Backbone, wrap
from mmlop.classifier import Classifier
from mmlop.config import Params
from mmlop.data import splits, templates
from mmlop.data.manifest import Fetched, Manifest
from mmlop.data.pictures import augment
from mmlop.errors import MmlopError
from mmlop.experiment import Bench, Trained
from mmlop.features import frozen_text, image_features
from mmlop.methods import METHODS
from mmlop.protocols import Training

SEEDS = (1, 2)
BASE_TO_NOVEL, ALL = Training("base_to_novel", 2, base_only=True), Training("all_classes", 2)
BASE, NOVEL = [0, 1, 2], [3, 4]
DEEP = {"prompts": {"depth": 2}}  # the tiny CLIP has two blocks
TEMPLATE = "a photo of a {}."
OTHERS = ("rain", "red", "a longer name of things")  # one of them trained on

Make = Callable[..., Bench]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    folder = tmp_path_factory.mktemp("colours")
    return Fetched(fill(folder), folder)


def params(method: str, **changes: Any) -> Params:
    profile = {
        "architecture": "tiny",
        "train": {"epochs": 2, "learning_rate": 0.02, "batch_size": 4},
        "methods": {
            **dict.fromkeys(("mmlop", "promptsrc", "maple", "ivlp", "vpt"), DEEP),
            "tip_adapter": {"train": {"views": 3}},
        },
    }
    values = {"datasets": ["colours"], "backbone": "tiny", "method": method, "profiles": {"tiny": profile}}
    return Params.model_validate(values | {"fewshot": {"shots": 2, "seeds": SEEDS}} | changes)


@pytest.fixture(scope="module")
def make(backbone: Backbone, data: Fetched) -> Make:
    split = splits.make(data.manifest, (2,), SEEDS)

    def bench(method: str, part: str = "test", **changes: Any) -> Bench:
        return Bench(params(method, **changes), backbone, data, split, part)

    return bench


@pytest.fixture(scope="module")
def halves(make: Make) -> dict[str, dict[int, Trained]]:
    """Trained on base classes: by method, then by seed."""
    return {method: make(method).run(BASE_TO_NOVEL, SEEDS) for method in METHODS}


@pytest.fixture(scope="module")
def pictures(data: Fetched, make: Make) -> Tensor:
    return make("zero_shot").prepared("test")[0]


def by_hand(backbone: Backbone, pictures: Tensor, names: tuple[str, ...], template: str = TEMPLATE) -> Tensor:
    """tau f w^T of the frozen CLIP."""
    return backbone.logit_scale * image_features(backbone, pictures) @ frozen_text(backbone, names, [template]).T


every = pytest.mark.parametrize("method", METHODS)
open_vocabulary = pytest.mark.parametrize("method", [name for name in METHODS if name != "linear_probe"])


# Measuring


@every
def test_base_to_novel_of_every_method(
    halves: dict[str, dict[int, Trained]], backbone: Backbone, data: Fetched, method: str
) -> None:
    closed = method == "linear_probe"
    for seed, trained in halves[method].items():
        info, found = trained.adapter.info, trained.metrics
        assert (info.method, info.classes, info.origin.seed) == (method, NAMES[:3], seed)
        assert len(trained.history) == (2 if METHODS[method].kind in ("prompts", "lora") else 0)
        groups = {"base": BASE} | ({} if closed else {"novel": NOVEL})
        assert set(found) == {*groups, *(f"ece_{name}" for name in groups)} | (set() if closed else {"hm"})
        assert set(trained.shown) == set(groups)
        classifier = Classifier(trained.adapter, backbone)
        for name, group in groups.items():
            tests = data.manifest.of("test", group)
            assert found[name] == pytest.approx(hits(classifier, data.folder, tests, group), abs=1e-4), name
            bins, counts = trained.shown[name]["reliability"], np.array(trained.shown[name]["confusion"])
            assert len(bins) == 15
            assert sum(count for count, _, _ in bins) == counts.sum() == len(tests) == 4 * len(group)
            assert counts.shape == (len(group), len(group))
            assert counts.sum(axis=1).tolist() == [4] * len(group)
            assert 100 * counts.trace() / counts.sum() == pytest.approx(found[name], abs=1e-3)
            error = sum(count * abs(sure - right) for count, sure, right in bins) / len(tests)
            assert error == pytest.approx(found[f"ece_{name}"], abs=1e-2)


@every
def test_a_bench_may_measure_validation_pictures(make: Make, backbone: Backbone, data: Fetched, method: str) -> None:
    bench = make(method, part="val")
    trained = bench.run(BASE_TO_NOVEL, [1])[1]
    classifier = Classifier(trained.adapter, backbone)
    for name, group in (("base", BASE), ("novel", NOVEL)):
        if name in trained.metrics:
            shown = data.manifest.of("val", group)
            assert trained.metrics[name] == pytest.approx(hits(classifier, data.folder, shown, group), abs=1e-4)
            assert sum(map(sum, trained.shown[name]["confusion"])) == len(shown) == 3 * len(group)
    zero_shot, labels = bench.zero_shot(), bench.prepared("val")[1]
    right = by_hand(backbone, bench.prepared("val")[0], NAMES).argmax(dim=1) == labels
    assert zero_shot["accuracy"] == pytest.approx(100 * right.double().mean().item(), abs=1e-3)


@every
@pytest.mark.parametrize("training", [BASE_TO_NOVEL, ALL], ids=["base", "all"])
def test_what_an_adapter_was_chosen_by_counts_as_seen(make: Make, method: str, training: Training) -> None:
    """Shots first, then the few validation pictures that a method looked at: of its own classes, of the seed's draw."""
    bench, labels = make(method), BASE if training.base_only else range(5)
    by_path = {picture.path: picture for picture in bench.manifest.pictures}
    for seed, trained in bench.train(training, SEEDS, labels).items():
        draw, chooses = bench.split.draws[2][seed], method in ("linear_probe", "tip_adapter")
        shots, few = (
            [by_path[path] for path in paths if by_path[path].label in labels] for paths in (draw.train, draw.val)
        )
        count = 2 * len(labels)
        assert trained.trained_on[:count] == tuple(picture.content for picture in shots)
        assert sorted(trained.trained_on[count:]) == (sorted(picture.content for picture in few) if chooses else [])
        assert len(few) == count  # so that there is something to be seen


@every
def test_twice_the_same_bits(
    make: Make,
    halves: dict[str, dict[int, Trained]],
    method: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With nothing kept of the first time."""
    monkeypatch.setenv("MMLOP_CACHE", str(tmp_path))
    torch.manual_seed(17)
    again = make(method).run(BASE_TO_NOVEL, SEEDS)
    assert torch.initial_seed() == 17
    for seed, one in halves[method].items():
        other = again[seed]
        assert (one.metrics, one.shown, one.history, one.trained_on) == (
            other.metrics,
            other.shown,
            other.history,
            other.trained_on,
        )
        assert one.adapter.info == other.adapter.info
        assert one.adapter.factors.keys() == other.adapter.factors.keys()
        assert all(torch.equal(value, other.adapter.factors[name]) for name, value in one.adapter.factors.items())


@every
def test_seeds_differ_where_there_is_something_to_learn(halves: dict[str, dict[int, Trained]], method: str) -> None:
    first, second = (halves[method][seed].adapter.factors for seed in SEEDS)
    assert first.keys() == second.keys()
    differing = {name for name in first if not torch.equal(first[name], second[name])}
    assert bool(differing) == (method != "zero_shot")


@every
def test_every_file_of_a_run_is_written(make: Make, method: str, tmp_path: Path) -> None:
    bench = make(method)
    found = [bench.run(one, SEEDS) for one in protocols.trainings(bench.params)]
    run = results.write(tmp_path, bench, {seed: [trained[seed] for trained in found] for seed in SEEDS})
    stored = json.loads((tmp_path / "runs/colours/run.json").read_text())
    assert stored == json.loads(json.dumps(run))
    assert stored["method"] == stored["params"]["method"] == method
    delivered = Adapter.load(tmp_path / "runs/colours/adapter")
    assert stored["trainable"] == delivered.shape.trainable
    assert set(delivered.info.metrics) == {"accuracy", "ece", "validation"}
    assert np.array(run["deliverable"]["confusion"]).sum() == 20
    metrics = json.loads((tmp_path / "results/colours.json").read_text())
    assert set(metrics) == {"zero_shot", method}
    records = [json.loads(line) for line in (tmp_path / "results/colours.jsonl").read_text().splitlines()]
    ours = {line["metric"] for line in records if line["method"] == method and line["seed"] is not None}
    assert {"base", "accuracy"} <= ours
    assert ("hm" in ours) == ("novel" in ours) == (method != "linear_probe")
    header, *rows = (tmp_path / "results/colours.csv").read_text().splitlines()
    assert header.split(",")[0] == "epoch"
    assert "loss" in header.split(",")
    assert len(rows) == (2 if METHODS[method].kind in ("prompts", "lora") else 0)
    assert results.table(run)[-1]["run"] == f"{method} mean"
    assert "accuracy" in results.sentence(run)


@pytest.mark.parametrize("method", ["promptsrc", "coop", "clip_lora"])
def test_a_training_may_be_resumed(make: Make, method: str, tmp_path: Path) -> None:
    bench, again = make(method), make(method)
    bench.checkpoints = again.checkpoints = tmp_path
    first = bench.run(ALL, [1])[1]
    epochs: list[int] = []
    second = again.run(ALL, [1], on_epoch=lambda epoch, _: epochs.append(epoch))[1]
    assert epochs == []
    assert all(torch.equal(value, second.adapter.factors[name]) for name, value in first.adapter.factors.items())


# Saved, loaded, and asked


@every
def test_saved_and_loaded_it_says_the_same(
    halves: dict[str, dict[int, Trained]], backbone: Backbone, pictures: Tensor, method: str, tmp_path: Path
) -> None:
    adapter = halves[method][1].adapter
    adapter.save(tmp_path / "adapter")
    one, other = Classifier(adapter, backbone), Classifier(Adapter.load(tmp_path / "adapter"), backbone)
    assert torch.equal(one.logits(pictures), other.logits(pictures))
    assert torch.equal(one.logits(pictures, OTHERS), other.logits(pictures, OTHERS))
    assert one.logits(pictures).shape == (20, 3)
    assert torch.allclose(one.logits(list(pictures.split(7))), one.logits(pictures), atol=1e-4)  # in batches
    reordered = one.logits(pictures, (NAMES[2], NAMES[0], NAMES[1]))
    assert torch.allclose(reordered, one.logits(pictures)[:, [2, 0, 1]], atol=1e-4)


@open_vocabulary
def test_other_classes_are_scored_by_their_names(
    halves: dict[str, dict[int, Trained]], backbone: Backbone, pictures: Tensor, method: str
) -> None:
    classifier = Classifier(halves[method][1].adapter, backbone)
    assert classifier.open_vocabulary
    scores = classifier.logits(pictures, OTHERS)
    assert scores.isfinite().all()
    (prediction,) = classifier.predict(pictures[0].permute(1, 2, 0).numpy(), OTHERS)
    assert sorted(prediction.labels) == sorted(OTHERS)


def test_a_linear_probe_knows_its_own_classes_alone(
    halves: dict[str, dict[int, Trained]], backbone: Backbone, pictures: Tensor
) -> None:
    adapter = halves["linear_probe"][1].adapter
    classifier, picture = Classifier(adapter, backbone), pictures[0].permute(1, 2, 0).numpy()
    assert not classifier.open_vocabulary
    with pytest.raises(MmlopError, match=r"linear_probe adapter was not trained on 'blu', .* than blue, "):
        classifier.predict(picture, ["red", "blu"])
    (some,) = classifier.predict(picture, ["blue", "red"])
    assert set(some.labels) == {"blue", "red"}
    scores = classifier.logits(pictures, ("rain", "blue", "red"))
    assert (scores[:, 0] == -torch.inf).all()
    features = image_features(backbone, pictures)
    for column, label in ((1, 2), (2, 0)):
        expected = features @ adapter.factors["weight"][label] + adapter.factors["bias"][label]
        assert torch.allclose(scores[:, column], expected, atol=1e-4)
    assert torch.allclose(scores.softmax(dim=1).sum(dim=1), torch.ones(20))


def test_tip_adapter_is_zero_shot_for_classes_outside_its_cache(
    halves: dict[str, dict[int, Trained]], backbone: Backbone, data: Fetched, pictures: Tensor
) -> None:
    trained = halves["tip_adapter"][1]
    classifier, factors = Classifier(trained.adapter, backbone), trained.adapter.factors
    novel = NAMES[3:]
    assert torch.equal(classifier.logits(pictures, novel), by_hand(backbone, pictures, novel))
    zero_shot = halves["zero_shot"][1].metrics
    assert trained.metrics["novel"] == zero_shot["novel"]
    assert trained.metrics["ece_novel"] == zero_shot["ece_novel"]
    alpha, beta = map(float, factors["strength"])
    votes = torch.exp(-beta * (1 - image_features(backbone, pictures) @ factors["keys"].T)) @ factors["values"]
    expected = by_hand(backbone, pictures, NAMES[:3]) + alpha * votes
    assert torch.allclose(classifier.logits(pictures), expected, atol=1e-4)
    assert factors["values"].sum(dim=0).tolist() == [2, 2, 2]  # the shots of each base class
    assert torch.allclose(factors["keys"].norm(dim=1), torch.ones(6), atol=1e-6)


def test_the_cache_holds_mean_features_of_views_drawn_from_the_seed(make: Make, backbone: Backbone) -> None:
    bench = make("tip_adapter")
    trained = bench.train(BASE_TO_NOVEL, [2], BASE)[2]
    by_content, generator = {picture.content: picture for picture in bench.manifest.pictures}, torch.Generator()
    generator.manual_seed(draws_of(2, -1))
    for key, content in zip(trained.adapter.factors["keys"], trained.trained_on[:6], strict=True):
        picture = pil_to_tensor(Image.open(bench.data.file(by_content[content])))
        views = torch.stack([augment(picture, 32, generator, smallest=0.5) for _ in range(3)])
        mean = image_features(backbone, views).mean(dim=0)
        assert torch.allclose(key, mean / mean.norm(), atol=1e-5)


def test_a_cache_of_no_views_holds_the_pictures_themselves(make: Make, backbone: Backbone) -> None:
    plain = make("tip_adapter", train={"views": 0})
    trained = plain.train(BASE_TO_NOVEL, [1], BASE)[1]
    by_content = {picture.content: picture for picture in plain.manifest.pictures}
    shots = [by_content[content] for content in trained.trained_on[:6]]
    prepared, labels = plain.prepare(shots)
    assert torch.allclose(trained.adapter.factors["keys"], image_features(backbone, prepared), atol=1e-6)
    assert trained.adapter.factors["values"].argmax(dim=1).tolist() == labels.tolist()


def test_zero_shot_is_the_frozen_clip(
    halves: dict[str, dict[int, Trained]], make: Make, backbone: Backbone, pictures: Tensor
) -> None:
    bench, expected = make("zero_shot"), make("zero_shot").zero_shot()
    for seed, trained in halves["zero_shot"].items():
        assert trained.adapter.factors == {}
        assert trained.adapter.shape.trainable == 0
        assert trained.metrics == {name: expected[name] for name in trained.metrics}
        classifier = Classifier(trained.adapter, backbone)
        for names in (NAMES, OTHERS):
            assert torch.equal(classifier.logits(pictures, names), by_hand(backbone, pictures, names)), seed
    delivered = bench.run(ALL, [1])[1]
    assert delivered.metrics["accuracy"] == expected["accuracy"]
    plain = Adapter({}, delivered.adapter.info.model_copy(update={"temperature": 1.0}))
    assert bench._on_part(plain, "test")["ece"] == expected["ece"]  # but for the delivered adapter's temperature


@pytest.mark.parametrize(("method", "which"), [("vpt", "text"), ("coop", "images"), ("kgcoop", "images")])
def test_an_encoder_without_prompts_stays_the_frozen_one(
    halves: dict[str, dict[int, Trained]], backbone: Backbone, pictures: Tensor, method: str, which: str
) -> None:
    classifier = Classifier(halves[method][1].adapter, backbone)
    features, text = classifier.features(pictures), classifier._class_features(OTHERS)
    frozen = image_features(backbone, pictures), frozen_text(backbone, OTHERS, [TEMPLATE])
    assert torch.equal(features, frozen[0]) == (which == "images")
    assert torch.equal(text, frozen[1]) == (which == "text")


def test_lora_reads_the_template_and_changes_both_encoders(
    halves: dict[str, dict[int, Trained]], backbone: Backbone, data: Fetched, pictures: Tensor
) -> None:
    trained = halves["clip_lora"][1].adapter
    without = Adapter({name: torch.zeros_like(value) for name, value in trained.factors.items()}, trained.info)
    assert torch.allclose(
        Classifier(without, backbone).logits(pictures, OTHERS), by_hand(backbone, pictures, OTHERS), atol=1e-4
    )
    other = trained.info.model_copy(update={"template": "a {} in the rain."})
    moved = Classifier(Adapter(without.factors, other), backbone).logits(pictures, OTHERS)
    assert torch.allclose(moved, by_hand(backbone, pictures, OTHERS, "a {} in the rain."), atol=1e-4)
    classifier = Classifier(trained, backbone)
    assert not torch.allclose(classifier.features(pictures), image_features(backbone, pictures), atol=1e-4)
    frozen = frozen_text(backbone, OTHERS, [TEMPLATE])
    assert not torch.allclose(classifier._class_features(OTHERS), frozen, atol=1e-4)


@every
def test_only_drift_correction_makes_scores_depend_on_the_candidates(
    halves: dict[str, dict[int, Trained]], backbone: Backbone, pictures: Tensor, method: str
) -> None:
    classifier = Classifier(halves[method][1].adapter, backbone)
    among_two = classifier.logits(pictures, NAMES[:2])
    among_three = classifier.logits(pictures, NAMES[:3])[:, :2]
    assert torch.allclose(among_two, among_three, atol=1e-4) == (method != "mmlop")
    assert classifier.adapter.info.drift_correction == (method == "mmlop")


@every
def test_anchors_are_the_list_or_the_template(halves: dict[str, dict[int, Trained]], method: str) -> None:
    info = halves[method][1].adapter.info
    if method == "kgcoop":
        assert (info.anchor_name, info.anchor_templates) == ("template", (TEMPLATE,))
    else:
        assert (info.anchor_name, info.anchor_templates) == ("promptsrc", templates.get("promptsrc"))


# Probabilities


@every
def test_the_delivered_adapter_is_as_sure_as_validation_pictures_ask_for(
    make: Make, backbone: Backbone, method: str
) -> None:
    bench = make(method)
    delivered = bench.run(ALL, [1])[1].adapter
    assert delivered.info.temperature != 1
    classifier = Classifier(delivered, backbone)
    (val, labels), (tests, truth) = bench.prepared("val"), bench.prepared("test")

    def surprise(temperature: float) -> float:
        shares = (classifier.logits(val).double() / temperature).log_softmax(dim=1)
        target = torch.full_like(shares, 1 / (len(labels) + 2) / (shares.shape[1] - 1))
        target[range(len(labels)), labels] = (len(labels) + 1) / (len(labels) + 2)
        return -float((target * shares).sum(dim=1).mean())

    least = surprise(delivered.info.temperature)
    assert all(least <= surprise(float(t)) + 1e-6 for t in np.geomspace(1 / 20, 20, 60))
    logits = classifier.logits(tests)
    expected = (logits / delivered.info.temperature).softmax(dim=1)
    assert torch.allclose(classifier.probabilities(tests), expected)
    (prediction,) = classifier.predict(tests[0].permute(1, 2, 0).numpy())
    assert prediction.label == NAMES[int(logits[0].argmax())]
    assert prediction.scores == pytest.approx(expected[0].sort(descending=True).values.tolist(), abs=1e-5)
    error = evaluation.calibration_error(logits / delivered.info.temperature, truth)
    assert delivered.info.metrics["ece"] == pytest.approx(error, abs=1e-3)


# Settings and data that do not fit


def test_a_method_may_be_changed_by_its_settings(make: Make) -> None:
    corrected = make("coop", loss={"drift_correction": True, "image": 5}).run(BASE_TO_NOVEL, [1])[1]
    assert corrected.adapter.info.drift_correction
    low_rank = make("vpt", prompts={"form": "low_rank", "rank": 1, "tokens": 3}).run(BASE_TO_NOVEL, [1])[1]
    assert low_rank.adapter.shape.trainable == 2 * (3 + 32)


def test_without_validation_pictures_strengths_are_the_published(backbone: Backbone, data: Fetched) -> None:
    rows = tuple(picture for picture in data.manifest.pictures if picture.part != "val")
    manifest = Manifest("colours", NAMES, TEMPLATE, "CC0", "drawn", rows)
    split = splits.make(manifest, (2,), SEEDS)
    for method in METHODS:
        bench = Bench(params(method), backbone, Fetched(manifest, data.folder), split)
        delivered = bench.run(ALL, [1])[1]
        assert set(delivered.metrics) == {"accuracy", "ece"}, method
        if method == "tip_adapter":
            assert delivered.adapter.factors["strength"].tolist() == pytest.approx([1.17, 1.0])
