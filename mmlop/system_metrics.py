"""How busy processor, memory, disk and GPU were during a training, as MLflow's "System metrics" tab shows it.

A run of MLflow is made from what a training left on disk, so the samples wait there too: in `.mmlop/system/<dataset>.json`,
beside the hash of the run.json that they belong to.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmlop.files import write_json

logger = logging.getLogger(__name__)

INTERVAL = 10.0  # seconds, as MLflow's own; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL sets another

Sample = dict[str, Any]  # time in milliseconds, and metrics by name
Point = tuple[str, float, int, int]  # name, value, time in milliseconds, step


@contextmanager
def sampled(run_folder: Path, on: bool) -> Iterator[None]:
    """Sample while the block runs, which writes ``run_folder``. Whatever goes wrong with it is a warning."""
    monitors = _monitors() if on else []
    if not monitors:
        yield
        return
    samples: list[Sample] = []
    over = threading.Event()
    thread = threading.Thread(target=_sample, args=(samples, monitors, over), name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    try:
        write_json(_file(run_folder), {"run": _key(run_folder), "samples": samples})
    except OSError as error:
        logger.warning("system metrics of %s could not be kept: %s", run_folder.name, error)


def points(run_folder: Path, key: str) -> list[Point]:
    """What was sampled while the results with the hash ``key`` were made, under MLflow's names; as a rule nothing."""
    try:
        kept = json.loads(_file(run_folder).read_bytes())
        if kept["run"] != key:
            return []
        return [
            (f"system/{name}", float(value), int(sample["time"]), step)
            for step, sample in enumerate(kept["samples"])
            for name, value in sample["metrics"].items()
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("system metrics in %s cannot be read: %r", _file(run_folder), error)
        return []


def _monitors() -> list[Any]:
    """MLflow's, which need no run of their own; none if they cannot be used here."""
    import torch

    from mmlop import store

    store.mlflow()
    metrics = "mlflow.system_metrics.metrics"
    wanted = [("cpu", "CPU"), ("disk", "Disk"), ("network", "Network")] + [("gpu", "GPU")] * torch.cuda.is_available()
    monitors: list[Any] = []
    for module, kind in wanted:
        try:
            monitor = getattr(importlib.import_module(f"{metrics}.{module}_monitor"), f"{kind}Monitor")()
            _collect([monitor])  # use of the processor is counted from the first call on
            monitors.append(monitor)
        except Exception as error:  # no trouble with a machine's counters is worth a training
            logger.warning("use of the %s is not sampled: %s", module, error)
    return monitors


def _sample(samples: list[Sample], monitors: list[Any], over: threading.Event) -> None:
    """The body of the thread. A last sample is taken at the end, so that a short training has one too."""
    try:
        interval = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL") or INTERVAL)
        if interval <= 0:
            raise ValueError(f"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is {interval:g}, and seconds are above 0")
        ended = False
        while not ended:
            ended = over.wait(interval)
            samples.append({"time": int(time.time() * 1000), "metrics": _collect(monitors)})
    except Exception as error:
        logger.warning("system metrics are not sampled any more: %s", error)


def _collect(monitors: list[Any]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        metrics |= monitor.aggregate_metrics()
        monitor.clear_metrics()
    return metrics


def _file(run_folder: Path) -> Path:
    return run_folder.absolute().parent.parent / ".mmlop" / "system" / f"{run_folder.name}.json"


def _key(run_folder: Path) -> str:
    """As ``mmlop.tracking`` finds a run again."""
    return hashlib.sha256((run_folder / "run.json").read_bytes()).hexdigest()
