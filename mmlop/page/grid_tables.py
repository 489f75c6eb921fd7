"""Grids as tables: means with intervals, paired differences, goals, signs, data set by data set, costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mmlop import published
from mmlop.grids import comparison, paired, verdicts
from mmlop.grids.comparison import Interval
from mmlop.grids.measurements import Measurement
from mmlop.grids.paired import Paired
from mmlop.grids.points import Overrides
from mmlop.grids.verdicts import reference
from mmlop.page import printed
from mmlop.page.naming import NAMES, titled
from mmlop.tables import Table

Means = Mapping[str, Mapping[str, Interval]]  # by point and metric
Differences = Mapping[str, Mapping[str, Paired]]

COMPARED = ("hm", "novel", "base")
METHODS_GRID = "family"  # which the goals are about
# What is switched on between two points, by overrides of params.yaml: the point with it, and the one without; the first
# pair that was measured. {} is MMLoP. Each part is added to those before it, as is told of the paper.
PLAIN: Overrides = {"prompts.form": "low_rank", "loss.drift_correction": False}
NO_CONSISTENCY: Overrides = {"loss.text": 0, "loss.image": 0, "loss.logits": 0}
STEPS: dict[str, tuple[tuple[Overrides, Overrides], ...]] = {
    "low rank": ((PLAIN | NO_CONSISTENCY, {"method": "ivlp"}),),
    "consistency": ((PLAIN, PLAIN | NO_CONSISTENCY),),
    "drift correction": (({"prompts.form": "low_rank"}, PLAIN), ({}, {"loss.drift_correction": False})),
    "shared up-projection": (({}, {"prompts.form": "low_rank"}),),
    **{
        f"rank 1 instead of {rank}": (
            ({"prompts.tokens": 4, "prompts.rank": 1}, {"prompts.tokens": 4, "prompts.rank": rank}),
            ({}, {"prompts.rank": rank}),
        )
        for rank in (2, 4)
    },
}


def of(
    found: Sequence[Measurement], protocol: str, means: Means, differences: Differences, signs: Sequence[verdicts.Sign]
) -> Iterator[Table]:
    if means:
        yield _means(found, protocol, means)
    if differences:
        yield _differences(differences)
    goals = verdicts.goals(found) if found[0].grid == METHODS_GRID and reference(found) == paired.REFERENCE else []
    if any(goal.met is not None for goal in goals):
        yield _goals(goals)
    if signs:
        yield _signs(signs)


def signs(found: Sequence[Measurement]) -> list[verdicts.Sign]:
    """What each part of MMLoP changes, of the parts that the grid has points with and without."""
    return verdicts.signs(found, list(_steps(found)))


def _means(found: Sequence[Measurement], protocol: str, means: Means) -> Table:
    metrics = [m for m in comparison.METRICS if any(m in values for values in means.values())]
    size = {one.point: one.trainable for one in comparison.trade_off(found, protocol)}
    rows = tuple(
        (titled(p), f"{size[p]}" if p in size else "", *(_cell(values.get(m)) for m in metrics))
        for p, values in means.items()
    )
    return Table("Means over data sets", (("", "trained numbers"), *(("", NAMES[m]) for m in metrics)), rows, "point")


def _differences(differences: Differences) -> Table:
    metrics = [m for m in (*COMPARED, "accuracy") if any(m in found for found in differences.values())]
    columns = [(NAMES[m], name) for m in metrics for name in ("difference", "won-tied-lost", "p")]
    rows = tuple(
        (titled(p), *(cell for m in metrics for cell in _difference_cells(found.get(m))))
        for p, found in differences.items()
    )
    return Table("MMLoP minus each of the others", tuple(columns), rows, "point")


def _difference_cells(found: Paired | None) -> tuple[str, str, str]:
    if found is None:
        return ("", "", "")
    p_value = "" if found.p_value is None else f"{found.p_value:.3f}"
    return (_signed(found), f"{found.won}-{found.tied}-{found.lost}", p_value)


def _goals(goals: Sequence[verdicts.Goal]) -> Table:
    rows = tuple(
        (
            goal.name,
            "" if goal.ours is None else f"{goal.ours:.1f}",
            "" if goal.theirs is None else f"{titled(goal.other or '')} {goal.theirs:.1f}",
            "" if goal.difference is None else _signed(goal.difference),
            {True: "met", False: "not met", None: "not measured"}[goal.met],
        )
        for goal in goals
    )
    columns = (("", "MMLoP"), ("", "measured by"), ("", "difference"), ("", "outcome"))
    return Table("Goals that were fixed beforehand", columns, rows, "goal")


def _steps(found: Sequence[Measurement]) -> Iterator[verdicts.Step]:
    for name, pairs in STEPS.items():
        points = ((verdicts.find(found, chosen), verdicts.find(found, without)) for chosen, without in pairs)
        for point, other in points:
            if point and other:
                yield verdicts.Step(name, point, other, verdicts.PUBLISHED[name])
                break


def _signs(signs: Sequence[verdicts.Sign]) -> Table:
    rows = tuple(
        (
            sign.name,
            NAMES[sign.metric],
            "" if sign.published is None else f"{sign.published:+.2f}",
            "" if sign.here is None else _signed(sign.here),
            sign.verdict or "",
        )
        for sign in signs
    )
    columns = (("", "metric"), ("", "second-hand"), ("", "here"), ("", "sign"))
    return Table("What each part changes, and the published sign of it", columns, rows, "part")


def told(signs: Sequence[verdicts.Sign]) -> Iterator[str]:
    """By whom the published changes are told: nobody here has seen the paper."""
    if signs:
        cited = dict.fromkeys(one.citation for one in published.load().ablations.values() if one.secondhand)
        yield f"What is published of each part is second-hand: {'; '.join(cited)}"


def per_dataset(found: Sequence[Measurement]) -> Iterator[tuple[str, Table]]:
    """Each measurement's own mean, by metric; beside it what is published of the same data sets."""
    by_point = comparison.per_dataset(found)
    datasets = sorted({dataset for values in by_point.values() for dataset in values})
    for metric in COMPARED:
        points = [p for p, values in by_point.items() if any(metric in scores for scores in values.values())]
        if points and len(datasets) > 1:
            theirs, cells = printed.columns(datasets, metric)
            rows = tuple((d, *(_cell(by_point[p].get(d, {}).get(metric)) for p in points), *cells[d]) for d in datasets)
            ours = tuple(("here" if theirs else "", titled(p)) for p in points)
            yield NAMES[metric], Table("", (*ours, *theirs), rows)


def costs(title: str, protocol: str, found: Sequence[Measurement]) -> Table:
    """What measuring took on this machine."""
    rows = tuple(
        (titled(point), f"{cost.seconds:.1f}", "" if cost.gigabytes is None else f"{cost.gigabytes:.2f}")
        for point, cost in comparison.costs(found, protocol).items()
    )
    return Table(title, (("", "seconds"), ("", "peak memory, GB")), rows, "point")


def bounds(found: Paired) -> tuple[float | None, float | None]:
    """The interval of a difference: over data sets and seeds, or with a single data set over seeds."""
    return (found.seeds_low, found.seeds_high) if found.low is None else (found.low, found.high)


def _cell(found: Interval | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.1f}" + ("" if found.low is None else f" [{found.low:.1f}, {found.high:.1f}]")


def _signed(found: Paired) -> str:
    low, high = bounds(found)
    return f"{found.difference:+.1f}" + ("" if low is None else f" [{low:+.1f}, {high:+.1f}]")
