"""Each of the fifteen public data sets, in small, the whole way: archives, manifest, splits, adapters, numbers."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from conftest import tiny_clip
from file_server import FileServer
from public_archives import by_hand, made, tiny

from mmlop import config, evaluation, protocols, report, results, transfer
from mmlop.adapter import Adapter
from mmlop.backbone import Backbone, wrap
from mmlop.classifier import Classifier
from mmlop.data import datasets, public, splits
from mmlop.data.datasets import DataSet
from mmlop.data.manifest import Fetched, Manifest, Picture
from mmlop.data.public import SPECS
from mmlop.experiment import Bench, Trained

pytest_plugins = ["file_server"]

TRAINED = [name for name, spec in SPECS.items() if not spec.variant_of]
VARIANTS = [name for name, spec in SPECS.items() if spec.variant_of]
SEEDS, SHOTS, EPOCHS = (1, 2), 2, 2


def fetched(name: str, server: FileServer, folder: Path) -> Fetched:
    """The small data set by the project's own way of fetching: from ``server``, or of archives put in place where it is
    not to be downloaded."""
    spec, home = tiny(name, server), folder / "home"
    if not any(remote.urls for group in spec.sources for remote in group):
        (home / spec.folder).mkdir(parents=True)
        for file, data in by_hand(name).items():
            (home / spec.folder / file).write_bytes(data)
    dataset = DataSet(
        name,
        spec.description,
        spec.licence,
        spec.template,
        spec.classes,
        lambda _: public.contents(spec, home, own_split=False),
        public.pictures(spec, home),
        spec.variant_of,
    )
    manifest = datasets.fetch(dataset, folder / "data" / name)
    assert [file.name for file in (folder / "data" / name).iterdir()] == ["manifest.json"]
    return Fetched(manifest, public.pictures(spec, home))


def configured(name: str) -> config.Params:
    """Two steps an epoch."""
    profile = {"architecture": "tiny", "prompts": {"tokens": 2, "depth": 2}}
    profile["train"] = {"epochs": EPOCHS, "learning_rate": 0.05}
    return config.Params.model_validate(
        {
            "datasets": [name],
            "test_sets": VARIANTS,
            "backbone": "tiny",
            "fewshot": {"shots": SHOTS, "seeds": SEEDS},
            "protocols": {
                "few_shot": {"shots": [1]},
                "transfer": {"sources": [name], "targets": VARIANTS, "depth": 1, "epochs": EPOCHS},
            },
            "train": {"batch_size": len(made(name).classes), "parallel_seeds": True},
            "profiles": {"tiny": profile},
        }
    )


def bench_of(data: Fetched, backbone: Backbone) -> Bench:
    params = configured(data.manifest.name)
    split = splits.make(data.manifest, protocols.shots_needed(params), params.fewshot.seeds)
    return Bench(params, backbone, data, split)


def accuracy(classifier: Classifier, data: Fetched, pictures: list[Picture], names: tuple[str, ...]) -> float:
    """Percent of the pictures, one by one, whose own name is the likeliest of ``names``."""
    own = [data.manifest.classes[picture.label] for picture in pictures]
    predictions = [classifier.predict(data.file(picture), names)[0] for picture in pictures]
    assert all(sorted(one.labels) == sorted(names) for one in predictions)
    return 100 * sum(one.label == name for one, name in zip(predictions, own, strict=True)) / len(pictures)


def check_training(trained: Trained, bench: Bench, shots: int, labels: tuple[int, ...]) -> None:
    """That it learned, from the shots that it should have, in numbers that are numbers."""
    by_content = {picture.content: picture for picture in bench.manifest.pictures}
    seen = [by_content[content] for content in trained.trained_on]
    assert {picture.part for picture in seen} == {"train"}
    assert Counter(picture.label for picture in seen) == dict.fromkeys(labels, shots)
    assert trained.adapter.info.classes == tuple(made(bench.name).classes[label] for label in labels)
    assert len(trained.history) == EPOCHS
    assert all(math.isfinite(value) for epoch in trained.history for value in epoch.values())
    assert all(0 <= value <= 100 for value in trained.metrics.values())


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return wrap(tiny_clip(), "tiny", "random")


@pytest.mark.parametrize("name", TRAINED)
def test_from_archives_to_numbers(name: str, backbone: Backbone, file_server: FileServer, tmp_path: Path) -> None:
    data = fetched(name, file_server, tmp_path)
    bench, labels = bench_of(data, backbone), tuple(range(len(made(name).classes)))
    base, novel = labels[: math.ceil(len(labels) / 2)], labels[math.ceil(len(labels) / 2) :]
    trainings = protocols.trainings(bench.params, bench.has_parts)
    found = [bench.run(training, SEEDS) for training in trainings]
    for seed in SEEDS:
        halves, curve, delivered = (one[seed] for one in found)
        check_training(halves, bench, SHOTS, base)
        check_training(curve, bench, 1, labels)
        check_training(delivered, bench, SHOTS, labels)
        classifier = Classifier(halves.adapter, backbone)
        for half, group in (("base", base), ("novel", novel)):
            names = tuple(data.manifest.classes[label] for label in group)
            right = accuracy(classifier, data, data.manifest.of("test", group), names)
            assert halves.metrics[half] == pytest.approx(right, abs=1e-3)
        hm = evaluation.harmonic_mean(halves.metrics["base"], halves.metrics["novel"])
        assert halves.metrics["hm"] == pytest.approx(hm, abs=1e-3)
        classifier = Classifier(delivered.adapter, backbone)
        for metric, part in (("accuracy", "test"), ("validation", "val")):
            right = accuracy(classifier, data, data.manifest.of(part), data.manifest.classes)
            assert delivered.metrics[metric] == pytest.approx(right, abs=1e-3)

    results.write(tmp_path, bench, {seed: [one[seed] for one in found] for seed in SEEDS})
    rows = report.read(tmp_path / "results" / f"{name}.jsonl")
    assert {(row["dataset"], row["split"]) for row in rows} == {(name, "published")}
    assert {row["protocol"] for row in rows} == {"base_to_novel", "few_shot", "all_classes"}
    assert {row["seed"] for row in rows} == {None, *SEEDS}
    summary = report.summarise(rows)["datasets"][name]
    assert summary["mmlop"]["hm"] == pytest.approx(sum(found[0][seed].metrics["hm"] for seed in SEEDS) / 2, abs=1e-3)


@pytest.fixture(scope="module")
def adapters(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Adapter]:
    """Adapters of ImageNet's eleven classes here, by the transfer protocol."""
    with FileServer().running() as server:
        bench = bench_of(fetched("imagenet", server, tmp_path_factory.mktemp("imagenet")), backbone)
    trained = bench.run(protocols.transfer(bench.params), SEEDS)
    for one in trained.values():
        check_training(one, bench, SHOTS, tuple(range(11)))
        assert one.adapter.shape.depth == 1
    return {seed: one.adapter for seed, one in trained.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_tested_among_its_own_classes(
    name: str, backbone: Backbone, adapters: dict[int, Adapter], file_server: FileServer, tmp_path: Path
) -> None:
    data = fetched(name, file_server, tmp_path)
    manifest = data.manifest
    assert {picture.part for picture in manifest.pictures} == {"test"}
    assert set(manifest.classes) <= set(adapters[1].info.classes)
    protocol = protocols.of_pair("imagenet", name, datasets.get(name, configured("imagenet")).variant_of)
    assert protocol == "domain_generalisation"
    source = Manifest("imagenet", adapters[1].info.classes, "a photo of a {}.", "", "", (), "published")
    mean = transfer.write(tmp_path, source, protocol, adapters, backbone, data)
    zero_shot, found = transfer.measure(adapters, backbone, data)
    assert 0 <= zero_shot["accuracy"] <= 100
    for seed, adapter in adapters.items():
        right = accuracy(Classifier(adapter, backbone), data, manifest.of("test"), manifest.classes)
        assert found[seed]["accuracy"] == pytest.approx(right, abs=1e-3)
        assert 0 <= found[seed]["ece"] <= 100
    rows = report.read(tmp_path / "results/transfer/imagenet" / f"{name}.jsonl")
    assert {(row["source"], row["dataset"], row["protocol"]) for row in rows} == {("imagenet", name, protocol)}
    of_pair = report.summarise(rows)["transfer"]["imagenet"][protocol][name]
    assert of_pair["mmlop"]["accuracy"] == mean["accuracy"]


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_classes_that_a_variant_lacks_are_no_candidates(
    name: str, backbone: Backbone, adapters: dict[int, Adapter], file_server: FileServer, tmp_path: Path
) -> None:
    """Of three candidates these adapters, which know next to nothing, choose the right one more often than of eleven."""
    data = fetched(name, file_server, tmp_path)
    _, found = transfer.measure(adapters, backbone, data)
    for seed, adapter in adapters.items():
        pictures, every = data.manifest.of("test"), adapter.info.classes
        assert len(data.manifest.classes) == 3 < len(every)
        assert accuracy(Classifier(adapter, backbone), data, pictures, every) < found[seed]["accuracy"]
