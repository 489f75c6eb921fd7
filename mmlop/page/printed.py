"""Published results, and where they can stand beside what was measured here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmlop import published
from mmlop.methods import METHODS
from mmlop.page import charts
from mmlop.page.geometry import Chart, Point, Series
from mmlop.page.section import Section
from mmlop.published import Published
from mmlop.report import Summary
from mmlop.tables import Table

TITLES = {"cocoop": "CoCoOp"}  # published, and not among the methods here
TITLE = "Published results"
GROUP = "published"
METRICS = (("hm", "HM"), ("base", "base"), ("novel", "novel"))


def section(summary: Summary) -> Section:
    found = published.load()
    blocks = (found.averages, found.transfer, found.variants)
    cited = list(dict.fromkeys(one.citation for block in blocks for one in block.values()))
    notes = (
        "These numbers are not ours: CLIP ViT-B/16 with 16 shots, means over eleven public data sets (transfer: ten other "
        "data sets, and four variants of ImageNet). They compare with what is measured here only where data set and "
        "backbone are the same.",
    )
    small = [f"[{place}] {citation}" for place, citation in enumerate(cited, start=1)]
    small += [f"{_title(method)}: {one.note}" for method, one in found.averages.items() if one.note]
    listed = (_averages(found, cited), *_beside(summary, found))
    return Section(TITLE, notes, tuple(_charts(found)), listed, (*small, *found.cautions))


def columns(datasets: Sequence[str], metric: str) -> tuple[tuple[tuple[str, str], ...], dict[str, tuple[str, ...]]]:
    """Columns of published values of a metric, and their cells for each of the data sets; none where none has any."""
    found = published.load()
    methods = [m for m in found.per_dataset if any(d in found.base_to_novel(m) for d in datasets)]
    cells = {
        d: tuple(f"{getattr(values[d], metric):.1f}" if d in (values := found.base_to_novel(m)) else "" for m in methods)
        for d in datasets
    }
    return tuple((GROUP, _title(m)) for m in methods), cells


def _averages(found: Published, cited: Sequence[str]) -> Table:
    rows = []
    for method, one in found.averages.items():
        size, sources = found.parameters.get(method), [one.citation]
        moved = [block.get(method) for block in (found.transfer, found.variants)]
        sources += [other.citation for other in moved if other]
        marks = "".join(f"[{cited.index(source) + 1}]" for source in dict.fromkeys(sources))
        numbers = (one.base, one.novel, one.hm, *(other.average if other else None for other in moved))
        cells = ("" if value is None else f"{value:.2f}" for value in numbers)
        rows.append((_title(method), f"{size.count}" if size else "", *cells, marks))
    names = ("trained numbers", "base", "novel", "HM", "transfer", "variants", "source")
    return Table("Published averages", tuple(("", name) for name in names), tuple(rows), "method")


def _beside(summary: Summary, found: Published) -> Iterator[Table]:
    """Data sets for which there are published numbers, with ours."""
    known = {d for values in found.per_dataset.values() for d in values.datasets}
    halved = {d: methods for d, methods in summary["datasets"].items() if any("hm" in m for m in methods.values())}
    rows = {d: methods for d, methods in halved.items() if d in known}
    ours = list(dict.fromkeys(method for methods in rows.values() for method in methods))
    for metric, name in METRICS if rows else ():
        theirs, cells = columns(list(rows), metric)
        own = {d: tuple(f"{m[a][metric]:.1f}" if metric in m.get(a, {}) else "" for a in ours) for d, m in rows.items()}
        here = tuple(("here", _title(method)) for method in ours)
        yield Table(f"{name}, here and published", (*here, *theirs), tuple((d, *own[d], *cells[d]) for d in rows))


def _charts(found: Published) -> Iterator[Chart]:
    series = {m: Series(_title(m), n) for m, n in _numbers(found).items()}
    sized = {m: one.hm for m, one in found.averages.items() if m in found.parameters}
    points = [Point(series[m], hm, x=found.parameters[m].count) for m, hm in sized.items()]
    yield charts.scatter("Published: HM against trained numbers", "trained numbers", "HM, %", points)
    lines = [[Point(series[m], v, x=k) for k, v in shots.items()] for m, shots in found.few_shot.methods.items()]
    yield charts.curves("Published: accuracy by shots, all classes", "shots", "%", lines, log=True)


def _numbers(found: Published) -> dict[str, int]:
    others = dict.fromkeys(m for m in (*found.averages, *found.few_shot.methods) if m not in ("mmlop", "zero_shot"))
    return {"mmlop": 0, "zero_shot": -1} | {method: place for place, method in enumerate(others, start=1)}


def _title(method: str) -> str:
    return METHODS[method].title if method in METHODS else TITLES.get(method, method)
