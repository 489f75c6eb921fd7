"""The ledger of a data set's champions: who replaced whom, in order, and what makes promoting safe when two do it at once.

MLflow sets an alias to whatever was written last: of two that promote at the same time the later one wins unseen, and
`previous` names a version that the winner never met. Params of a run, though, are written once. (key, run) is the primary
key of their table, so that of two that log another value under the same name the database lets one through, whichever
process, machine or server they come from, and also where the run has ended. So champions are numbered: entry n is the
param ``mmlop.champion.<n>`` of a run, and whoever logs it has claimed it. It is the run of the data set's oldest
registered version whose run is still there: the same for everybody, as long as nobody deletes that version or its run.

Aliases follow the ledger:

1. Whoever promotes first brings the aliases to where the last entry wants them, if its process was killed before it could
   (`settled`). So every entry starts where the one before ended.
2. It decides, and claims the next number (`claim`). If somebody else has that number, the decision was made against a
   champion that is none any more, and is made again.
3. It sets `previous`, `champion` and the tags of the version, then reads the ledger again. If there is a newer entry by
   now, it may just have overwritten that one's aliases, and so sets them again, until no newer one has come meanwhile;
   then it marks the last entry as done, by a tag named like the param.

Why this is enough: take the last time that anybody writes an alias, for entry n. The writer reads the ledger after it. Had
it seen a newer entry it would write again; and whoever claims a newer one later writes later. So there is no newer one,
and the alias is what the last entry says. A process that is killed on the way leaves an entry that is not marked as done
(a newer one, or its own), and the next one finishes it.

An alias that somebody moves by hand, in MLflow's pages, stays: the last entry is marked as done, nobody writes, and the
next entry starts from where the alias is. What looks the same is a process that stands still just before it sets an alias,
for as long as others need for a whole promotion, and is then killed after it has set it and before it reads the ledger.
Deleting the version or the run that holds the ledger begins a new one at the present alias; nobody should promote in that
moment. Whoever gives MLflow a read replica has to promote without it: reads must see what was written.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mmlop.errors import MmlopError
from mmlop.store import mlflow
from mmlop.versions import CHAMPION, OUTCOME, PREVIOUS, REASON, Version, decided, versions_of

PREFIX = "mmlop.champion."
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow says of a run that is not there


@dataclass(frozen=True)
class Entry:
    """Version ``new`` became champion in place of ``old``."""

    number: int  # from 1
    old: int | None  # None: there was no champion
    new: int
    tags: dict[str, str]  # of the new champion: how it was decided
    at: str  # ISO 8601, UTC

    @property
    def outcome(self) -> str:
        return self.tags.get(OUTCOME, "")

    @property
    def reason(self) -> str:
        return self.tags.get(REASON, "")


@dataclass(frozen=True)
class Ledger:
    """The ledger, and the versions as they are after it was read."""

    run_id: str | None  # that holds it; None: no version has a run any more
    entries: tuple[Entry, ...]
    versions: tuple[Version, ...]  # oldest first
    finished: Entry | None = None  # a promotion whose aliases were set just now

    @property
    def champion(self) -> Version | None:
        return next((version for version in self.versions if CHAMPION in version.aliases), None)

    @property
    def previous(self) -> Version | None:
        return next((version for version in self.versions if PREVIOUS in version.aliases), None)


def read(client: Any, name: str) -> Ledger:
    """The ledger as it is. Raises MmlopError if there is no such model."""
    run = _home(client, name)
    return Ledger(run and run.info.run_id, _entries(name, run)[0], tuple(versions_of(client, name)))


def settled(client: Any, name: str) -> Ledger:
    """The ledger, once the aliases are where its last entry wants them, or where somebody has moved them since.

    The versions are read last: what was claimed in between makes the next claim fail, so that nobody takes a newer
    champion for one that was set by hand. Raises as `read`.
    """
    run, applied = _home(client, name), None
    while True:
        entries, done = _entries(name, run)
        last = entries[-1] if entries else None
        if last is None or last == applied or (applied is None and done):
            break
        _apply(client, name, last)
        run, applied = client.get_run(run.info.run_id), last
    if applied is not None and not done:
        again(client.set_tag, run.info.run_id, f"{PREFIX}{applied.number}", "done")
    return Ledger(run and run.info.run_id, entries, tuple(versions_of(client, name)), applied)


def claim(client: Any, ledger: Ledger, old: int | None, new: int, tags: Mapping[str, str]) -> bool:
    """Write the entry after the last one of ``ledger``; False if somebody else has written one by now.

    The aliases are not set yet: `settled` does that. Raises MmlopError if there is no run to write it into.
    """
    if ledger.run_id is None:
        name = ledger.versions[0].name
        raise MmlopError(
            f"No version of {name} has a run any more, and runs keep the ledger of its champions: bring one back with "
            f"`mlflow runs restore`, or register an adapter with `mmlop registry sync`."
        )
    key = f"{PREFIX}{len(ledger.entries) + 1}"
    at = datetime.now(UTC).isoformat(timespec="seconds")
    # The token tells our entry from one with the same content, also where the answer to our request was lost.
    record = {"from": old, "to": new, "tags": dict(tags), "at": at, "token": uuid.uuid4().hex}
    value = json.dumps(record, sort_keys=True, ensure_ascii=False)
    try:
        client.log_param(ledger.run_id, key, value, synchronous=True)
    except mlflow().exceptions.MlflowException:
        there = client.get_run(ledger.run_id).data.params.get(key)
        if there is None:
            raise
        return bool(there == value)
    return True


def again(call: Callable[..., Any], *arguments: Any) -> None:
    """Set an alias or a tag. Of two that make the same one at once, MLflow tells the later one that it is there already."""
    try:
        call(*arguments)
    except mlflow().exceptions.MlflowException:
        call(*arguments)


def _home(client: Any, name: str) -> Any:
    """The run that holds the ledger; None if no version has a run any more."""
    for version in versions_of(client, name):
        try:
            run = client.get_run(version.run_id) if version.run_id else None
        except mlflow().exceptions.MlflowException as error:
            if error.error_code not in MISSING:
                raise
            continue
        if run is not None and run.info.lifecycle_stage == "active":
            return run
    return None


def _entries(name: str, run: Any) -> tuple[tuple[Entry, ...], bool]:
    """All entries, and whether the last one is done."""
    if run is None:
        return (), True
    data = run.data
    entries: list[Entry] = []
    while (value := data.params.get(f"{PREFIX}{len(entries) + 1}")) is not None:
        try:
            found = json.loads(value)
            entries.append(Entry(len(entries) + 1, found["from"], found["to"], found["tags"], found["at"]))
        except (ValueError, KeyError, TypeError) as error:
            run_id = run.info.run_id
            raise MmlopError(
                f"Param {PREFIX}{len(entries) + 1} of run {run_id} is no entry of the ledger of {name}: delete that run "
                f"(`mlflow runs delete --run-id {run_id}`), which begins a new ledger at the present champion."
            ) from error
    return tuple(entries), not entries or f"{PREFIX}{len(entries)}" in data.tags


def _apply(client: Any, name: str, entry: Entry) -> None:
    """Aliases first, so that little time is between reading the ledger and writing them. A version that was deleted since
    is left out."""
    of = {version.version: version for version in versions_of(client, name)}
    if entry.old in of and entry.old != entry.new:
        again(client.set_registered_model_alias, name, PREVIOUS, entry.old)
    if entry.new in of:
        again(client.set_registered_model_alias, name, CHAMPION, entry.new)
        again(decided, client, of[entry.new], entry.tags)
