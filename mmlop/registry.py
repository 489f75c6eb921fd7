"""Registered adapters: found by URI, added once each, and the champion among them.

``mmlop-<dataset>`` is the registered model of a data set; the version with the alias ``champion`` is the one in use, and
the one it replaced is ``previous``. MLflow and torch are imported by the first call that needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmlop import config
from mmlop.errors import MmlopError, listing
from mmlop.promotion import finish, promote, rollback
from mmlop.resolving import resolve
from mmlop.store import TrackingUnavailable, answering, connect, insisting
from mmlop.tracking import Results, lineage, log_run, log_transfer
from mmlop.versions import OUTCOME, Version, ensure, model_name, names, version_of, versions_of

if TYPE_CHECKING:
    from mmlop.champion import Decision

__all__ = [
    "Published",
    "Version",
    "model_name",
    "promote",
    "publish",
    "publish_transfer",
    "register",
    "resolve",
    "rollback",
    "sync",
    "versions",
]

LONGEST = 5000  # characters of a description that MLflow keeps
LINEAGE = ("mmlop.git_commit", "mmlop.git_dirty", "mmlop.dvc_experiment", "mmlop.flow_run_id")  # tags, run to version


@dataclass(frozen=True)
class Published:
    """What became of the results of one data set."""

    dataset: str
    run_id: str
    version: Version | None = None  # None: logged only
    new: bool = False  # the version was registered just now
    decision: Decision | None = None  # None: not registered, or decided on before

    @property
    def sentence(self) -> str:
        if self.version is None:
            return f"{self.dataset}: logged as run {self.run_id}."
        where = f"{self.version.name} version {self.version.version}"
        if self.decision is None:
            return f"{self.dataset}: already registered as {where}."
        return f"{self.dataset}: {'' if self.new else 'already '}registered as {where}. {self.decision.reason}"


def versions(dataset: str | None = None) -> list[Version]:
    """Every registered adapter (of one data set), oldest first. Raises MmlopError if the data set has none."""
    client = connect()
    with answering():
        chosen = [model_name(dataset)] if dataset else names(client)
        return [version for name in chosen for version in versions_of(client, name)]


def register(run_folder: Path, run_id: str) -> Version:
    """Register the adapter that run ``run_id`` has logged; one that is registered already is returned as it is."""
    return _register(Results.load(run_folder), run_id)[0]


@insisting
def publish(run_folder: Path, lineage: Mapping[str, str], register: bool = True) -> Published:
    """Log ``runs/<dataset>/`` and, with ``register``, register its adapter and let the champion rule decide on it.

    Everything is done once: the same results, published again, change nothing. Raises TrackingUnavailable, having lost
    nothing, if MLflow cannot be used.
    """
    from filelock import FileLock

    results = Results.load(run_folder)
    root = run_folder.absolute().parent.parent
    with FileLock(_lock_file(results.dataset)):  # two at once would each find nothing logged yet
        run_id = log_run(run_folder, lineage)
        if not register:
            return Published(results.dataset, run_id)
        version, new = _register(results, run_id)
        if OUTCOME in version.tags:
            finish(results.dataset)
            return Published(results.dataset, run_id, version)
        params = config.load(root / "params.yaml")
        decision = promote(results.dataset, version.version, params.champion, root=root, device=params.device)
    return Published(results.dataset, run_id, version, new, decision)


def sync(root: Path, dataset: str | None = None) -> list[Published]:
    """Publish what is in ``root/runs`` and ``root/results/transfer`` (of one data set) and not yet in MLflow.

    Raises MmlopError, once all others are done, naming every data set whose results cannot be published.
    """
    found = {file.parent.name: file.parent for file in sorted((root / "runs").glob("*/run.json"))}
    moved = sorted((root / "results" / "transfer").glob(f"{dataset or '*'}/*.jsonl"))
    if dataset is not None and dataset not in found and not moved:
        there = listing(found, dataset) or "nothing"
        raise MmlopError(f"runs/{dataset}/run.json does not exist (runs/ holds {there}): train it first, or `dvc pull`.")
    connect()  # a server that is down should be one sentence, not one per data set
    where = lineage()
    waiting: list[Callable[[], Published]] = [
        *(partial(publish, folder, where) for name, folder in found.items() if dataset in (None, name)),
        *(partial(publish_transfer, file, where) for file in moved),
    ]
    done: list[Published] = []
    failed: list[str] = []
    for one in waiting:
        try:
            done.append(one())
        except TrackingUnavailable:
            raise
        except MmlopError as error:
            failed.append(str(error))
    if failed:
        raise MmlopError(" ".join(failed))
    return done


@insisting
def publish_transfer(file: Path, lineage: Mapping[str, str]) -> Published:
    """Log ``results/transfer/<source>/<target>.jsonl``, once."""
    return Published(f"{file.parent.name} -> {file.stem}", log_transfer(file, lineage))


def _register(results: Results, run_id: str) -> tuple[Version, bool]:
    """The version of an adapter, and whether it is new."""
    client = connect()
    with answering():
        name = ensure(client, results.dataset).name
        for version in versions_of(client, name):
            if version.identity == results.identity:
                return version, False
        run = client.get_run(run_id)
        model = run.outputs.model_outputs[0].model_id
        inherited = {key: run.data.tags[key] for key in LINEAGE if key in run.data.tags}
        tags = inherited | _version_tags(results)
        made = client.create_model_version(
            name, f"models:/{model}", run_id, tags=tags, model_id=model, description=_description(results)
        )
        return version_of(client, name, str(made.version)), True


def _description(results: Results) -> str:
    """The adapter's card, as MLflow's pages show it."""
    card = (results.adapter / "README.md").read_text(encoding="utf-8")
    return card if len(card) <= LONGEST else "See card.html among the artifacts of the run."


def _version_tags(results: Results) -> dict[str, str]:
    record = results.record
    deliverable = record["deliverable"]
    return {f"mmlop.metric.{key}": f"{value}" for key, value in deliverable["metrics"].items() if value is not None} | {
        "mmlop.adapter": results.identity,
        "mmlop.run": results.key,
        "mmlop.data_hash": record["data_hash"],
        "mmlop.split_hash": record["split_hash"],
        "mmlop.params_hash": results.params_hash,
        "mmlop.method": record["method"],
        "mmlop.seed": str(deliverable["seed"]),
        "mmlop.trainable": str(record["trainable"]),
        "mmlop.size": str((results.adapter / "adapter.safetensors").stat().st_size),
    }


def _lock_file(dataset: str) -> Path:
    file = config.home() / ".mmlop" / f"publish-{dataset}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
