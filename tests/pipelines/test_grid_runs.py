"""Grids, run for real: in processes of their own, stopped and taken up again, and on public data sets in small."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from clone import Project
from file_server import FileServer
from make_run import save_backbone
from public_archives import by_hand, tiny
from said import Run

from mmlop import config
from mmlop.data import public
from mmlop.data.public import SPECS
from mmlop.errors import MmlopError
from mmlop.grids import comparison, inputs, measurements
from pipelines import grid as grids

pytest_plugins = ["cli_fixtures", "clone_fixtures", "file_server"]

ELEVEN = [name for name, spec in SPECS.items() if spec.variant_of is None]
Done = subprocess.CompletedProcess[str]
TRACEBACK = "Traceback (most recent call last)"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Project:
    """One data set of the pipeline and one outside it, few pictures, and grids."""
    project = Project(tmp_path_factory.mktemp("grids"))
    vary = [{"method": ["zero_shot", "mmlop"]}, {"prompts.rank": [1, 2, 4]}, {"train.learning_rate": [1e9]}]
    both = ["mini_digits", "mini_textures"]
    project.edit(
        datasets=["mini_digits"],
        data__per_class={"train": 4, "val": 2, "test": 4},
        fewshot={"shots": 2, "seeds": [1]},
        profiles__mini__train__epochs=4,
        grids={
            "small": {"about": "a few points", "datasets": both, "seeds": [1, 2], "vary": vary},
            "again": {"datasets": both, "seeds": [1, 2], "vary": [{"loss.text": [25, 0]}]},
            "long": {
                "datasets": both,
                "seeds": [1, 2],
                "set": {"train.epochs": 30},
                "vary": [{"prompts.depth": [1, 2]}],
            },
        },
    )
    project.commit()
    return project


def files(project: Project, grid: str) -> dict[str, dict[str, Any]]:
    folder = project.folder / "results/benchmark" / grid
    return {f"{file.parent.name}/{file.stem}": json.loads(file.read_text()) for file in sorted(folder.glob("*/*.json"))}


def client(project: Project) -> Any:
    from mlflow import MlflowClient

    uri = f"sqlite:///{project.folder / 'mlflow.db'}"
    return MlflowClient(uri, registry_uri=uri)


def logged(store: Any, grid: str) -> dict[str, Any]:
    """Runs of a grid by the keys of their results; none of them twice."""
    if (experiment := store.get_experiment_by_name(f"mmlop-benchmark-{grid}")) is None:
        return {}
    runs = store.search_runs([experiment.experiment_id])
    found = {run.data.tags["mmlop.run"]: run for run in runs}
    assert len(found) == len(runs)
    return found


@pytest.fixture(scope="module")
def measured(project: Project) -> Done:
    return project.mmlop("benchmark", "small", "--workers", "2", check=False)


def test_a_dry_run_says_what_there_is_to_do_and_does_nothing(project: Project) -> None:
    """Before all others."""
    plan = json.loads(project.mmlop("benchmark", "small", "--dry-run", "--json").stdout)
    assert [point["point"] for point in plan["points"]] == [
        "zero_shot",
        "mmlop",
        "rank=2",
        "learning_rate=1000000000.0",
    ]
    assert all(point["missing"] == ["mini_digits", "mini_textures"] for point in plan["points"])
    assert [one["point"] for one in plan["refused"]] == ["rank=4"]
    assert not (project.folder / "data").exists()
    assert not (project.folder / "mlflow.db").exists()


def test_everything_that_can_be_is_measured(project: Project, measured: Done) -> None:
    found = files(project, "small")
    points = ("mmlop", "rank=2", "zero_shot")
    assert sorted(found) == sorted(f"{point}/{name}" for point in points for name in ("mini_digits", "mini_textures"))
    for one in found.values():
        assert set(one["seeds"]) == {"1", "2"}
        (base_to_novel,) = one["seeds"]["1"]
        assert base_to_novel["protocol"] == "base_to_novel"
        assert 0.1 < one["gigabytes"] < 10
    frozen = found["zero_shot/mini_digits"]
    assert frozen["seeds"]["1"][0]["metrics"]["hm"] == pytest.approx(frozen["zero_shot"]["hm"], abs=1e-3)
    assert frozen["trainable"] == 0
    means = comparison.means(measurements.read(project.folder / "results/benchmark/small"))
    for point in ("zero_shot", "mmlop", "rank=2"):
        shown = " ".join(
            f"{means[point][metric].mean:.1f} ± {means[point][metric].std:.1f}" for metric in ("base", "novel", "hm")
        )
        assert f"{point} {shown}" in " ".join(measured.stdout.split())


def test_points_that_fail_are_said_at_the_end_and_stop_no_other(measured: Done) -> None:
    assert measured.returncode == 1
    error = measured.stdout[measured.stdout.index("Error: ") :]
    assert error.startswith(
        "Error: 2 of 8 measurements failed; the others are on disk. learning_rate=1000000000.0 on mini_"
    )
    assert error.count("lower train.learning_rate") == 2
    assert TRACEBACK not in measured.stdout


def test_every_measurement_is_a_run_and_none_a_model(project: Project, measured: Done) -> None:
    store, found = client(project), files(project, "small")
    runs = logged(store, "small")
    assert runs.keys() == {one["key"] for one in found.values()}
    one = found["rank=2/mini_digits"]
    run = runs[one["key"]]
    assert run.info.status == "FINISHED"
    assert (run.data.tags["mmlop.grid"], run.data.tags["mmlop.point"]) == ("small", "rank=2")
    assert run.data.tags["mmlop.split_hash"] == one["split_hash"]
    assert len(run.data.tags["mmlop.git_commit"]) == 40
    assert (run.data.params["prompts.rank"], run.data.params["overrides.prompts.rank"]) == ("2", "2")
    values = [one["seeds"][seed][0]["metrics"]["base"] for seed in ("1", "2")]
    assert run.data.metrics["seed_2/base_to_novel/base"] == values[1]
    assert run.data.metrics["summary/base_to_novel/base"] == pytest.approx(sum(values) / 2, abs=1e-3)
    assert store.search_registered_models() == []


def test_the_numbers_are_those_of_the_pipeline(project: Project, measured: Done) -> None:
    """The same settings, through `dvc repro`."""
    project.edit(train__epochs=4, fewshot__seeds=[1, 2])
    project.run("dvc", "repro", "train@mini_digits")
    rows = [json.loads(line) for line in (project.folder / "results/mini_digits.jsonl").read_text().splitlines()]
    pipelines = {r["metric"]: r["value"] for r in rows if r["seed"] == 2 and r["protocol"] == "base_to_novel"}
    grids = files(project, "small")["mmlop/mini_digits"]["seeds"]["2"][0]["metrics"]
    assert grids == pytest.approx(pipelines, abs=1e-4)
    project.run("git", "checkout", "params.yaml")


def test_nothing_is_measured_twice_and_mlflow_may_be_down(project: Project, measured: Done) -> None:
    """Another grid takes what it shares; what is missing is measured though nobody keeps runs, and logged later."""
    before = files(project, "small")
    said = project.mmlop("benchmark", "again", MLFLOW_TRACKING_URI="http://127.0.0.1:9").stdout
    assert "1 of 2: text=0 on mini_digits" in said
    assert said.count("MLflow at http://127.0.0.1:9 cannot be used") == 1
    found = files(project, "again")
    assert found["text=25/mini_digits"]["seeds"] == before["mmlop/mini_digits"]["seeds"]
    assert found["text=25/mini_digits"]["point"] == "text=25"
    assert logged(client(project), "again") == {}

    said = project.run("python", "-m", "pipelines.benchmark", "again").stdout  # the pipeline has the same command
    assert " of 2: " not in said
    assert logged(client(project), "again").keys() == {one["key"] for one in found.values()}
    assert files(project, "again") == found  # files say nothing of where they were logged
    assert files(project, "small") == before
    listed = {one["name"]: one for one in json.loads(project.mmlop("benchmark", "--json").stdout)}
    assert (listed["again"]["missing"], listed["small"]["missing"]) == (0, 2)
    assert (listed["small"]["points"], listed["small"]["about"]) == (4, "a few points")


def test_the_command_of_the_pipeline_says_a_mistake_in_a_sentence(project: Project) -> None:
    done = project.run("python", "-m", "pipelines.benchmark", "agein", check=False)
    assert (done.returncode, TRACEBACK in done.stdout) == (1, False)
    assert "Error: There is no grid 'agein'. `grids` in params.yaml has again, small, long." in done.stdout


def test_a_cluster_does_not_measure_grids(project: Project) -> None:
    project.edit(run={"runner": "dask", "dask": "tcp://127.0.0.1:9"})
    done = project.mmlop("benchmark", "again", check=False)
    project.run("git", "checkout", "params.yaml")
    assert done.returncode == 1
    assert "Error: run.runner is dask, but grids are measured on this machine" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_an_ended_run_costs_only_what_was_in_flight(project: Project, ending: signal.Signals) -> None:
    shutil.rmtree(project.folder / "results/benchmark/long", ignore_errors=True)
    command = [sys.executable, "-m", "mmlop.cli", "benchmark", "long", "--workers", "2"]
    process = subprocess.Popen(command, cwd=project.folder, env=project.environment(), start_new_session=True)
    deadline = time.monotonic() + 300
    while not files(project, "long") and time.monotonic() < deadline:
        time.sleep(0.2)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, ending)
    process.wait(20)
    assert psutil.wait_procs(children, timeout=20)[1] == []  # all that worked for it has gone with it
    before = files(project, "long")
    assert 0 < len(before) < 4
    said = project.mmlop("benchmark", "long", "--workers", "2").stdout
    assert f"1 of {4 - len(before)}: " in said
    after = files(project, "long")
    assert len(after) == 4
    for name, one in before.items():
        assert one == after[name]


@pytest.mark.slow
def test_the_death_of_a_worker_is_not_the_end(project: Project) -> None:
    project.edit(grids__long__seeds=[5, 6])
    command = [sys.executable, "-m", "mmlop.cli", "benchmark", "long", "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=project.folder, env=project.environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline, workers = time.monotonic() + 300, list[psutil.Process]()
    while len(workers) < 2 and time.monotonic() < deadline:
        workers = [
            p for p in psutil.Process(process.pid).children(recursive=True) if "--multiprocessing-fork" in p.cmdline()
        ]
        time.sleep(0.2)
    workers[0].kill()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0
    assert "A worker process died, most likely for want of memory" in said
    assert {tuple(one["seeds"]) for one in files(project, "long").values()} == {("5", "6")}
    project.run("git", "checkout", "params.yaml")


# ---- the paper's grid ----


@pytest.fixture
def stand_ins(
    tmp_path: Path, file_server: FileServer, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The project's own grid `paper`, with eleven small data sets under the names of the true ones, served by this machine,
    and a CLIP of random weights."""
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    profile = values["profiles"]["vit-b-16"]
    profile |= {"architecture": str(save_backbone(tmp_path / "tiny")), "prompts": {"tokens": 2, "depth": 2}}
    profile["train"] = {"epochs": 2, "threads": 1, "parallel_seeds": True}
    values["grids"]["paper"]["set"] |= {"device": "cpu"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMLOP_DATA", str(tmp_path / "DATA"))
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "by hand").mkdir()
    for file, data in by_hand("imagenet").items():
        (tmp_path / "by hand" / file).write_bytes(data)
    for name in ELEVEN:
        monkeypatch.setitem(public.SPECS, name, tiny(name, file_server))
    inputs.forget()
    yield tmp_path
    inputs.forget()


@pytest.mark.slow
def test_paper(stand_ins: Path, mmlop: Run) -> None:
    """All of it, but for the true pictures and weights: ImageNet's archives are put there by hand."""
    done = mmlop("benchmark", "paper")
    assert done.code == 1
    assert "imagenet by hand: register at https://image-net.org" in done.err
    assert "ILSVRC2012_img_train.tar" in done.err

    shutil.copytree(stand_ins / "by hand", stand_ins / "DATA" / "imagenet", dirs_exist_ok=True)
    done = mmlop("benchmark", "paper")
    assert done.code == 0, done.err
    found = measurements.read(stand_ins / "results/benchmark/paper")
    assert [one.dataset for one in found] == sorted(ELEVEN)
    assert {one.split for one in found} == {"published"}
    assert {tuple(one.seeds) for one in found} == {(1, 2, 3)}
    hm = comparison.means(found)["mmlop"]["hm"].mean
    assert f"mmlop: mean HM {hm:.2f} with {stand_ins / 'tiny'} and 16 shots" in done.out
    assert "published for ViT-B/16 and 16 shots 79.70" in done.out
    assert f"{hm - 79.7:+.2f}" in done.out


def test_paper_asks_before_it_takes_hours(stand_ins: Path) -> None:
    """Nobody is there to answer: nothing is downloaded."""
    values = yaml.safe_load((stand_ins / "params.yaml").read_text())
    values["grids"]["paper"]["set"] |= {"train.epochs": 1_000_000}
    (stand_ins / "params.yaml").write_text(yaml.safe_dump(values))
    params = config.load()
    with pytest.raises(MmlopError, match=r"say --yes to start it \(about .* hours on this machine"):
        grids.run(grids.planned("paper", params), params, grids.agreement(yes=False))
    assert not (stand_ins / "DATA").exists()
    assert not (stand_ins / "results").exists()


def test_paper_needs_its_device(stand_ins: Path) -> None:
    values = yaml.safe_load((stand_ins / "params.yaml").read_text())
    values["grids"]["paper"]["set"] |= {"device": "cuda:99"}
    (stand_ins / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(MmlopError, match="Device 'cuda:99' cannot be used on this machine"):
        grids.planned("paper", config.load())
    assert len(grids.planned("paper", config.load(), checked=False).pending) == len(ELEVEN)
