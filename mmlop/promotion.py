"""How a version becomes champion: by the champion rule, by hand, or by rolling back.

Every change of the champion goes through the ledger (``mmlop.ledger``), which keeps two that promote at once, and one
that is killed half way, from leaving more than one truth.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlop import config, trained_on
from mmlop.errors import MmlopError
from mmlop.ledger import Entry, Ledger, claim, settled
from mmlop.resolving import resolve
from mmlop.store import TrackingUnavailable, answering, connect
from mmlop.versions import (
    CHAMPION,
    COMPARED_WITH,
    FORCED,
    MEASURED,
    OUTCOME,
    PREVIOUS,
    REASON,
    Version,
    decided,
    model_name,
    version_of,
)

if TYPE_CHECKING:
    from mmlop.champion import Decision

DECISION = "decision.json"  # how champion and challenger scored, with the challenger's run
LONGEST = 1000  # characters of a reason; it is in the ledger twice, and MLflow cuts params off after 6000


def promote(
    dataset: str,
    version: int,
    settings: config.Champion,
    force: str | None = None,
    root: Path | None = None,
    device: str = "cpu",
) -> Decision:
    """Let a version challenge the champion, by the rule in ``mmlop.champion``; ``force``, a reason, decides by hand.

    ``root`` is the project whose data they are compared on (the current one for None). If the champion changes meanwhile,
    the version challenges the new one. The decision is stored as tags of the version; one that was cut off before is
    finished, and returned. Raises MmlopError if there is no such version.
    """
    reason = None if force is None else _checked(force, "--force")
    client, name = connect(), model_name(dataset)
    with answering():
        challenger = version_of(client, name, str(version))
        while True:
            met = settled(client, name)
            if met.finished is not None and met.finished.new == version:
                return _decision(met.finished)
            decision = _decide(client, met.champion, challenger, settings, reason, root or config.root(), device)
            if decision.challenge is not None:
                client.log_dict(challenger.run_id, asdict(decision.challenge), DECISION)
            now = settled(client, name)
            if _number(now.champion) != _number(met.champion):
                continue
            if not decision.promotes:
                # The tags of a champion go on saying how it became one, and what could not be compared may be later.
                if decision.outcome not in ("unchanged", "not_compared"):
                    decided(client, version_of(client, name, str(version)), _tags(decision, reason))
                return decision
            if claim(client, now, decision.champion, version, _tags(decision, reason)):
                settled(client, name)
                return decision


def rollback(dataset: str, reason: str, to: int | None = None) -> Decision:
    """Make ``previous`` champion again, or the version ``to``, if it has been champion before; `previous` is then what was
    rolled back. The reason is stored as that of a promotion by hand.

    A rollback that was cut off before is finished, and returned. Raises MmlopError if there is nothing to go back to, its
    files are gone, or another version becomes champion at the same time.
    """
    from mmlop.champion import Decision

    reason = _checked(reason, "--reason")
    client, name = connect(), model_name(dataset)
    with answering():
        met = settled(client, name)
        cut = met.finished
        if cut and (cut.outcome, cut.tags.get(FORCED)) == ("rolled_back", reason) and to in (None, cut.new):
            return _decision(cut)
        champion, target = _ways(client, name, met, to)
        unchanged = Decision("unchanged", f"Version {target} is the champion already.", target)
        if champion == target:
            return unchanged
        resolve(f"models:/{name}/{target}")
        sentence = f"Version {target} is champion again, version {champion} was rolled back: {reason}"
        decision = Decision("rolled_back", sentence, champion)
        if claim(client, met, champion, target, _tags(decision, reason)):
            settled(client, name)
            return decision
        now = settled(client, name).champion
        if _number(now) == target:
            return unchanged
    raise MmlopError(
        f"Nothing was rolled back, since version {_number(now)} of {name} became champion meanwhile: look at "
        f"`mmlop registry show models:/{name}@champion`, and roll back again if that one is wrong too."
    )


def finish(dataset: str) -> None:
    """Finish a promotion or rollback of the data set that was cut off."""
    client = connect()
    with answering():
        settled(client, model_name(dataset))


def _ways(client: Any, name: str, ledger: Ledger, to: int | None) -> tuple[int, int]:
    """From which version to which one a rollback goes. Raises MmlopError if there is no such way."""
    from mmlop.champion import PROMOTING

    champion, dataset = _number(ledger.champion), name.removeprefix(model_name(""))
    if champion is None:
        raise MmlopError(f"{name} has no champion: `mmlop registry promote {dataset} VERSION` makes one.")
    been = {number for entry in ledger.entries for number in (entry.old, entry.new)}
    been |= {one.version for one in ledger.versions if {CHAMPION, PREVIOUS} & {*one.aliases}}
    been |= {one.version for one in ledger.versions if one.tags.get(OUTCOME) in PROMOTING}
    there = ", ".join(str(one.version) for one in ledger.versions if one.version in been) or "none"
    if to is not None:
        version_of(client, name, str(to))
        if to not in been:
            raise MmlopError(
                f"Version {to} of {name} has never been champion (been: {there}): "
                f"`mmlop registry promote {dataset} {to} --force REASON` makes it one."
            )
        return champion, to
    previous = _number(ledger.previous)
    if previous is None or previous == champion:
        raise MmlopError(
            f"{name} has no other version @previous to go back to: name one with --to (been champion: {there})."
        )
    return champion, previous


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
        return rule.Decision("unchanged", f"Version {new} is the champion already.", old)
    if force is not None:
        return rule.Decision("forced", f"Version {new} replaces version {old} as champion by hand: {force}", old)
    name, dataset = champion.name, champion.name.removeprefix(model_name(""))
    try:
        seen = trained_on.of_version(client, champion) | trained_on.of_version(client, challenger)
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


def _checked(reason: str, option: str) -> str:
    reason = reason.strip()
    if not reason or len(reason) > LONGEST:
        raise MmlopError(f"{option} needs a reason of 1 to {LONGEST} characters, which is stored with the version.")
    return reason


def _number(version: Version | None) -> int | None:
    return None if version is None else version.version


def _tags(decision: Decision, force: str | None) -> dict[str, str]:
    tags = {OUTCOME: decision.outcome, REASON: decision.reason}
    if decision.champion is not None:
        tags[COMPARED_WITH] = str(decision.champion)
    if force is not None:
        tags[FORCED] = force
    if decision.challenge is not None:
        found = decision.challenge.comparison
        values = (f"{found.p_value:.6g}", str(found.pictures), f"{found.champion:.4f}", f"{found.challenger:.4f}")
        tags |= dict(zip(MEASURED, values, strict=True))
    return tags


def _decision(entry: Entry) -> Decision:
    from mmlop import champion as rule

    outcome: Any = entry.outcome
    return rule.Decision(outcome, entry.reason, entry.old)
