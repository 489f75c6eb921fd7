"""Grids of measurements: which points there are, what a measurement is known by, what it holds, what it will take."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from make_run import make_data, save_backbone

from mmlop import config, costs, inputs, measurements, measuring, points
from mmlop.config import Params
from mmlop.costs import Expected, Pace, Size
from mmlop.data import splits
from mmlop.errors import MmlopError
from mmlop.experiment import Bench
from mmlop.points import Point
from mmlop.protocols import BASE_TO_NOVEL, Training
from pipelines import grid as grids

pytest_plugins = ["project_fixtures"]


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
    fitting = grids.fitting(plan, checked=True)
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
        ({"datasets": ["mini_digit"]}, "There is no data set 'mini_digit'. Known: mini_digits"),
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
        ({"vary": [{"method": "coop"}]}, "grids.one.vary.0.method is 'coop': input should be a valid tuple"),
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
    profile = {"architecture": str(backbone), "train": {"epochs": 2, "batch_size": 2, "threads": 1}}
    values = {
        "datasets": ["toy"],
        "sources": {"toy": {"folder": str(empty_project / "data" / "toy")}},
        "backbone": "tiny",
        "fewshot": {"shots": 1, "seeds": [1, 2]},
        "prompts": {"tokens": 2, "depth": 2},
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
    assert stored["mlflow_run"] is None
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
        lambda v: v["loss"].update(text=3),
        lambda v: v["fewshot"].update(seeds=[2, 1]),
        lambda v: v["fewshot"].update(shots=2),
        lambda v: v.update(protocols={"few_shot": {"shots": [1]}}),
        lambda v: v["profiles"]["tiny"].update(precision="bf16"),
        lambda v: v["profiles"]["tiny"]["train"].update(threads=2),
    ],
    ids=["loss", "seeds", "shots", "protocol", "precision", "threads"],
)
def test_what_decides_a_result_is_in_its_key(project: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edited(project, lambda values: values.update(loss={}))
    before = job(project).key
    edited(project, lambda values: values.update(champion={"level": 0.1}, run={"concurrency": 3}))
    assert job(project).key == before
    edited(project, change)
    assert job(project).key != before


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
    found = measuring.measure(first)
    stored = found | {"mlflow_run": "abc"}
    first.file.write_text(json.dumps(stored))
    assert measuring.adopt(second, measuring.measured(project))
    labels = {"grid": "two", "point": "image=10", "overrides": {"loss.image": 10}, "mlflow_run": None}
    assert json.loads(second.file.read_text()) == stored | labels
    assert measuring.adopt(first, measuring.measured(project))
    assert json.loads(first.file.read_text()) == stored  # not touched
    assert not measuring.adopt(job(project, "two", 1), measuring.measured(project))


def test_stale_and_damaged_results_are_measured_again(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = job(project)
    assert len(measuring.pending(project, points.plan("one", config.load()))) == 2
    measuring.measure(one)
    ((left, _),) = measuring.pending(project, points.plan("one", config.load()))
    assert left.label == "rank=2"
    edited(project, lambda values: values.update(loss={"text": 3}))
    assert not measuring.adopt(job(project), measuring.measured(project))
    edited(project, lambda values: values.pop("loss"))
    one.file.write_text(one.file.read_text()[:300])
    assert not measuring.adopt(one, measuring.measured(project))
    assert f"{one.file} is no measurement" in caplog.text


def test_memory_is_the_most_there_was_at_once() -> None:
    with measuring.memory("cpu") as before:
        pass
    with measuring.memory("cpu") as peak:
        large = np.ones(40_000_000)  # 320 MB
        time.sleep(4 * measuring.SAMPLED)
        del large
    assert 0.25 < peak() - before() < 0.6


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
    assert costs.seconds_of(one, Size(classes, tested), pace) == pytest.approx(seconds)


def test_more_classes_take_longer_by_a_line() -> None:
    few, many = costs.SIZES
    pace = Pace((1.0, 2.0), 0.0)
    assert pace.of_picture(few) == pytest.approx(2.0)  # never less than what was measured
    assert pace.of_picture(many) == pytest.approx(2.0)
    assert pace.of_picture(many + 3 * (many - few)) == pytest.approx(5.0)


def test_methods_without_gradient_look_at_each_picture_once() -> None:
    training = Training(BASE_TO_NOVEL, 2, base_only=True)
    assert costs.looked_at(point(method="zero_shot").params, training, 10) == 10
    assert costs.looked_at(point(method="mmlop").params, training, 10) == 40  # 4 epochs
    lora = point(method="clip_lora", profiles__mini__train__epochs=None)
    assert costs.looked_at(lora.params, training, 10) == 500 * 2 * 32


def test_the_device_is_timed(project: Path) -> None:
    plan = points.plan("one", config.load())
    pending = [(one, "toy") for one in plan.points]
    expected = costs.expected(project, plan, config.load(), pending, 1)
    assert 0 < expected.hours < 0.1
    assert (expected.download, expected.by_hand, expected.untimed) == (0, {}, {})
    assert not expected.much
    pace = costs.pace_of(plan.points[0].params)
    sizes = Size(4, 4)
    assert expected.hours == pytest.approx(sum(costs.seconds_of(one, sizes, pace) for one in plan.points) / 3600)


def test_public_sets_that_are_missing_have_to_be_downloaded(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMLOP_DATA", str(tmp_path / "DATA"))
    edited(
        project, lambda v: v["grids"]["one"].update(datasets=["imagenet", "dtd", "eurosat"], set={"train.epochs": 10_000})
    )
    plan = points.plan("one", config.load())
    pending = [(one, name) for one in plan.points for name in plan.datasets]
    expected = costs.expected(project, plan, config.load(), pending, 1)
    assert expected.download == pytest.approx(0.63 + 0.09)
    assert list(expected.by_hand) == ["imagenet"]
    assert "0.7 GB to download" in str(expected)
    assert "imagenet by hand: register at https://image-net.org" in str(expected)
    assert expected.much
    (tmp_path / "DATA" / "eurosat" / "2750").mkdir(parents=True)
    assert costs.expected(project, plan, config.load(), [], 1).download == pytest.approx(0.63)


def test_nobody_is_asked_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    short, long = Expected(0.2, 0, 0, {}, {}), Expected(31.7, 0, 0, {}, {})
    grids.agreement(yes=False)(short)
    grids.agreement(yes=True)(long)
    with pytest.raises(MmlopError, match=r"say --yes to start it \(about 32 hours on this machine\)"):
        grids.agreement(yes=False)(long)
    assert "Expected: about 12 minutes on this machine." in capsys.readouterr().err
