"""The report of a drift check: a page with charts, and its twin in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmlop.drift import Finding, Sample
from mmlop.drift_check import Check
from mmlop.files import write_text
from mmlop.page import charts, render
from mmlop.page.geometry import LINE, WIDTH, Chart, Plot, Point, Scale, Series, around
from mmlop.page.section import Section
from mmlop.tables import Table, markdown

FOLDER = Path("reports") / "drift"
REFERENCE, LOGGED = Series("reference", -1), Series("logged", 0)
DOTS, STEPS, SHOWN = 400, 60, 30  # of a cloud, of a curve; classes of a chart
TITLES = {"steady": "no drift", "drifted": "drift", "too_few": "too few pictures to tell"}
PARTS = {
    "val": "The reference are the data set's validation pictures, which the adapter was not trained on.",
    "train": "The data set has no validation pictures: the reference are training pictures, of which the adapter is surer "
    "than of others, so confidence is not compared, and what is said of features is less certain.",
}
EFFECTS = (
    "The effect of features and confidence is the shift, in standard deviations, that makes as much of a difference; 0.2 "
    "is small, 0.8 large. That of the shares of classes is the share of pictures that is of other ones.",
)


def write(root: Path, check: Check) -> Path:
    """The page in reports/drift/, with its twin beside it."""
    file = root / FOLDER / f"{check.dataset}.html"
    write_text(file.with_suffix(".md"), twin(check))
    write_text(
        file, render(f"Drift of {check.dataset}: {TITLES[check.found.outcome]}", _lead(check), list(sections(check)))
    )
    return file


def twin(check: Check) -> str:
    """In Markdown, which is also what Prefect shows."""
    lines = [f"## {check.dataset}: {TITLES[check.found.outcome]}", *_lead(check)]
    for section in sections(check):
        lines += [*section.notes, *map(markdown, section.tables), *section.small]
    return "\n\n".join(lines) + "\n"


def sections(check: Check) -> Iterator[Section]:
    found = check.found
    if found.features is not None:
        yield Section("Tests", charts=tuple(_charts(check)), tables=(_tests(check),), small=EFFECTS)
    yield Section("Classes", charts=(_shares(check),) if len(check.logged) else (), tables=(_classes(check),))


def _lead(check: Check) -> list[str]:
    found = check.found
    lead = [
        found.reason,
        f"Of `{check.uri}` (identity {check.identity[:12]}), {check.rows} predictions of the last {check.since} are in the "
        f"log `{check.log}`; checked {check.checked}.",
        PARTS[check.part],
    ]
    if check.others:
        lead.append(f"{check.others} of them were asked to score other classes than the adapter's, and are left out.")
    if found.repeated:
        lead.append(f"{found.repeated} logged pictures were sent before, and are counted once.")
    return lead


def _tests(check: Check) -> Table:
    def row(name: str, test: Finding | None) -> tuple[str, ...]:
        return (name, "", "", "not compared") if test is None else (name, f"{test.effect:.2f}", f"{test.p_value:.2g}", "")

    found = check.found
    rows = (row("features", found.features), row("confidence", found.confidence), row("shares of classes", found.shares))
    return Table("", (("", "effect"), ("", "p"), ("", "")), rows, "what")


def _classes(check: Check) -> Table:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    rows = tuple(
        (one.name, str(one.reference), str(one.logged), percent(one.confidence_reference), percent(one.confidence_logged))
        for one in check.found.classes
    )
    columns = (("pictures", "reference"), ("pictures", "logged"), ("confidence %", "reference"), ("confidence %", "logged"))
    return Table("By predicted class", columns, rows, "class")


def _charts(check: Check) -> Iterator[Chart]:
    yield _cloud(check.reference, check.logged)
    curves = [_cumulative(REFERENCE, check.reference), _cumulative(LOGGED, check.logged)]
    yield charts.curves("Confidence: share of pictures with no more", "confidence, %", "pictures, %", curves)


def _cumulative(series: Series, sample: Sample) -> list[Point]:
    found = np.sort(sample.confidence)
    return [
        Point(series, 100 * float(np.searchsorted(found, at, side="right")) / len(found), x=100 * float(at))
        for at in np.linspace(0, 1, STEPS + 1)
    ]


def _cloud(reference: Sample, logged: Sample) -> Chart:
    """Features along the two directions in which all of them, taken together, differ most."""
    both = [(REFERENCE, reference.thinned(DOTS)), (LOGGED, logged.thinned(DOTS))]
    together = np.concatenate([sample.features for _, sample in both])
    centre = together.mean(axis=0)
    axes = np.linalg.svd(together - centre, full_matrices=False)[2][:2]
    places = [(sample.features - centre) @ axes.T for _, sample in both]
    plot, bottom = Plot(), 270.0
    x = Scale(*around(np.concatenate(places)[:, 0].tolist()), 14, WIDTH - 14)
    y = Scale(*around(np.concatenate(places)[:, 1].tolist()), bottom, 12)
    for (series, sample), found in zip(both, places, strict=True):
        for (across, up), label in zip(found.tolist(), sample.labels, strict=True):
            plot.dot(series, x(across), y(up), f"{series.name}, taken for {label}")
    return plot.chart("Features, along their two main directions", bottom + LINE, (REFERENCE, LOGGED))


def _shares(check: Check) -> Chart:
    """The classes whose shares differ most, at most as many as a chart bears."""
    sums = [max(sum(getattr(one, kind) for one in check.found.classes), 1) for kind in ("reference", "logged")]
    found = {one.name: (100 * one.reference / sums[0], 100 * one.logged / sums[1]) for one in check.found.classes}
    names = sorted(found, key=lambda name: abs(found[name][0] - found[name][1]), reverse=True)[:SHOWN]
    rows = [
        (name, [Point(series, value) for series, value in zip((REFERENCE, LOGGED), found[name], strict=True)])
        for name in found
        if name in names
    ]
    return charts.rows("Predicted classes", "share of pictures, %", rows)
