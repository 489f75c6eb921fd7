"""Registered adapters: found by URI, added once each, and the champion among them.

``mmlop-<dataset>`` is the registered model of a data set; the version with the alias ``champion`` is the one in use, and
the one it replaced is ``previous``. MLflow and torch are imported by the first call that needs them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlop import config
from mmlop.errors import MmlopError, listing
from mmlop.resolving import resolve
from mmlop.store import TrackingUnavailable, answering, connect, insisting, mlflow
from mmlop.tracking import Results, lineage, log_run, log_transfer
from mmlop.versions import Version, ensure, model_name, names, version_of, versions_of

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
    "sync",
    "versions",
]

CHAMPION, PREVIOUS = "champion", "previous"
OUTCOME = "mmlop.decision"  # tag of a version that was decided on
FORCED = "mmlop.forced"  # tag of a version that a person decided on: the reason
DECISION = "decision.json"  # how champion and challenger scored, with the challenger's run
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


def promote(
    dataset: str,
    version: int,
    settings: config.Champion,
    force: str | None = None,
    root: Path | None = None,
    device: str = "cpu",
) -> Decision:
    """Let a version challenge the champion, by the rule in ``mmlop.champion``; ``force``, a reason, decides by hand.

    ``root`` is the project whose data they are compared on (the current one for None). The decision is stored as tags
    of the version. Raises MmlopError if there is no such version.
    """
    if force is not None and not force.strip():
        raise MmlopError("--force needs a reason, which is stored with the version.")
    client, name = connect(), model_name(dataset)
    with answering():
        challenger = version_of(client, name, str(version))
        champion = next((one for one in versions_of(client, name) if CHAMPION in one.aliases), None)
        decision = _decide(client, champion, challenger, settings, force, root or config.root(), device)
        if decision.challenge is not None:
            client.log_dict(challenger.run_id, asdict(decision.challenge), DECISION)
        # The tags of a champion go on saying how it became one, and what could not be compared may be later.
        tags = _decision_tags(decision, force) if decision.outcome not in ("unchanged", "not_compared") else {}
        outcome = tags.pop(OUTCOME, None)
        if outcome is not None and OUTCOME in challenger.tags:  # of an earlier decision
            client.delete_model_version_tag(name, challenger.version, OUTCOME)
        for key, value in tags.items():
            client.set_model_version_tag(name, challenger.version, key, value)
        if decision.promotes:
            if champion is not None and champion.version != challenger.version:
                client.set_registered_model_alias(name, PREVIOUS, champion.version)
            client.set_registered_model_alias(name, CHAMPION, challenger.version)
        if outcome is not None:  # last: what a kill cut off before is decided on again
            client.set_model_version_tag(name, challenger.version, OUTCOME, outcome)
    return decision


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
        made = client.create_model_version(name, f"models:/{model}", run_id, tags=tags, model_id=model)
        return version_of(client, name, str(made.version)), True


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


def _decide(
    client: Any,
    champion: Version | None,
    challenger: Version,
    settings: config.Champion,
    force: str | None,
    root: Path,
    device: str,
) -> Decision:
    """What becomes of a challenger. A champion that cannot be scored here keeps its place until a person decides."""
    from mmlop import champion as rule
    from mmlop.data import datasets

    new = challenger.version
    if champion is None:
        return rule.Decision("first", f"Version {new} is the first champion.")
    old = champion.version
    if old == new:
        if (reason := champion.tags.get("mmlop.reason")) and OUTCOME not in champion.tags:  # cut off in `promote`
            replaced = champion.tags.get("mmlop.compared_with")
            if replaced is None:
                return rule.Decision("first", reason)
            return rule.Decision("forced" if FORCED in champion.tags else "promoted", reason, int(replaced))
        return rule.Decision("unchanged", f"Version {new} is the champion already.", old)
    if force is not None:
        return rule.Decision("forced", f"Version {new} replaces version {old} as champion by hand: {force.strip()}", old)
    name, dataset = champion.name, champion.name.removeprefix(model_name(""))
    try:
        seen = _trained_on(client, champion) | _trained_on(client, challenger)
        before, after = (resolve(f"models:/{name}/{number}") for number in (old, new))
        data = datasets.fetched(dataset, config.load(root / "params.yaml"), root)
        found = rule.challenge(before, after, data, seen, device)
    except TrackingUnavailable:
        raise
    except MmlopError as error:
        by_hand = f"`mmlop registry promote {dataset} {new} --force REASON` decides by hand"
        reason = (
            f"Version {old} stays champion, since the two cannot be compared here: {str(error).rstrip('.')}; {by_hand}."
        )
        return rule.Decision("not_compared", reason, old)
    return rule.decide(found, settings, dataset, old, new)


def _trained_on(client: Any, version: Version) -> set[str]:
    """Content hashes of the pictures that an adapter was trained on, as its run recorded them."""
    with tempfile.TemporaryDirectory(prefix="mmlop-") as folder:
        try:
            file = client.download_artifacts(version.run_id, "run.json", folder)
            return set(json.loads(Path(file).read_bytes())["deliverable"]["trained_on"])
        except (mlflow().exceptions.MlflowException, OSError, ValueError, KeyError) as error:
            raise MmlopError(
                f"what version {version.version} of {version.name} was trained on is not known any more, its run "
                f"'{version.run_id}' has no readable run.json"
            ) from error


def _decision_tags(decision: Decision, force: str | None) -> dict[str, str]:
    tags = {OUTCOME: decision.outcome, "mmlop.reason": decision.reason}
    if decision.champion is not None:
        tags["mmlop.compared_with"] = str(decision.champion)
    if force is not None:
        tags[FORCED] = force.strip()
    if decision.challenge is not None:
        found = decision.challenge.comparison
        tags["mmlop.p_value"] = f"{found.p_value:.6g}"
        tags["mmlop.pictures"] = str(found.pictures)
        tags["mmlop.champion_accuracy"] = f"{found.champion:.4f}"
        tags["mmlop.challenger_accuracy"] = f"{found.challenger:.4f}"
    return tags


def _lock_file(dataset: str) -> Path:
    file = config.home() / ".mmlop" / f"publish-{dataset}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
