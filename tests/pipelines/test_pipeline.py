"""The whole path, as a user runs it: `dvc repro` in a clone, and everything it leaves."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from clone import Project

pytest_plugins = ["clone_fixtures"]


def client(project: Project) -> Any:
    from mlflow import MlflowClient

    uri = f"sqlite:///{project.folder / 'mlflow.db'}"
    return MlflowClient(uri, registry_uri=uri)  # given, since a test before may have left another one behind


def test_reports_follow_the_contract(repro: Project) -> None:
    summary = json.loads((repro.folder / "reports/summary.json").read_text())
    assert set(summary["datasets"]) == {"mini_digits", "mini_textures"}
    for found in [*summary["datasets"].values(), summary["mean"]]:
        assert {"base", "novel", "hm"} <= set(found["zero_shot"])
        assert {"base", "novel", "hm", "base_std", "novel_std", "hm_std"} <= set(found["mmlop"])
    records = [json.loads(line) for line in (repro.folder / "reports/results.jsonl").read_text().splitlines()]
    fields = {"dataset", "source", "split", "protocol", "method", "shots", "seed", "metric", "value"}
    assert all(set(record) == fields for record in records)
    keys = [tuple(record[f] for f in sorted(fields - {"value"})) for record in records]
    assert len(set(keys)) == len(keys)
    of_seeds = [
        r["value"]
        for r in records
        if (r["dataset"], r["protocol"], r["method"], r["metric"]) == ("mini_digits", "base_to_novel", "mmlop", "base")
    ]
    assert len(of_seeds) == 2
    assert summary["datasets"]["mini_digits"]["mmlop"]["base"] == pytest.approx(sum(of_seeds) / 2, abs=1e-3)
    for file in ("summary.md", "report.html"):
        assert "mini_textures" in (repro.folder / "reports" / file).read_text()
    assert "train@mini_digits" in json.loads((repro.folder / "reports/timings.json").read_text())


def test_a_second_repro_does_nothing(repro: Project) -> None:
    said = repro.run("dvc", "repro").stdout
    assert "Running stage" not in said
    assert "up to date" in said
    assert repro.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"prompts__rank": 2}, {"train@mini_digits", "train@mini_textures"}),
        ({"fewshot__shots": 3}, {f"{s}@{d}" for s in ("split", "train") for d in ("mini_digits", "mini_textures")}),
        ({"data__seed": 1}, {"fetch@mini_digits", "fetch@mini_textures"}),
        ({"champion__level": 0.2}, set()),
        ({"profiles__vit-b-16__prompts": {"tokens": 8}}, set()),
        ({"datasets": ["mini_digits"]}, {"report"}),
    ],
)
def test_a_param_touches_only_what_depends_on_it(repro: Project, change: dict[str, Any], touched: set[str]) -> None:
    before = (repro.folder / "params.yaml").read_text()
    try:
        repro.edit(**change)
        assert set(json.loads(repro.run("dvc", "status", "--json").stdout)) == touched
    finally:
        (repro.folder / "params.yaml").write_text(before)


def test_runs_children_metrics_and_lineage_are_in_mlflow(repro: Project, prefect_server: str) -> None:
    store = client(repro)
    experiment = store.get_experiment_by_name("mmlop-mini_digits")
    runs = store.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(children) == 2
    assert len(store.get_metric_history(children[0].info.run_id, "base_to_novel/loss")) == 2  # epochs
    assert parents[0].inputs.dataset_inputs[0].dataset.name == "mini_digits"
    tags = parents[0].data.tags
    assert tags["mmlop.git_commit"] == repro.run("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    flow_run = json.load(urllib.request.urlopen(f"{prefect_server}/flow_runs/{tags['mmlop.flow_run_id']}"))
    assert flow_run["name"] == "train-mini_digits"
    assert flow_run["state"]["type"] == "COMPLETED"


def test_the_task_runs_are_named_and_tagged(repro: Project, prefect_server: str) -> None:
    request = urllib.request.Request(
        f"{prefect_server}/task_runs/filter", data=b"{}", headers={"Content-Type": "application/json"}
    )
    runs = json.load(urllib.request.urlopen(request))
    named = {run["name"]: set(run["tags"]) for run in runs}
    assert {"mini_digits", "seeds-1-2", "mini"} <= named["mini_digits-seeds-1-2"]
    request.full_url = f"{prefect_server}/artifacts/filter"
    artifacts = json.load(urllib.request.urlopen(request))
    assert "train-mini-digits" in {artifact["key"] for artifact in artifacts}


def test_the_champion_classifies_from_any_subfolder(repro: Project) -> None:
    picture = next((repro.folder / "data/mini_digits/test").rglob("*.png"))
    uri = "models:/mmlop-mini_digits@champion"
    answer = json.loads(repro.mmlop("predict", uri, str(picture), "--json").stdout)
    assert answer["path"] == str(picture)
    below = repro.run(
        "env", "-C", str(repro.folder / "data"), "python", "-m", "mmlop.cli", "predict", uri, str(picture), "--json"
    )
    assert json.loads(below.stdout) == answer


def test_metrics_and_plots(repro: Project) -> None:
    shown = json.loads(repro.run("dvc", "metrics", "show", "--json").stdout)
    files = shown[""]["data"]
    assert {"results/mini_digits.json", "results/mini_textures.json", "reports/summary.json"} <= set(files)
    repro.run("dvc", "metrics", "diff")
    repro.run("dvc", "plots", "show", "--out", "plots")
    assert (repro.folder / "plots/index.html").stat().st_size > 1000
    shutil.rmtree(repro.folder / "plots")


def test_without_mlflow_training_succeeds_and_sync_registers_later(repro: Project, tmp_path: Path) -> None:
    said = repro.run("python", "-m", "pipelines.train", "mini_textures", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "mmlop registry sync" in said.stdout
    assert "Traceback" not in said.stdout
    elsewhere = f"sqlite:///{tmp_path / 'new.db'}"
    assert "version 1" in repro.mmlop("registry", "sync", "mini_textures", MLFLOW_TRACKING_URI=elsewhere).stdout
    again = repro.mmlop("registry", "sync", "mini_textures", MLFLOW_TRACKING_URI=elsewhere).stdout
    assert "already registered" in again
    # The same bits as the first time: nothing for git or DVC to notice, and the same version in the project's own store.
    assert repro.run("git", "status", "--porcelain").stdout == ""
    assert repro.run("dvc", "status", "--json").stdout.strip() == "{}"
    assert "already registered" in repro.mmlop("registry", "sync", "mini_textures").stdout


def test_an_experiment_is_logged_and_never_registered(repro: Project) -> None:
    before = len(client(repro).search_model_versions("name='mmlop-mini_digits'"))
    try:
        repro.run("dvc", "exp", "run", "-S", "prompts.rank=2", "-S", "datasets=[mini_digits]")
        adapter = json.loads((repro.folder / "runs/mini_digits/adapter/adapter.json").read_text())
        assert adapter["shape"]["rank"] == 2
        assert set(json.loads((repro.folder / "reports/summary.json").read_text())["datasets"]) == {"mini_digits"}
        store = client(repro)
        experiment = store.get_experiment_by_name("mmlop-mini_digits")
        ranks = {run.data.params["prompts.rank"] for run in store.search_runs([experiment.experiment_id])}
        assert ranks == {"1", "2"}
        assert len(store.search_model_versions("name='mmlop-mini_digits'")) == before
    finally:
        repro.run("git", "checkout", "--", ".")
        repro.run("dvc", "checkout", "--force")


@pytest.mark.parametrize(
    ("spoil", "stage", "says"),
    [
        (
            lambda p: p.edit(datasets=["mini_digit"]),
            ("fetch", "mini_digit"),
            "no data set 'mini_digit'. Known: mini_digits",
        ),
        (lambda p: p.edit(prompts__rank=3), ("train", "mini_digits"), "prompts.rank is 3"),
        (lambda p: p.edit(fewshot__shots=3), ("train", "mini_digits"), "do not hold 3 shots for every seed"),
        (lambda p: p.edit(prompts__depth=9), ("train", "mini_digits"), "prompts.depth is 9"),
        (lambda p: spoil_picture(p), ("train", "mini_digits"), "changed since"),
        (lambda p: lose_class(p), ("split", "mini_digits"), "digit one without a training picture"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_results_alone(repro: Project, spoil: Any, stage: Any, says: str) -> None:
    kept = (repro.folder / "results/mini_digits.json").read_bytes()
    try:
        spoil(repro)
        done = repro.run("python", "-m", f"pipelines.{stage[0]}", stage[1], check=False)
        assert done.returncode == 1
        assert says in done.stdout
        assert "Traceback" not in done.stdout
        assert (repro.folder / "results/mini_digits.json").read_bytes() == kept
    finally:
        repro.run("git", "checkout", "--", ".")
        repro.run("dvc", "checkout", "--force")


def spoil_picture(project: Project) -> None:
    picture = next((project.folder / "data/mini_digits/train").rglob("*.png"))
    data = picture.read_bytes()
    picture.unlink()  # DVC may have linked it into its cache
    picture.write_bytes(data[:40])
    # Every training picture is a shot of some seed only by luck: spoil them all.
    for other in (project.folder / "data/mini_digits/train").rglob("*.png"):
        other.unlink()
        other.write_bytes(data[:40])


def lose_class(project: Project) -> None:
    from dataclasses import replace

    from mmlop.data.manifest import Manifest

    file = project.folder / "data/mini_digits/manifest.json"
    manifest = Manifest.load(file)
    kept = tuple(p for p in manifest.pictures if not (p.part == "train" and p.label == 3))
    file.unlink()
    replace(manifest, pictures=kept).save(file)
