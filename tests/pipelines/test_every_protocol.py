"""Every protocol, and pictures of one's own, through a real `dvc repro` with the built-in data sets and CLIP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clone import Project
from PIL import Image

pytest_plugins = ["clone_fixtures"]

SOURCE, TARGETS = "mini_objects", ["mini_objects_hard", "mini_digits"]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Project:
    """A source with a variant and another data set as targets, and a short few-shot curve."""
    project = Project(tmp_path_factory.mktemp("moved"))
    project.edit(
        datasets=[SOURCE],
        test_sets=TARGETS,
        data__per_class={"train": 4, "val": 2, "test": 3},
        fewshot={"shots": 2, "seeds": [1, 2]},
        protocols={
            "base_to_novel": True,
            "few_shot": {"shots": [1], "epochs": 3},
            "transfer": {"sources": [SOURCE], "targets": TARGETS, "depth": 2, "epochs": None},
        },
        train__epochs=2,
    )
    project.commit()
    project.run("dvc", "repro")
    project.commit()
    return project


def records(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.folder / "reports/results.jsonl").read_text().splitlines()]


def test_every_protocol_ends_in_one_schema(moved: Project) -> None:
    found = records(moved)
    about = {(r["source"], r["dataset"], r["protocol"], r["shots"]) for r in found if r["method"] == "mmlop"}
    assert about == {
        (SOURCE, SOURCE, "base_to_novel", 2),
        (SOURCE, SOURCE, "few_shot", 1),
        (SOURCE, SOURCE, "all_classes", 2),
        (SOURCE, "mini_objects_hard", "domain_generalisation", 2),
        (SOURCE, "mini_digits", "cross_dataset", 2),
    }
    assert all(set(record) == set(found[0]) for record in found)
    assert {record["split"] for record in found} == {"rendered"}
    summary = json.loads((moved.folder / "reports/summary.json").read_text())
    hard = [r["value"] for r in found if r["dataset"] == "mini_objects_hard" and r["metric"] == "accuracy" and r["seed"]]
    of_hard = summary["transfer"][SOURCE]["domain_generalisation"]["mini_objects_hard"]["mmlop"]
    assert of_hard["accuracy"] == pytest.approx(sum(hard) / len(hard), abs=1e-3)
    markdown = (moved.folder / "reports/summary.md").read_text()
    for title in ("All classes, by shots", f"From {SOURCE} to other data sets", f"From {SOURCE} to its variants"):
        assert f"**{title}**" in markdown


def test_adapters_of_a_source_are_as_deep_as_transfer_wants(moved: Project) -> None:
    for seed in (1, 2):
        adapter = json.loads((moved.folder / f"transfer/{SOURCE}/{seed}/adapter.json").read_text())
        assert adapter["shape"]["depth"] == 2
        assert len(adapter["classes"]) == 24
    delivered = json.loads((moved.folder / f"runs/{SOURCE}/adapter/adapter.json").read_text())
    assert delivered["shape"]["depth"] == 3


def test_transfer_is_in_mlflow_once(moved: Project) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{moved.folder / 'mlflow.db'}"
    store = MlflowClient(uri, registry_uri=uri)
    experiment = store.get_experiment_by_name(f"mmlop-{SOURCE}-transfer")
    runs = store.search_runs([experiment.experiment_id])
    assert {run.data.tags["mmlop.dataset"] for run in runs} == set(TARGETS)
    (digits,) = (run for run in runs if run.data.tags["mmlop.dataset"] == "mini_digits")
    values = [
        r["value"] for r in records(moved) if r["dataset"] == "mini_digits" and r["metric"] == "accuracy" and r["seed"]
    ]
    assert digits.data.metrics["summary/accuracy"] == pytest.approx(sum(values) / 2, abs=1e-3)
    said = moved.mmlop("registry", "sync").stdout
    assert f"{SOURCE} -> mini_digits: logged as run {digits.info.run_id}" in said
    assert len(store.search_runs([experiment.experiment_id])) == 2


def test_a_second_repro_does_nothing_and_a_change_touches_what_depends_on_it(moved: Project) -> None:
    assert "Running stage" not in moved.run("dvc", "repro").stdout
    before = (moved.folder / "params.yaml").read_text()
    changes = [
        ({"protocols__transfer__depth": 1}, {f"source@{SOURCE}", "report"}),
        ({"protocols__few_shot__shots": [1, 2]}, {f"split@{SOURCE}", f"train@{SOURCE}"}),
        ({"protocols__base_to_novel": False}, {f"train@{SOURCE}"}),
        ({"protocols__transfer__targets": ["mini_digits"]}, {"report"}),
        ({"test_sets": [*TARGETS, "mini_objects_art"]}, {"fetch_test@mini_objects_art"}),
    ]
    for change, touched in changes:
        try:
            moved.edit(**change)
            assert set(json.loads(moved.run("dvc", "status", "--json").stdout)) == touched, change
        finally:
            (moved.folder / "params.yaml").write_text(before)


# Pictures of one's own


def photograph(folder: Path, counts: dict[str, int]) -> None:
    """Discs and frames in one colour, each a little different."""
    y, x = np.mgrid[0:40, 0:52]
    for name, count in counts.items():
        for number in range(count):
            generator = np.random.default_rng([number, *name.encode()])  # the same picture every time
            radius, shift = generator.uniform(9, 16), generator.normal(0, 2, 2)
            away = np.hypot(x - 26 - shift[0], y - 20 - shift[1])
            inside = away < radius if "circle" in name else abs(away - radius) < 3
            pixels = generator.integers(180, 255, (40, 52, 3), dtype=np.uint8)
            pixels[inside] = (200, 30, 30) if "red" in name else (30, 60, 200)
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{name} {number}.jpg", quality=95)


def test_few_pictures_of_ones_own_become_an_adapter_with_an_estimate(moved: Project, tmp_path: Path) -> None:
    photos = tmp_path / "my photos"
    photograph(photos, {"red circle": 6, "blue_circle": 5, "red ring": 7})
    said = moved.mmlop("data", "add", "parts", str(photos), "--template", "a photo of a {}.").stdout
    assert "k-fold" in said
    assert "mmlop train parts" in said
    moved.mmlop("train", "parts")
    run = json.loads((moved.folder / "runs/parts/run.json").read_text())
    assert run["data"]["split"] == "k-fold"
    assert run["deliverable"]["metrics"].keys() == {"accuracy_estimate"}
    assert len(run["deliverable"]["trained_on"]) == 3 * 2  # two shots of each class
    assert not list((moved.folder / "data/parts").rglob("*.jpg"))  # referred to where they are
    answer = moved.mmlop("predict", "models:/mmlop-parts@champion", str(photos / "red circle"), "--json").stdout
    labels = [json.loads(line)["labels"][0]["label"] for line in answer.splitlines() if line.startswith("{")]
    assert len(labels) == 6
    assert set(labels) <= {"red circle", "blue_circle", "red ring"}


def test_a_growing_folder_is_looked_through_again(moved: Project, tmp_path: Path) -> None:
    photos = tmp_path / "growing"
    photograph(photos, {"red circle": 12, "blue circle": 14})
    moved.mmlop("data", "add", "discs", str(photos))
    moved.run("dvc", "repro", "split@discs")
    manifest = moved.folder / "data/discs/manifest.json"
    before = json.loads(manifest.read_text())
    assert before["split"] == "content"
    photograph(photos, {"red circle": 16, "blue circle": 14, "blue ring": 9})
    moved.mmlop("data", "fetch", "discs")
    after = json.loads(manifest.read_text())
    assert after["classes"] == ["blue circle", "blue ring", "red circle"]
    parts = {path: (part, content) for path, _, part, content in after["pictures"]}
    assert len(parts) == 16 + 14 + 9
    assert all(parts[path] == (part, content) for path, _, part, content in before["pictures"])
    assert "split@discs" in json.loads(moved.run("dvc", "status", "--json").stdout)


def test_a_picture_that_changed_behind_the_manifest_is_noticed(moved: Project, tmp_path: Path) -> None:
    photos = tmp_path / "changing"
    photograph(photos, {"red circle": 3, "blue ring": 3})
    moved.mmlop("data", "add", "changing", str(photos))
    moved.run("dvc", "repro", "split@changing")
    shutil.copy(photos / "red circle/red circle 0.jpg", photos / "red circle/red circle 1.jpg")
    shutil.copy(photos / "blue ring/blue ring 0.jpg", photos / "blue ring/blue ring 1.jpg")
    shutil.copy(photos / "blue ring/blue ring 0.jpg", photos / "blue ring/blue ring 2.jpg")
    done = moved.run("python", "-m", "pipelines.train", "changing", check=False)
    assert done.returncode == 1
    assert "changed since its data set was fetched: fetch it again" in done.stdout
    assert "Traceback" not in done.stdout
