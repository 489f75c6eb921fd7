"""Grids of measurements: which points there are, what a measurement is known by, what it holds, what it will take."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from make_run import make_data, save_backbone
from said import Run

from mmlop import cli_benchmark, config, store
from mmlop.config import Params
from mmlop.data import public, splits
from mmlop.errors import MmlopError
from mmlop.experiment import Bench
from mmlop.grids import comparison, current, forecast, inputs, measurements, measuring, points, tracking
from mmlop.grids.forecast import Expected, Pace, Size
from mmlop.grids.points import Point
from mmlop.methods import METHODS
from mmlop.protocols import BASE_TO_NOVEL, Training
from pipelines import grid as grids

pytest_plugins = ["cli_fixtures", "project_fixtures"]


def params(**grid: Any) -> Params:
    """A project with one grid, `one`."""
    profile = {"architecture": "mini", "templates": "mini", "train": {"epochs": 4, "parallel_seeds": True}}
    return config.parse(
        {
            "datasets": ["mini_digits", "mini_pairs"],
            "backbone": "mini",
            "fewshot": {"shots": 2, "seeds": [1, 2]},
            "profiles": {"mini": profile},
            "grids": {"one": grid},
        },
        "test",
    )


def labels(**grid: Any) -> list[str]:
    return [point.label for point in points.plan("one", params(**grid)).points]


# ---- points ----


@given(
    st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=3, unique=True),
    st.lists(st.integers(2, 9), min_size=1, max_size=3, unique=True),
)
def test_a_point_for_every_combination(shots: list[int], weights: list[float], epochs: list[int]) -> None:
    vary = [{"fewshot.shots": shots, "loss.image": weights}, {"train.epochs": epochs, "loss.text": [7]}]
    plan = points.plan("one", params(vary=vary, set={"loss.logits": 3}))
    wanted = [{"fewshot.shots": k, "loss.image": w} for k, w in product(shots, weights)]
    wanted += [{"train.epochs": e, "loss.text": 7} for e in epochs]
    assert [point.overrides for point in plan.points] == wanted
    assert len({point.label for point in plan.points}) == len({point.folder for point in plan.points}) == len(wanted)
    for point in plan.points:
        assert point.params.effective["loss"]["logits"] == 3
        assert point.params.effective["loss"]["image"] == point.overrides.get("loss.image", 10)
        assert point.params.fewshot.shots == point.overrides.get("fewshot.shots", 2)
        assert point.params.effective["train"]["epochs"] == point.overrides.get("train.epochs", 4)


def test_labels_say_what_varies() -> None:
    assert labels(vary=[{"method": ["coop", "mmlop"]}]) == ["coop", "mmlop"]
    assert labels(vary=[{"method": ["mmlop"], "prompts.rank": [2, 4]}]) == ["rank=2", "rank=4"]
    assert labels(vary=[{"fewshot.shots": [4], "method": ["coop"]}]) == ["shots=4, coop"]
    assert labels(vary=[{"fewshot.shots": [4, 8], "method": ["coop", "vpt"]}])[1] == "shots=4, vpt"
    assert labels(vary=[{"loss.drift_correction": [False]}]) == ["drift_correction=false"]
    assert labels(vary=[{"method": ["maple"], "train.epochs": [2, 3]}]) == ["maple, epochs=2", "maple, epochs=3"]
    assert labels() == ["as configured"]


OTHERWISE = {
    "method": "coop",
    "prompts": {"tokens": 8},
    "loss": {"text": 1},
    "train": {"epochs": 7, "threads": 3},
    "protocols": {"base_to_novel": False, "few_shot": {"shots": [1, 2]}},
}


def test_a_grid_means_the_same_whatever_the_pipeline_trains() -> None:
    """Of this project, and of one whose pipeline trains another method by other settings."""
    here = config.load(Path(__file__).parents[1] / "params.yaml")
    there = config.parse(here.model_dump(mode="json") | OTHERWISE, "test")
    assert there.effective != here.effective
    for name in here.grids:
        one, other = points.plan(name, here), points.plan(name, there)
        assert [(p.label, p.overrides, p.decisive) for p in one.points] == [
            (p.label, p.overrides, p.decisive) for p in other.points
        ]
        assert one.refused == other.refused
    assert {point.params.method for point in points.plan("ranks", there).points} == {"mmlop"}
    assert "maple, learning_rate=0.014" in [point.label for point in points.plan("tuning", there).points]


def test_what_belongs_to_the_backbone_holds_for_its_grids() -> None:
    here = params(vary=[{"method": ["mmlop"]}])
    changed = {"fewshot": {"shots": 5}, "device": "cuda"}
    (one,) = points.plan("one", config.parse(here.model_dump(mode="json") | changed, "test")).points
    assert (one.params.fewshot.shots, one.params.device) == (5, "cuda")
    assert one.params.effective["train"]["epochs"] == 4  # the profile's


def test_names_of_grids_are_those_of_folders() -> None:
    with pytest.raises(MmlopError, match="grids has 'A b': a grid's name is small letters, digits, - and _ only"):
        config.parse(params().model_dump(mode="json") | {"grids": {"A b": {}}}, "test")


def test_a_grid_without_a_possible_point_is_one_sentence(project: Path) -> None:
    edited(project, lambda values: values["grids"]["one"].update(vary=[{"prompts.rank": [3, 4], "loss.text": [1, 2]}]))
    found = grids.planned("one", config.load())
    with pytest.raises(MmlopError, match=r"^None of the 4 points of grid one is possible: .*prompts.rank is 3"):
        grids.run(found, config.load(), grids.agreement(yes=True))
    assert not (project / "results").exists()


def test_labels_that_would_be_the_same_say_more() -> None:
    vary = [{"prompts.form": [form], "prompts.depth": [1, 2]} for form in ("full", "coupled")]
    assert labels(vary=vary) == ["depth=1", "depth=2", "form=coupled, depth=1", "form=coupled, depth=2"]
    assert labels(vary=[{"prompts.rank": [1, 2], "profiles.mini.prompts.rank": [1, 3]}])[0] == (
        "prompts.rank=1, profiles.mini.prompts.rank=1"
    )


def test_points_of_the_same_settings_are_one() -> None:
    vary = [{"method": ["mmlop"]}, {"prompts.rank": [1, 2]}, {"method": ["mmlop", "coop"]}]
    assert labels(vary=vary) == ["mmlop", "rank=2", "coop"]


def test_impossible_points_are_refused_with_a_sentence() -> None:
    vary = [{"method": ["mmlop", "cop"]}, {"prompts.rank": [2, 5]}, {"method": ["coop"], "lora.rank": [2]}]
    plan = points.plan("one", params(vary=vary))
    assert [point.label for point in plan.points] == ["mmlop", "rank=2"]
    why = {one.label: one.why for one in plan.refused}
    assert "there is no method 'cop': choose one of coop" in why["cop"]
    assert "prompts.rank is 5, but 4 prompt tokens have rank 1 to 4" in why["rank=5"]
    assert "lora.rank is given, but method coop has no lora" in why["coop, rank=2"]


def test_points_that_measure_nothing_are_refused() -> None:
    plan = points.plan("one", params(vary=[{"protocols.base_to_novel": [True, False]}]))
    assert [point.label for point in plan.points] == ["base_to_novel=true"]
    assert "measures nothing" in plan.refused[0].why


def test_points_too_deep_for_the_backbone_are_refused() -> None:
    plan = points.plan("one", params(vary=[{"prompts.depth": [4, 5]}]))
    fitting = inputs.fitting(plan)
    assert [point.label for point in fitting.points] == ["depth=4"]
    assert fitting.refused[0].why == "prompts.depth is 5, but mini has 6 image and 4 text blocks: choose 1 to 4."


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"vary": [{"prompts.rnk": [1]}]}, "has no key 'rnk' in prompts; known keys: rank,"),
        ({"set": {"promts.rank": 1}}, "has no key 'promts'; known keys: prompts,"),
        ({"set": {"train.epochs.many": 1}}, "train.epochs in params.yaml has no keys of its own"),
        ({"set": {"profiles.mini.methods.coop.train.epoch": 1}}, "no key 'epoch' in profiles.mini.methods.coop.train"),
        ({"vary": [{"fewshot.seeds": [[1]]}]}, "a grid's seeds are under its own `seeds`"),
        ({"set": {"data.seed": 1}}, "pictures are fetched for the project, not for a point"),
        (
            {"datasets": ["mini_digit"]},
            "grids.one.datasets has 'mini_digit', but there is no such data set. Known: mini_digits",
        ),
    ],
)
def test_an_unknown_key_is_one_error(grid: dict[str, Any], said: str) -> None:
    with pytest.raises(MmlopError) as raised:
        points.plan("one", params(**grid))
    assert said in str(raised.value)


def test_known_keys_below_names_of_ones_own() -> None:
    key = "profiles.mini.methods.coop.train.averaging.mean"
    plan = points.plan("one", params(set={"method": "coop"}, vary=[{key: [0.5], key.replace("mean", "std"): [0.1]}]))
    assert plan.points[0].params.effective["train"]["averaging"] == {"mean": 0.5, "std": 0.1}


def test_an_unknown_grid_names_the_nearest() -> None:
    with pytest.raises(MmlopError, match=r"There is no grid 'oen'. `grids` in params.yaml has one\."):
        points.plan("oen", params())


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"vary": [{"method": "coop"}]}, "grids.one.vary.0.method is 'coop': a list is needed"),
        ({"vary": {"method": ["coop"]}}, "a list is needed, even of a single one"),
        ({"vary": [{"method": []}]}, "grids.one.vary.0.method is []"),
        ({"vary": []}, "grids.one.vary is []"),
        ({"seeds": [1, 1]}, "seeds lists a value twice: 1, 1"),
        ({"set": {"method": "coop"}, "vary": [{"method": ["mmlop"]}]}, "method is under `set` and under `vary`"),
        ({"varied": []}, "there is no key 'varied' in grids.one; known keys: vary"),
    ],
)
def test_a_grid_that_is_none_is_one_sentence(grid: dict[str, Any], said: str) -> None:
    with pytest.raises(MmlopError) as raised:
        params(**grid)
    assert said in str(raised.value)


# ---- measurements ----


@pytest.fixture
def project(empty_project: Path, backbone: Path) -> Path:
    """The data set `toy`, a CLIP with random weights, and two grids that share a point."""
    profile = {
        "architecture": str(backbone),
        "prompts": {"tokens": 2, "depth": 2},
        "train": {"epochs": 2, "batch_size": 2, "threads": 1},
    }
    values = {
        "datasets": ["toy"],
        "sources": {"toy": {"folder": str(empty_project / "data" / "toy")}},
        "backbone": "tiny",
        "fewshot": {"shots": 1, "seeds": [1, 2]},
        "profiles": {"tiny": profile},
        "grids": {
            "one": {"vary": [{"prompts.rank": [1, 2]}]},
            "two": {"vary": [{"loss.image": [10, 0]}], "seeds": [1, 2]},
        },
    }
    (empty_project / "params.yaml").write_text(yaml.safe_dump(values))
    make_data(empty_project, "toy", 8)
    inputs.forget()
    return empty_project


def job(root: Path, grid: str = "one", number: int = 0) -> measuring.Job:
    return list(measuring.jobs(root, points.plan(grid, config.load())))[number]


def test_a_measurement_is_what_a_bench_says(project: Path) -> None:
    one = job(project)
    measuring.measure(one)
    stored = json.loads(one.file.read_text())
    assert one.file == project / "results/benchmark/one/rank=1/toy.json"

    data = inputs.fetched(project, "toy")
    split = splits.make(data.manifest, [1], (1, 2))
    bench = Bench(one.params, inputs.loaded(one.params), data, split)
    for seed in (1, 2):
        trained = bench.run(Training(BASE_TO_NOVEL, 1, base_only=True), [seed])[seed]
        assert stored["seeds"][str(seed)] == [
            {
                "protocol": "base_to_novel",
                "shots": 1,
                "epochs": 2,
                "metrics": trained.metrics,
                "shown": json.loads(json.dumps(trained.shown)),
            }
        ]
    assert stored["zero_shot"] == bench.zero_shot()
    assert (stored["base"], stored["novel"]) == (["cat", "dog"], ["horse", "blue car"])
    assert stored["trainable"] == trained.adapter.shape.trainable
    assert (stored["data_hash"], stored["split_hash"]) == (data.manifest.hash, split.hash)
    assert stored["seconds"] > 0
    assert stored["trainings"] == [
        {"protocol": "base_to_novel", "shots": 1, "base_only": True, "epochs": None, "depth": None}
    ]
    assert stored["code"] == inputs.code()
    assert not {"mlflow_run", "history"} & stored.keys()
    (read,) = measurements.read(project / "results/benchmark/one")
    assert (read.point, read.overrides, read.dataset) == ("rank=1", {"prompts.rank": 1}, "toy")
    assert not list((project / ".mmlop" / "checkpoints").iterdir())


def edited(project: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    change(values)
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    inputs.forget()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["profiles"]["tiny"].update(loss={"text": 3}),
        lambda v: v["fewshot"].update(seeds=[2, 1]),
        lambda v: v["fewshot"].update(shots=2),
        lambda v: v["grids"]["one"].update(set={"protocols.few_shot.shots": [1]}),
        lambda v: v["profiles"]["tiny"].update(precision="bf16"),
        lambda v: v["profiles"]["tiny"]["train"].update(threads=2),
    ],
    ids=["loss", "seeds", "shots", "protocol", "precision", "threads"],
)
def test_what_decides_a_result_is_in_its_key(project: Path, change: Callable[[dict[str, Any]], object]) -> None:
    before = job(project).key
    edited(project, lambda values: values.update(champion={"level": 0.1}, run={"concurrency": 3}, loss={"text": 3}))
    assert job(project).key == before
    edited(project, change)
    assert job(project).key != before


def test_what_computes_is_in_the_key(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"numpy", "scikit-learn", "torch"} <= inputs.computed_by("cpu")["libraries"].keys()
    one = job(project)
    monkeypatch.setattr(os, "cpu_count", lambda: 99)
    assert inputs.threads(one.params) == 1  # as its profile says
    assert job(project).key == one.key
    edited(project, lambda values: values["profiles"]["tiny"]["train"].pop("threads"))
    at_99 = job(project)
    assert inputs.threads(at_99.params) == 99
    monkeypatch.setattr(os, "cpu_count", lambda: 98)
    assert job(project).key != at_99.key


def test_a_measurement_computes_with_the_threads_of_its_key(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(project, lambda values: values["profiles"]["tiny"]["train"].pop("threads"))
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    before = torch.get_num_threads()
    try:
        assert measuring.measure(job(project)).mode["threads"] == 3
    finally:
        torch.set_num_threads(before)


def test_a_row_of_numbers_is_a_line_of_the_file(project: Path) -> None:
    one = measuring.measure(job(project))
    matrix, name = [[1, 0, 22], [0, 3, 1]], "[\n  1,\n  2\n] [ 1 ]"
    outcome = one.seeds[1][0].model_copy(update={"shown": {"base": {"confusion": matrix}}})
    one = one.model_copy(update={"seeds": {1: (outcome,)}, "base": (name,)})
    measurements.write(project / "one.json", one)
    lines = [line.strip().rstrip(",") for line in (project / "one.json").read_text().splitlines()]
    assert "[1, 0, 22]" in lines
    assert "[0, 3, 1]" in lines
    assert measurements.parse(project / "one.json") == one


def test_only_what_was_measured_as_it_is_set_now_is_current(project: Path) -> None:
    def known() -> tuple[list[str], int]:
        now = current.read(project, points.plan("one", config.load()))
        return [one.point for one in now.measurements], now.stale

    def change(**values: Any) -> None:
        one.file.write_text(json.dumps({name: v for name, v in (stored | values).items() if v is not ...}))

    assert known() == ([], 0)
    one, other = job(project), job(project, number=1)
    measuring.measure(one)
    measuring.measure(other)
    stored = json.loads(one.file.read_text())
    assert known() == (["rank=1", "rank=2"], 0)
    shorter = [{**stored["trainings"][0], "epochs": 1}]
    few = [{**stored["seeds"]["1"][0], "shots": 2}]
    for changed in (
        {"settings": stored["settings"] | {"templates": "mini"}},
        {"part": "val"},
        {"trainings": shorter},
        {"seeds": {"1": stored["seeds"]["1"]}},
        {"seeds": stored["seeds"] | {"1": few}},
        {"seeds": stored["seeds"] | {"1": []}},
        {"code": "0" * 16},
    ):
        change(**changed)
        assert known() == (["rank=2"], 1), changed
    now = current.read(project, points.plan("one", config.load()))
    assert now.note("one") == (
        "1 of 2 results was measured with other settings or code: `mmlop benchmark one` measures it again."
    )
    assert not now.other_code
    other.file.write_text(json.dumps(json.loads(other.file.read_text()) | {"code": "1" * 16}))
    now = current.read(project, points.plan("one", config.load()))  # where none is of the present code, all are shown
    assert ([one.point for one in now.measurements], now.stale, now.other_code) == (["rank=1", "rank=2"], 0, True)
    assert now.note("one") == (
        "The results were measured before the code changed: `mmlop benchmark one` measures them again."
    )
    measuring.measure(other)
    change(code=..., trainings=...)  # as earlier versions wrote it
    assert known() == (["rank=1", "rank=2"], 0)
    change(point="rank=7")
    assert known() == (["rank=2"], 0)
    change()
    edited(project, lambda values: values["profiles"]["tiny"].update(loss={"text": 3}))
    assert known() == ([], 2)


def test_other_pictures_have_another_key(project: Path) -> None:
    before = job(project).key
    shutil.rmtree(project / "data" / "toy")
    make_data(project, "toy", 9)
    inputs.forget()
    assert job(project).key != before


def test_other_weights_have_another_key(project: Path, tmp_path: Path) -> None:
    same, other = (save_backbone(tmp_path / name, seed) for name, seed in (("same", 0), ("other", 1)))
    params = config.load()
    assert inputs.weights_of(params.profile.architecture, None) == inputs.weights_of(str(same), None)
    assert inputs.weights_of(str(same), None) != inputs.weights_of(str(other), None)
    assert inputs.weights_of("ViT-B-16", "openai") is None
    file = other / "model.safetensors"
    assert inputs.weights_of("ViT-B-16", str(file)) not in (None, inputs.weights_of(str(other), None))


def test_what_another_grid_has_measured_is_taken_under_ones_own_labels(project: Path) -> None:
    first, second = job(project), job(project, "two")
    assert first.key == second.key
    assert not measuring.adopt(second, measuring.measured(project))
    measuring.measure(first)
    stored = json.loads(first.file.read_text())
    first.file.write_text(json.dumps(stored | {"mlflow_run": "abc"}))  # as earlier versions wrote it
    assert measuring.adopt(second, measuring.measured(project))
    labels = {"grid": "two", "point": "image=10", "overrides": {"loss.image": 10}}
    assert json.loads(second.file.read_text()) == stored | labels
    assert measuring.adopt(first, measuring.measured(project))
    assert json.loads(first.file.read_text()) == stored | {"mlflow_run": "abc"}  # not touched
    assert not measuring.adopt(job(project, "two", 1), measuring.measured(project))


def test_stale_and_damaged_results_are_measured_again(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = job(project)
    assert len(measuring.pending(project, points.plan("one", config.load()))) == 2
    measuring.measure(one)
    ((left, _),) = measuring.pending(project, points.plan("one", config.load()))
    assert left.label == "rank=2"
    edited(project, lambda values: values["profiles"]["tiny"].update(loss={"text": 3}))
    assert not measuring.adopt(job(project), measuring.measured(project))
    edited(project, lambda values: values["profiles"]["tiny"].pop("loss"))
    one.file.write_text(one.file.read_text()[:300])
    assert not measuring.adopt(one, measuring.measured(project))
    assert f"{one.file} is damaged" in caplog.text


@pytest.fixture
def runs(project: Path, database: Path) -> Callable[[], list[Any]]:
    """What the project's store holds of the grid `one`, and a run in it that was left half logged."""
    shutil.copy(database, project)
    client = store.connect()
    experiment = client.create_experiment("mmlop-benchmark-one")
    client.create_run(experiment, tags={"mmlop.run": job(project).key})
    return lambda: list(client.search_runs([experiment]))


def test_a_result_is_logged_once_under_its_key_and_its_file_left_alone(
    project: Path, runs: Callable[[], list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    plan, one = points.plan("one", config.load()), job(project)
    measuring.measure(one)
    before = one.file.read_bytes()
    for _ in range(2):
        log = tracking.log_all(project, plan)
        log(one)
        (run,) = runs()
        assert (run.data.tags["mmlop.run"], run.data.tags["mmlop.complete"]) == (one.key, "true")
        assert run.data.tags["mmlop.point"] == "rank=1"
    assert tracking.runs(store.connect(), "one")[1] == {one.key: run.info.run_id}
    assert tracking.runs(store.connect(), "two") == ("", {})
    assert one.file.read_bytes() == before
    assert caplog.text == ""


def test_a_store_that_goes_away_is_a_warning_once(
    project: Path, runs: Callable[[], list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    for number in (0, 1):
        measuring.measure(job(project, number=number))
    log = tracking.Log("one")
    log(job(project))
    with closing(sqlite3.connect(project / "mlflow.db")) as opened:
        opened.execute("DROP TABLE tags")
    log(job(project, number=1))
    log(job(project, number=1))
    assert caplog.text.count("results are on disk, and the same command logs them once it can") == 1


def test_memory_is_the_most_there_was_at_once() -> None:
    """In a process of its own: this one has memory to spare from other tests."""
    script = """
import time
import numpy as np
from mmlop.grids import measuring
with measuring.memory("cpu") as before:
    pass
with measuring.memory("cpu") as peak:
    large = np.ones(40_000_000)  # 320 MB
    time.sleep(10 * measuring.SAMPLED)
    del large
print(peak() - before())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    assert 0.25 < float(done.stdout) < 0.6


# ---- what it will take ----


def point(**overrides: Any) -> Point:
    return points.plan("one", params(vary=[{key.replace("__", "."): [value] for key, value in overrides.items()}])).points[
        0
    ]


@given(st.integers(2, 40), st.integers(1, 5), st.integers(2, 6), st.booleans())
def test_expected_seconds_count_every_picture_looked_at(classes: int, shots: int, epochs: int, together: bool) -> None:
    one = point(
        fewshot__shots=shots,
        train__epochs=epochs,
        train__parallel_seeds=together,
        protocols__few_shot__shots=[1, 3],
        protocols__few_shot__epochs=2,
    )
    pace, tested = Pace((0.5, 0.5), 0.01), 7
    seconds = 0.0
    for _ in range(1 if together else 2):  # seeds
        for count, of_each, long in ((-(-classes // 2), shots, epochs), (classes, 1, 2), (classes, 3, 2)):
            for _ in range(long):
                seconds += 0.5 * count * of_each
    seconds += 0.01 * tested * (1 + 2 * 3)
    assert forecast.seconds_of(one, Size(classes, tested), pace) == pytest.approx(seconds)


def test_more_classes_take_longer_by_a_line() -> None:
    few, many = forecast.SIZES
    pace = Pace((1.0, 2.0), 0.0)
    assert pace.of_picture(few) == pytest.approx(2.0)  # never less than what was measured
    assert pace.of_picture(many) == pytest.approx(2.0)
    assert pace.of_picture(many + 3 * (many - few)) == pytest.approx(5.0)


def test_methods_without_gradient_look_at_each_picture_once() -> None:
    training = Training(BASE_TO_NOVEL, 2, base_only=True)
    assert forecast.looked_at(point(method="zero_shot").params, training, 10) == 10
    assert forecast.looked_at(point(method="mmlop").params, training, 10) == 40  # 4 epochs
    lora = point(method="clip_lora", profiles__mini__train__epochs=None)
    assert forecast.looked_at(lora.params, training, 10) == 500 * 2 * 32


def test_the_device_is_timed(project: Path) -> None:
    plan = points.plan("one", config.load())
    pending = [(one, "toy") for one in plan.points]
    expected = forecast.expected(project, plan, config.load(), pending, 1)
    assert 0 < expected.hours < 0.1
    assert (expected.download, expected.by_hand, expected.untimed) == (0, {}, {})
    assert not expected.much
    pace = forecast.pace_of(plan.points[0].params)
    sizes = Size(4, 4)
    assert expected.hours == pytest.approx(sum(forecast.seconds_of(one, sizes, pace) for one in plan.points) / 3600)


def test_every_method_is_timed(project: Path) -> None:
    edited(project, lambda values: values["grids"]["one"].update(vary=[{"method": list(METHODS)}]))
    plan = points.plan("one", config.load())
    expected = forecast.expected(project, plan, config.load(), [(one, "toy") for one in plan.points], 1)
    assert (len(plan.points), expected.untimed) == (len(METHODS), {})


def test_public_sets_that_are_missing_have_to_be_downloaded(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMLOP_DATA", str(tmp_path / "DATA"))
    edited(
        project, lambda v: v["grids"]["one"].update(datasets=["imagenet", "dtd", "eurosat"], set={"train.epochs": 10_000})
    )
    plan = points.plan("one", config.load())
    pending = [(one, name) for one in plan.points for name in plan.datasets]
    expected = forecast.expected(project, plan, config.load(), pending, 1)
    assert expected.download == pytest.approx(0.63 + 0.09)
    assert list(expected.by_hand) == ["imagenet"]
    assert "0.7 GB to download" in str(expected)
    assert "imagenet by hand: register at https://image-net.org" in str(expected)
    assert expected.much
    (tmp_path / "DATA" / "eurosat" / "2750").mkdir(parents=True)
    assert forecast.expected(project, plan, config.load(), [], 1).download == pytest.approx(0.63)


def test_nobody_is_asked_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    short, long = Expected(0.2, 0, 0, {}, {}), Expected(31.7, 0, 0, {}, {})
    grids.agreement(yes=False)(short)
    grids.agreement(yes=True)(long)
    with pytest.raises(MmlopError, match=r"say --yes to start it \(about 32 hours on this machine\)"):
        grids.agreement(yes=False)(long)
    assert "Expected: about 12 minutes on this machine." in capsys.readouterr().err


# ---- `mmlop benchmark` ----


def bad_grid(values: dict[str, Any]) -> None:
    values["grids"] |= {"bad": {"about": "an error", "datasets": ["nope"]}, "deep": {"vary": [{"prompts.depth": [2, 99]}]}}


def test_a_bad_grid_is_named_and_ends_nothing_for_the_others(project: Path, mmlop: Run) -> None:
    edited(project, bad_grid)
    measuring.measure(job(project))
    listed = {one["name"]: one for one in json.loads(mmlop("benchmark", "--json").out)}
    assert (listed["one"]["points"], listed["one"]["refused"], listed["one"]["missing"]) == (2, 0, 1)
    assert (listed["deep"]["points"], listed["deep"]["refused"], listed["deep"]["missing"]) == (1, 1, 0)
    assert listed["bad"]["about"] == "an error"
    said = "grids.bad.datasets has 'nope', but there is no such data set."
    assert listed["bad"]["error"].startswith(said)
    table = " ".join(mmlop("benchmark").out.split())
    assert "grids.bad.datasets has 'nope'" in table
    assert len(grids.planned("one", config.load(), checked=False).pending) == 1
    with pytest.raises(MmlopError, match=said):
        grids.planned("bad", config.load(), checked=False)


def test_the_means_are_of_current_results_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (0, 1):
        measuring.measure(job(project, number=number))
    file = job(project).file
    file.write_text(json.dumps(json.loads(file.read_text()) | {"code": "0" * 16}))
    plan = points.plan("one", config.load())
    cli_benchmark._show_results(plan, as_json=False)
    said = capsys.readouterr().out
    assert "1 of 2 results was measured with other settings or code" in said
    assert "rank=2" in said
    assert "rank=1" not in said
    cli_benchmark._show_results(plan, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["stale"], list(found["means"]["base_to_novel"])) == (1, ["rank=2"])


def test_the_published_number_is_for_a_method_at_its_own_settings() -> None:
    vary = [{"method": ["mmlop", "coop"]}, {"fewshot.shots": [4]}, {"method": ["coop"], "train.epochs": [2, 3]}]
    plan = points.plan("one", params(vary=vary))
    assert [point.label for point in plan.points] == ["mmlop", "coop", "shots=4", "coop, epochs=2", "coop, epochs=3"]
    eleven = [name for name, spec in public.SPECS.items() if spec.variant_of is None]
    means = {point.label: {"hm": comparison.interval([70.0, 72.0])} for point in plan.points}
    said = cli_benchmark._beside_published(plan, eleven, means)
    assert [line.partition(":")[0] for line in said] == ["mmlop", "coop"]
    assert cli_benchmark._beside_published(plan, eleven[1:], means) == []
