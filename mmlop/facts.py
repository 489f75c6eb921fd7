"""What is known of an adapter, from its files and, where it is in MLflow, from its run and version; and of two adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlop import config, ledger, trained_on
from mmlop.errors import MmlopError
from mmlop.ledger import Entry
from mmlop.resolving import resolve
from mmlop.store import TrackingUnavailable, answering, connect
from mmlop.verification import changes, leaves
from mmlop.versions import Version, named

if TYPE_CHECKING:
    from mmlop.adapter import AdapterInfo
    from mmlop.champion import Challenge

Pairs = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Facts:
    """An adapter, and what is known of it. Without a version it is not registered; without a run id it is a mere folder."""

    uri: str
    folder: Path
    info: AdapterInfo
    size: int  # bytes of the factors
    run_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)  # of the version or the run: lineage and decision
    version: Version | None = None
    history: tuple[Entry, ...] = ()  # of its ledger: how it became champion, and ceased to be

    @property
    def lineage(self) -> dict[str, str]:
        """Where it comes from, of what is known."""
        origin, tags = self.info.origin, self.tags
        commit, dirty = tags.get("mmlop.git_commit", ""), tags.get("mmlop.git_dirty") == "true"
        found = {
            "git commit": f"{commit}, with changes that are in no commit" if commit and dirty else commit,
            "data": origin.data_hash,
            "split": origin.split_hash,
            "shots": str(origin.shots),
            "seed": str(origin.seed),
            "mode": ", ".join(f"{key} {value}" for key, value in leaves(origin.mode).items()),
            "params": tags.get("mmlop.params_hash", ""),
            "DVC experiment": tags.get("mmlop.dvc_experiment", ""),
            "flow run": tags.get("mmlop.flow_run_id", ""),
            "MLflow run": self.run_id,
        }
        return {key: value for key, value in found.items() if value}

    def as_dict(self) -> dict[str, Any]:
        """adapter.json, and beside its keys what else is known."""
        return self.info.model_dump(mode="json") | {
            "uri": self.uri,
            "size": self.size,
            "trainable": self.info.shape.trainable,
            "run_id": self.run_id,
            "tags": dict(self.tags),
            "registered": self.version and self.version.as_dict(),
            "history": [asdict(entry) for entry in self.history],
        }


@dataclass(frozen=True)
class Pair:
    """Two adapters beside each other."""

    one: Facts
    other: Facts
    params: Pairs  # what differs, by its dotted name; None where one has no such key
    data: Pairs
    sentence: str  # what a paired test says of them, or why there is none
    test: Challenge | None = None  # ``one`` as the champion, ``other`` as its challenger

    def as_dict(self) -> dict[str, Any]:
        return {
            "adapters": [self.one.as_dict(), self.other.as_dict()],
            "params": self.params,
            "data": self.data,
            "sentence": self.sentence,
            "test": self.test and asdict(self.test),
        }


def of(uri: str) -> Facts:
    """What is known of ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``runs:/ID/adapter`` or a folder.

    Raises MmlopError, listing what exists, if there is no such thing; TrackingUnavailable if MLflow cannot be used.
    """
    from mmlop.adapter import Adapter

    folder = resolve(uri)
    info = Adapter.load(folder).info
    size = (folder / "adapter.safetensors").stat().st_size
    scheme, _, rest = uri.partition(":/")
    if scheme == "runs":
        run_id = rest.strip("/").partition("/")[0]
        client = connect()
        with answering():
            return Facts(uri, folder, info, size, run_id, client.get_run(run_id).data.tags)
    if scheme != "models":
        return Facts(uri, folder, info, size)
    client = connect()
    with answering():
        version = named(client, rest.strip("/"))
        entries = ledger.read(client, version.name).entries
    mine = tuple(entry for entry in entries if version.version in (entry.old, entry.new))
    return Facts(uri, folder, info, size, version.run_id, version.tags, version, mine)


def compare(one: Facts, other: Facts, root: Path, device: str = "cpu") -> Pair:
    """Where two adapters differ, and, if the project at ``root`` has their data set, which is the better one: the test of
    ``mmlop.champion`` on validation pictures that neither was trained on. Raises TrackingUnavailable."""
    first, second = one.info.origin, other.info.origin
    params, data = changes(first.params, second.params), changes(_data(one.info), _data(other.info))
    try:
        test = _tested(one, other, root, device)
        settings = config.load(root / "params.yaml").champion
    except TrackingUnavailable:
        raise
    except MmlopError as error:
        sentence = f"The two cannot be compared on pictures here: {str(error).rstrip('.')}."
        return Pair(one, other, params, data, sentence)
    return Pair(one, other, params, data, _sentence(one, other, test, settings), test)


def _data(info: AdapterInfo) -> dict[str, Any]:
    origin = info.origin
    return {
        "data set": origin.dataset,
        "data": origin.data_hash,
        "split": origin.split_hash,
        "shots": origin.shots,
        "seed": origin.seed,
        "classes": list(info.classes),
        "template": info.template,
        "backbone": f"{info.backbone.name}, {info.backbone.weights}, fingerprint {info.backbone.fingerprint}",
    }


def _tested(one: Facts, other: Facts, root: Path, device: str) -> Challenge:
    """Raises MmlopError, saying what is missing."""
    from mmlop import champion as rule
    from mmlop.data import datasets

    names = [adapter.info.origin.dataset for adapter in (one, other)]
    if names[0] != names[1]:
        raise MmlopError(f"{one.uri} is of the data set {names[0]}, {other.uri} of {names[1]}")
    data = datasets.fetched(names[0], config.load(root / "params.yaml"), root)
    return rule.challenge(one.folder, other.folder, data, _seen(one) | _seen(other), device)


def _seen(adapter: Facts) -> set[str]:
    if not adapter.run_id:
        return trained_on.of_folder(adapter.folder)
    client = connect()
    with answering():
        return trained_on.of_run(client, adapter.run_id, adapter.uri)


def _sentence(one: Facts, other: Facts, test: Challenge, settings: config.Champion) -> str:
    found = test.comparison
    if found.pictures < settings.pictures:
        return (
            f"Which one is better cannot be told: there are {found.pictures} validation pictures that neither was trained "
            f"on, and {settings.pictures} are needed."
        )
    better = found.challenger > found.champion and found.p_value < settings.level
    return (
        f"{other.uri} is {'' if better else 'not shown to be '}better than {one.uri}: {found.challenger:.1f} against "
        f"{found.champion:.1f} % right on {found.pictures} validation pictures that neither was trained on, p = "
        f"{found.p_value:.2g}, level {settings.level:g}."
    )
