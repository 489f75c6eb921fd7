"""What a retraining came to: told from the registry before and after it, so that a kill in between loses nothing.

Where the registry stood is kept in a tag of the registered model until the outcome is recorded, and a run that takes over
from a dead one goes on from there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmlop.promotion import DECISION
from mmlop.store import answering, connect, tracking_uri
from mmlop.versions import CHAMPION, Version, ensure, model_name, versions_of

if TYPE_CHECKING:
    from mmlop.champion import Decision

Outcome = Literal["unchanged", "kept", "promoted"]
BEFORE = "mmlop.retrain_before"
MANY = 6  # changes that are named


@dataclass(frozen=True)
class Standing:
    """The champion's version and the newest one; None where there is none."""

    champion: int | None
    newest: int | None


@dataclass(frozen=True)
class Result:
    """What a retraining came to."""

    outcome: Outcome
    sentence: str
    champion: Version | None  # that the challenger met: the one it replaced, or the one that stays
    challenger: Version | None  # None: no adapter was registered
    classes: list[dict[str, Any]]  # name, pictures, and champion's and challenger's accuracy in percent


def begin(dataset: str) -> Standing:
    """Where the registry stands before a retraining, or stood before one that died. Raises TrackingUnavailable."""
    client, name = connect(), model_name(dataset)
    with answering():
        tags = ensure(client, dataset).tags
        if BEFORE in tags:
            return Standing(**json.loads(tags[BEFORE]))
        standing = _standing(versions_of(client, name))
        client.set_registered_model_tag(name, BEFORE, json.dumps(asdict(standing)))
    return standing


def finish(dataset: str, before: Standing, record: Mapping[str, str], decision: Decision | None = None) -> Result:
    """What became of the champion since ``before``, by what the registry says and by the ``decision`` that was made just
    now. It is recorded, with ``record``, as tags ``mmlop.retrain_<key>`` of the registered model and of the new version.

    Raises TrackingUnavailable; recording again changes nothing.
    """
    client, name = connect(), model_name(dataset)
    with answering():
        result = _result(client, dataset, before, versions_of(client, name), decision)
        tags = {
            "mmlop.retrained_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "mmlop.retrain_outcome": result.outcome,
            **{f"mmlop.retrain_{key}": value for key, value in record.items()},
        }
        for key, value in tags.items():
            client.set_registered_model_tag(name, key, value)
            if result.challenger is not None:
                client.set_model_version_tag(name, result.challenger.version, key, value)
    return result


def forget(dataset: str) -> None:
    """Nobody has to go on from where the retraining stood before: it is over."""
    client, name = connect(), model_name(dataset)
    with answering():
        if BEFORE in client.get_registered_model(name).tags:
            client.delete_registered_model_tag(name, BEFORE)


def _result(client: Any, dataset: str, before: Standing, versions: list[Version], decision: Decision | None) -> Result:
    now, of = _standing(versions), {version.version: version for version in versions}
    champion = of.get(now.champion or 0)
    if now.newest == before.newest and not (decision and decision.promotes):
        if decision and decision.outcome in ("too_few", "not_compared"):  # a person is asked, again
            return Result("unchanged", f"{dataset}: {decision.reason}", champion, None, [])
        kept = f"version {champion.version} stays champion" if champion else "there is no champion"
        return Result("unchanged", f"{dataset}: no new adapter, {kept}.", champion, None, [])
    promoted = (decision is not None and decision.promotes) or now.champion == now.newest
    challenger = champion if promoted and champion else versions[-1]
    if decision is not None and decision.outcome != "unchanged":
        reason = decision.reason
    else:
        reason = challenger.tags.get("mmlop.reason", f"Version {challenger.version} is registered and not decided on.")
    outcome: Outcome = "promoted" if promoted else "kept"
    old = of.get(before.champion or 0) if promoted else champion
    return Result(outcome, f"{dataset}: {reason}", old, challenger, _classes(client, challenger))


def _classes(client: Any, challenger: Version) -> list[dict[str, Any]]:
    """Class by class, as the champion rule recorded it; nothing for a first champion."""
    if not any(file.path == DECISION for file in client.list_artifacts(challenger.run_id)):
        return []
    with tempfile.TemporaryDirectory(prefix="mmlop-") as folder:
        file = client.download_artifacts(challenger.run_id, DECISION, folder)
        found: list[dict[str, Any]] = json.loads(Path(file).read_bytes())["classes"]
    return found


def _standing(versions: list[Version]) -> Standing:
    champion = next((one.version for one in versions if CHAMPION in one.aliases), None)
    return Standing(champion, versions[-1].version if versions else None)


def link(version: Version) -> str:
    """A version in MLflow's pages where a server shows them, else its URI."""
    uri = tracking_uri()
    where = f"models:/{version.name}/{version.version}"
    if not uri.startswith(("http://", "https://")):
        return f"`{where}`"
    return f"[{where}]({uri.rstrip('/')}/#/models/{version.name}/versions/{version.version})"


def shown(changes: Mapping[str, str]) -> str:
    """What DVC says changed, in a few words.

    >>> shown({"data/parts": "modified", "params.yaml:train.epochs": "modified"})
    'data/parts modified, params.yaml:train.epochs modified'
    """
    known = [f"{what} {how}" for what, how in changes.items()]
    return ", ".join(known[:MANY]) + (f" and {len(known) - MANY} more" if len(known) > MANY else "")


def markdown(dataset: str, result: Result, changes: Mapping[str, str]) -> str:
    """The outcome for people: what changed, champion against challenger, class by class."""
    lines = [f"## {dataset}: {TITLES[result.outcome]}", "", result.sentence, ""]
    if changes:
        lines += [f"It was trained again, since {shown(changes)}.", ""]
    if result.challenger is not None:
        lines += [*_versions_table(result, result.challenger), ""]
    if result.classes:
        lines += ["| class | pictures | champion % | challenger % | change |", "| --- | ---: | ---: | ---: | ---: |"]
        for one in sorted(result.classes, key=lambda one: one["challenger"] - one["champion"]):
            old, new = one["champion"], one["challenger"]
            lines.append(f"| {one['name']} | {one['pictures']} | {old:.1f} | {new:.1f} | {new - old:+.1f} |")
        lines += ["", "On validation pictures that neither was trained on."]
    return "\n".join(lines).rstrip() + "\n"


TITLES: dict[Outcome, str] = {
    "unchanged": "unchanged",
    "kept": "the champion stays",
    "promoted": "a new champion",
}


def _versions_table(result: Result, challenger: Version) -> list[str]:
    both = [version for version in (result.champion, challenger) if version is not None]
    names = sorted({name for version in both for name in version.metrics})
    rows = [f"| | {' | '.join([*names, 'registered', 'link'])} |", f"| --- |{' ---: |' * len(names)} --- | --- |"]
    roles = ["champion", "challenger"] if len(both) == 2 else ["first"]
    for role, version in zip(roles, both, strict=True):
        values = [f"{version.metrics[name]:.1f}" if name in version.metrics else "" for name in names]
        rows.append(f"| {role} | {' | '.join([*values, version.created, link(version)])} |")
    return rows
