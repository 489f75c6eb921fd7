"""What came of training an adapter again: the same bits, or what differs, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmlop.errors import MmlopError

Changes = dict[str, tuple[Any, Any]]  # by dotted name: as registered, as trained again

MODE = "origin.mode."
ACCURACIES = {"accuracy": "test accuracy", "accuracy_estimate": "estimated accuracy"}
EXIT_CODES = {"identical": 0, "different": 1, "unverifiable": 2}
SHOWN = 6  # changes named in a sentence


@dataclass(frozen=True)
class Comparison:
    """The registered adapter and the one trained again."""

    same_factors: bool  # adapter.safetensors, byte for byte
    largest: float | None  # absolute difference of two factors; None where names or shapes are not the same
    changed: Changes  # of adapter.json
    metrics: dict[str, float]  # of the registered one, percent

    @property
    def mode(self) -> Changes:
        """What differs in device, machine, threads and libraries."""
        return {name.removeprefix(MODE): pair for name, pair in self.changed.items() if name.startswith(MODE)}

    @property
    def others(self) -> Changes:
        return {name: pair for name, pair in self.changed.items() if not name.startswith(MODE)}

    @property
    def identical(self) -> bool:
        """Whether nothing differs, but perhaps what it was trained by, of which adapter.json takes note."""
        return self.same_factors and not self.others


@dataclass(frozen=True)
class Verdict:
    adapter: str  # as it was asked for
    outcome: Literal["identical", "different", "unverifiable"]
    sentence: str
    commit: str | None = None
    params: dict[str, Any] = field(default_factory=dict)  # recorded ones that are not the commit's
    comparison: Comparison | None = None

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def unverifiable(adapter: str, reason: str, commit: str | None = None) -> Verdict:
    return Verdict(adapter, "unverifiable", f"{adapter} cannot be verified: {reason.rstrip('.')}.", commit)


def verdict(adapter: str, commit: str, dirty: bool, params: Mapping[str, Any], found: Comparison) -> Verdict:
    """The outcome of training at ``commit``, from which tracked files differed (``dirty``) when the adapter was trained;
    ``params`` are recorded ones that took the place of the commit's."""
    outcome: Literal["identical", "different"] = "identical" if found.identical else "different"
    parts = [f"{adapter} is {outcome}, trained again at commit {commit[:10]}"]
    if params:
        parts.append(f"and with params from its record that the commit does not hold ({_values(params)})")
    facts = _difference(found) if outcome == "different" else _sameness(found)
    causes = [_cause(found, dirty)] if outcome == "different" else []
    return Verdict(adapter, outcome, "; ".join([f"{' '.join(parts)}: {facts}", *causes]) + ".", commit, dict(params), found)


def compare(registered: Path, again: Path) -> Comparison:
    """What differs between two adapter folders, whatever version has written them. Raises MmlopError for a file that cannot
    be read."""
    try:
        before, after = (json.loads((folder / "adapter.json").read_bytes()) for folder in (registered, again))
        factors = [folder / "adapter.safetensors" for folder in (registered, again)]
        same = factors[0].read_bytes() == factors[1].read_bytes()
    except (OSError, ValueError) as error:
        raise MmlopError(f"an adapter cannot be read ({error})") from error
    largest = 0.0 if same else _largest(*factors)
    return Comparison(same, largest, changes(before, after), before.get("metrics", {}))


def _largest(one: Path, other: Path) -> float | None:
    from safetensors.torch import load_file

    before, after = load_file(one), load_file(other)
    if {name: value.shape for name, value in before.items()} != {name: value.shape for name, value in after.items()}:
        return None
    return max(((before[name].double() - after[name].double()).abs().max().item() for name in before), default=0.0)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Values that differ, None for one that is not there.

    >>> changes({"seed": 1, "mode": {"threads": 1}}, {"seed": 1, "mode": {"threads": 2, "gpu": "H100"}})
    {'mode.gpu': (None, 'H100'), 'mode.threads': (1, 2)}
    """
    left, right = leaves(before), leaves(after)
    found = {name: (left.get(name), right.get(name)) for name in sorted(left.keys() | right.keys())}
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names.

    >>> leaves({"train": {"epochs": 8}, "seeds": [1, 2]})
    {'train.epochs': 8, 'seeds': [1, 2]}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _sameness(found: Comparison) -> str:
    if found.mode:
        return f"the factors are the same bits, and adapter.json differs in what trained it alone, {_listed(found.mode)}"
    return "adapter.safetensors and adapter.json are the same bits"


def _difference(found: Comparison) -> str:
    facts = []
    if seeds := found.changed.get("origin.seed"):
        facts.append(f"seed {seeds[1]} came out best instead of seed {seeds[0]}")
    if found.same_factors:
        facts.append(f"the factors are the same bits, but adapter.json differs in {_listed(found.others)}")
    elif found.largest is None:
        facts.append("the factors have other names or shapes")
    else:
        facts.append(f"the factors differ by up to {found.largest:.2g}")
    for name, title in ACCURACIES.items():
        if name in found.metrics:
            before, after = found.changed.get(f"metrics.{name}", (found.metrics[name], found.metrics[name]))
            said = f"{after:.2f} % instead of {before:.2f} %" if after is not None else "not measured any more"
            facts.append(f"the {title} agrees ({before:.2f} %)" if before == after else f"the {title} is {said}")
    return ", ".join(facts)


def _cause(found: Comparison, dirty: bool) -> str:
    if found.mode:
        return f"likely because of what trained it, {_listed(found.mode)}"
    if dirty:
        return "perhaps because of changes that were not committed when it was trained"
    return "device, machine, threads and libraries are those of then, so the code or the adapter was another"


def _values(params: Mapping[str, Any]) -> str:
    return _cut([f"{name}: {_text(value)}" for name, value in params.items()])


def _listed(changed: Changes) -> str:
    """Changes in words.

    >>> _listed({"threads": (1, 2), "gpu": (None, "H100")})
    'threads (1, now 2), gpu (none, now H100)'
    """
    return _cut([f"{name} ({_text(before)}, now {_text(after)})" for name, (before, after) in changed.items()])


def _cut(items: list[str]) -> str:
    more = [f"{len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return ", ".join(items[:SHOWN] + more)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
