"""System metrics are sampled while a training works and end up at its run in MLflow, and their failure costs nothing."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from make_run import make_run

from mmlop import registry, store, system_metrics, tracking

pytest_plugins = ["project_fixtures"]

NAMES = {
    *("system/cpu_utilization_percentage", "system/system_memory_usage_megabytes", "system/system_memory_usage_percentage"),
    *("system/disk_usage_percentage", "system/disk_usage_megabytes", "system/disk_available_megabytes"),
    *("system/network_receive_megabytes", "system/network_transmit_megabytes"),
}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")


def work(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(10_000))


def test_samples_are_at_the_run_with_their_times(project: Path, backbone: Path) -> None:
    folder = project / "runs" / "toy"
    before = time.time()
    with system_metrics.sampled(folder, on=True):
        make_run(project, "toy", backbone)
        work(1.0)
    after = time.time()
    run_id = registry.publish(folder, tracking.lineage()).run_id

    client = store.connect()
    assert {name for name in client.get_run(run_id).data.metrics if name.startswith("system/")} >= NAMES
    history = client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    assert len(history) >= 4
    assert [point.step for point in history] == list(range(len(history)))
    assert all(before <= point.timestamp / 1000 <= after for point in history)
    assert history[0].timestamp < history[-1].timestamp
    assert max(point.value for point in history) > 10  # one of the cores was busy


def test_off_is_nothing_at_all(project: Path, backbone: Path) -> None:
    folder = project / "runs" / "toy"
    with system_metrics.sampled(folder, on=False):
        make_run(project, "toy", backbone)
    assert not (project / ".mmlop").exists()
    run_id = registry.publish(folder, tracking.lineage()).run_id
    assert not [name for name in store.connect().get_run(run_id).data.metrics if name.startswith("system/")]


def test_samples_of_another_training_are_not_taken(project: Path, backbone: Path) -> None:
    folder = project / "runs" / "toy"
    with system_metrics.sampled(folder, on=True):
        make_run(project, "toy", backbone, seed=1)
    make_run(project, "toy", backbone, seed=2)  # not sampled
    run_id = registry.publish(folder, tracking.lineage()).run_id
    assert not [name for name in store.connect().get_run(run_id).data.metrics if name.startswith("system/")]


def test_a_training_that_fails_leaves_no_samples(project: Path) -> None:
    with pytest.raises(ZeroDivisionError), system_metrics.sampled(project / "runs" / "toy", on=True):
        _ = 1 / 0
    assert not (project / ".mmlop" / "system" / "toy.json").exists()


@pytest.mark.parametrize("interval", ["soon", "-1"])
def test_trouble_with_sampling_is_a_warning(
    interval: str, project: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", interval)
    with caplog.at_level(logging.WARNING), system_metrics.sampled(project / "runs" / "toy", on=True):
        make_run(project, "toy", backbone)
    assert "system metrics are not sampled" in caplog.text
    assert registry.publish(project / "runs" / "toy", tracking.lineage()).version is not None


def test_a_place_that_cannot_be_written_is_a_warning(
    project: Path, backbone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (project / ".mmlop").write_text("no folder")
    with caplog.at_level(logging.WARNING), system_metrics.sampled(project / "runs" / "toy", on=True):
        make_run(project, "toy", backbone)
    assert "could not be kept" in caplog.text


@pytest.mark.parametrize("spoiled", ["{", "[]", '{"run": "KEY", "samples": [{"time": 1}]}'])
def test_a_damaged_file_costs_no_publishing(
    spoiled: str, project: Path, backbone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_run(project, "toy", backbone)
    file = project / ".mmlop" / "system" / "toy.json"
    file.parent.mkdir(parents=True)
    file.write_text(spoiled.replace("KEY", tracking.Results.load(folder).key))
    assert registry.publish(folder, tracking.lineage()).version is not None
    assert "cannot be read" in caplog.text
    assert json.loads((folder / "run.json").read_text())["dataset"] == "toy"
