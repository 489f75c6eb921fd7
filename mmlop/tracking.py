"""What a training left on disk, logged to MLflow: a parent run per data set and a child run per seed.

Everything is read from ``runs/<dataset>/``, so that logging can happen right after training or any time later, and logging
the same results twice changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean
from typing import Any

from mmlop import config, figures, system_metrics
from mmlop.errors import MmlopError
from mmlop.files import dump_json
from mmlop.protocols import FEW_SHOT
from mmlop.store import TrackingUnavailable, answering, artifacts_beside, connect, mlflow, tracking_uri, unavailable

__all__ = ["Results", "TrackingUnavailable", "connect", "lineage", "log_run"]

FORMAT = 2  # of run.json
MODEL = "adapter"  # so that runs:/<id>/adapter is the adapter
DECISIVE = (".", *(f":(exclude){name}" for name in ("dvc.lock", "results", "reports")))  # for git: not what trainings write
LONGEST_PARAM, PARAMS_AT_ONCE, METRICS_AT_ONCE = 6000, 100, 1000  # MLflow's limits
NEEDED = {"dataset", "method", "params", "data_hash", "split_hash", "data", "trainable", "classes", "seeds"}
# Not mmlop itself: it is in no package index, and somebody else's package of that name should never be installed.
REQUIREMENTS = ("mlflow", "torch", "torchvision", "open_clip_torch", "safetensors", "pillow", "pydantic")


@dataclass(frozen=True)
class Results:
    """A folder ``runs/<dataset>/``: run.json and the delivered adapter."""

    folder: Path
    record: dict[str, Any]
    key: str  # SHA-256 of run.json: the same results, the same key

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Raises MmlopError if run.json is missing or damaged, or the adapter beside it is another one."""
        from mmlop import adapter as adapters  # imports torch

        file = folder / "run.json"
        try:
            data = file.read_bytes()
            record = json.loads(data)
            results = cls(folder, record, hashlib.sha256(data).hexdigest())
            if record.get("format") != FORMAT:
                raise ValueError(f"format {record.get('format')} instead of {FORMAT}")
            if missing := NEEDED - record.keys():
                raise KeyError(*sorted(missing))
            wanted = results.identity
        except FileNotFoundError:
            raise MmlopError(f"{file} does not exist: train first (`dvc repro train`).") from None
        except (ValueError, KeyError, TypeError) as error:
            raise MmlopError(f"{file} is no record of a training ({error!r}): train again (`dvc repro -f`).") from error
        adapters.Adapter.load(results.adapter)
        if adapters.identity(results.adapter) != wanted:
            raise MmlopError(f"{results.adapter} is not the adapter that {file} describes: train again (`dvc repro -f`).")
        return results

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def dataset(self) -> str:
        return str(self.record["dataset"])

    @property
    def identity(self) -> str:
        return str(self.record["deliverable"]["identity"])

    @property
    def params_hash(self) -> str:
        return hashlib.sha256(dump_json(self.record["params"]).encode()).hexdigest()


def lineage() -> dict[str, str]:
    """Where the code stands: git commit, whether tracked files differ from it (but for what trainings write), and DVC's
    experiment, where there is one."""
    found: dict[str, str] = {}
    if (commit := _git("rev-parse", "HEAD")) is not None:
        found["git_commit"] = commit
        found["git_dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no", "--", *DECISIVE))).lower()
    if experiment := os.environ.get("DVC_EXP_NAME"):
        found["dvc_experiment"] = experiment
    return found


def log_run(run_folder: Path, lineage: Mapping[str, str]) -> str:
    """Log ``runs/<dataset>/`` and return the id of the parent run. ``lineage`` becomes tags ``mmlop.<key>``.

    The parent is found again by the hash of run.json. It is marked complete at the very end, so one that a kill left half
    logged is replaced, and a complete one is left alone.

    Raises MmlopError if the folder is not what a training leaves, TrackingUnavailable if MLflow cannot be used.
    """
    results = Results.load(run_folder)
    client = connect()
    with answering():
        experiment = experiment_of(client, f"mmlop-{results.dataset}")
        runs = client.search_runs([experiment], f"tags.`mmlop.run` = '{results.key}'")
        for run in runs:
            if run.data.tags.get("mmlop.complete") == "true":
                return str(run.info.run_id)
        for run in runs:
            _delete(client, experiment, run.info.run_id)
        parent = _log_parent(client, experiment, results, lineage)
        for seed, trained in results.record["seeds"].items():
            _log_child(client, experiment, parent, results, seed, trained)
        _log_model(parent, results)  # ends the run
        client.set_tag(parent, "mmlop.complete", "true")
    return parent


def log_transfer(file: Path, lineage: Mapping[str, str]) -> str:
    """Log ``results/transfer/<source>/<target>.jsonl`` as one run and return its id; the same file twice is one run.

    Raises MmlopError if it holds no records, TrackingUnavailable if MLflow cannot be used.
    """
    from mmlop import report

    rows, key = report.read(file), hashlib.sha256(file.read_bytes()).hexdigest()
    if not rows:
        raise MmlopError(f"{file} holds no results: run `dvc repro transfer`.")
    about = {name: rows[-1][name] for name in ("source", "dataset", "protocol", "method", "shots", "split")}
    client = connect()
    with answering():
        experiment = experiment_of(client, f"mmlop-{about['source']}-transfer")
        for run in client.search_runs([experiment], f"tags.`mmlop.run` = '{key}'"):
            if run.data.tags.get("mmlop.complete") == "true":
                return str(run.info.run_id)
            client.delete_run(run.info.run_id)
        tags = {f"mmlop.{name}": value for name, value in lineage.items()} | {"mmlop.run": key}
        tags |= {f"mmlop.{name}": str(value) for name, value in about.items()}
        run_id = str(client.create_run(experiment, tags=tags, run_name=f"{about['source']}-{about['dataset']}").info.run_id)
        log_params(client, run_id, about)
        ours = [row for row in rows if row["seed"] is not None]
        points = [(f"seed_{row['seed']}/{row['metric']}", row["value"], 0) for row in ours]
        points += [(f"zero_shot/{row['metric']}", row["value"], 0) for row in rows if row["seed"] is None]
        for metric in sorted({row["metric"] for row in ours}):
            points.append((f"summary/{metric}", mean(row["value"] for row in ours if row["metric"] == metric), 0))
        log_metrics(client, run_id, points)
        client.set_terminated(run_id)
        client.set_tag(run_id, "mmlop.complete", "true")
    return run_id


def experiment_of(client: Any, name: str) -> str:
    if (found := client.get_experiment_by_name(name)) is None:
        beside = artifacts_beside(tracking_uri())
        try:
            return str(client.create_experiment(name, artifact_location=beside and f"{beside}/{name}"))
        except mlflow().exceptions.MlflowException:  # another process was first
            if (found := client.get_experiment_by_name(name)) is None:
                raise
    if found.lifecycle_stage != "active":
        raise unavailable(
            f"the experiment '{name}' was deleted; `mlflow experiments restore -x {found.experiment_id}` brings it back"
        )
    return str(found.experiment_id)


def _delete(client: Any, experiment: str, parent: str) -> None:
    """A run that was logged half way, its children and its model."""
    for child in client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'"):
        client.delete_run(child.info.run_id)
    for model in client.search_logged_models([experiment], filter_string=f"source_run_id = '{parent}'"):
        client.delete_logged_model(model.model_id)
    client.delete_run(parent)


def _log_parent(client: Any, experiment: str, results: Results, lineage: Mapping[str, str]) -> str:
    record = results.record
    tags = {f"mmlop.{key}": value for key, value in lineage.items()} | {
        "mmlop.run": results.key,
        "mmlop.dataset": results.dataset,
        "mmlop.method": record["method"],
        "mmlop.adapter": results.identity,
        "mmlop.data_hash": record["data_hash"],
        "mmlop.split_hash": record["split_hash"],
        "mmlop.params_hash": results.params_hash,
        "mlflow.note.content": f"{record['method']} on {results.dataset}: one child run per seed, summarised here.",
    }
    if "git_commit" in lineage:
        tags["mlflow.source.git.commit"] = lineage["git_commit"]
    run = client.create_run(experiment, tags=tags, run_name=f"{results.dataset}-{results.key[:8]}")
    parent = str(run.info.run_id)
    log_params(client, parent, {**record["params"], "trainable": record["trainable"], "split": record["data"]["split"]})
    groups = ("zero_shot", "summary")
    metrics = {f"{group}/{name}": value for group in groups for name, value in record.get(group, {}).items()}
    deliverable = record["deliverable"]
    metrics |= {f"deliverable/{name}": value for name, value in deliverable["metrics"].items()}
    log_metrics(client, parent, [(name, value, 0) for name, value in metrics.items()])
    _log_points(client, parent, system_metrics.points(results.folder, results.key))
    client.set_tag(parent, "mmlop.seed", str(deliverable["seed"]))
    _log_dataset(client, parent, results)
    _log_files(client, parent, results)
    return parent


def _log_child(
    client: Any, experiment: str, parent: str, results: Results, seed: str, trained: list[dict[str, Any]]
) -> None:
    tags = {"mlflow.parentRunId": parent, "mmlop.dataset": results.dataset, "mmlop.seed": seed}
    child = client.create_run(experiment, tags=tags, run_name=f"seed-{seed}").info.run_id
    log_params(client, child, {**results.record["params"], "seed": int(seed)})
    points: list[tuple[str, float | None, int]] = []
    for result in trained:
        part = f"{result['protocol']}_{result['shots']}" if result["protocol"] == FEW_SHOT else result["protocol"]
        points += [(f"{part}/{name}", value, 0) for name, value in result["metrics"].items()]
        for number, epoch in enumerate(result["history"]):
            # `accuracy` of an epoch is of training pictures; the final one, under that name, of test pictures.
            named = {"train_accuracy" if name == "accuracy" else name: value for name, value in epoch.items()}
            points += [(f"{part}/{name}", value, number) for name, value in named.items()]
    log_metrics(client, child, points)
    client.set_terminated(child)


def log_params(client: Any, run: str, params: Mapping[str, Any]) -> None:
    entity = mlflow().entities.Param
    flat = [entity(name, value[:LONGEST_PARAM]) for name, value in flatten(params).items()]
    for start in range(0, len(flat), PARAMS_AT_ONCE):
        client.log_batch(run, params=flat[start : start + PARAMS_AT_ONCE])


def log_metrics(client: Any, run: str, points: Iterable[tuple[str, float | None, int]]) -> None:
    """Points are (name, value, step); a value of None was not measured."""
    now = int(time.time() * 1000)
    _log_points(client, run, [(name, float(value), now, step) for name, value, step in points if value is not None])


def _log_points(client: Any, run: str, points: Iterable[system_metrics.Point]) -> None:
    measured = [mlflow().entities.Metric(*point) for point in points]
    for start in range(0, len(measured), METRICS_AT_ONCE):
        client.log_batch(run, metrics=measured[start : start + METRICS_AT_ONCE])


def _log_dataset(client: Any, run: str, results: Results) -> None:
    entities, record = mlflow().entities, results.record
    data = record["data"]
    where = str(data.get("source", ""))
    online = where.startswith(("http://", "https://"))
    dataset = entities.Dataset(
        name=results.dataset,
        digest=record["data_hash"][:16],  # MLflow takes up to 36 characters; the whole hash is a tag
        source_type="http" if online else "code",
        source=json.dumps({"url": where} if online else {"tags": {"source": where}}),
        profile=json.dumps(data, sort_keys=True),
    )
    tags = [entities.InputTag("mlflow.data.context", "training")]
    client.log_inputs(run, datasets=[entities.DatasetInput(dataset, tags)])


def _log_files(client: Any, run: str, results: Results) -> None:
    client.log_artifact(run, str(results.folder / "run.json"))
    if (card := results.adapter / "card.html").is_file():  # adapters of earlier versions have none
        client.log_artifact(run, str(card))
    counts = results.record["deliverable"].get("confusion")
    if not counts:
        return
    folder = Path(tempfile.mkdtemp(prefix="mmlop-"))
    try:
        title = f"{results.dataset}: test pictures of all classes, seed {results.record['deliverable']['seed']}"
        figures.confusion_matrix(counts, results.record["classes"], title, folder / "confusion.png")
        client.log_artifact(run, str(folder / "confusion.png"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _log_model(run: str, results: Results) -> None:
    """Requirements are given: MLflow would otherwise find them by loading the model in a child process, which takes longer
    than everything else here."""
    module = mlflow()
    with module.start_run(run_id=run, nested=True):
        module.pyfunc.log_model(
            name=MODEL,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"adapter": str(results.adapter)},
            pip_requirements=[f"{name}=={found}" for name in REQUIREMENTS if (found := _version(name))],
        )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values under dotted names, as text.

    >>> flatten({"prompts": {"rank": 1, "form": "shared"}, "train": {"flip": True}, "seeds": [1, 2]})
    {'prompts.rank': '1', 'prompts.form': 'shared', 'train.flip': 'true', 'seeds': '[1, 2]'}
    """
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says about the project; None without git, outside a repository, or before the first commit."""
    try:
        done = subprocess.run(["git", *arguments], cwd=config.root(), capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
