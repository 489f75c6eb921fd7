"""What grids of measurements say, a section for each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlop import comparison, measurements, paired
from mmlop.config import Params
from mmlop.grid import Grid
from mmlop.measurements import Measurement
from mmlop.page import grid_charts, grid_tables
from mmlop.page.naming import reference, titled
from mmlop.page.section import Section
from mmlop.points import plan
from mmlop.protocols import ALL_CLASSES, BASE_TO_NOVEL, FEW_SHOT
from mmlop.tables import Table

FOLDER = Path("results") / "benchmark"
TITLE = "Grid"
FEW = 4  # points that are named
MEANS = "Means over data sets, in percent, with 95 % confidence intervals over seeds (Student's t) in brackets."
DIFFERENCES = (
    "Differences are in points, paired by data set and seed. Their 95 % intervals are over data sets and seeds (crossed "
    "bootstrap): one that has 0 in it says that another selection of data sets might tell otherwise. Beside them is on how "
    "many data sets the first is better, equal and worse; p is of a signed-rank test over data sets, for one comparison."
)

Grids = Mapping[str, Sequence[Measurement]]


def read(root: Path, params: Params) -> Grids:
    """The measurements of every grid; of one that params.yaml describes, those of its points, in their order. Raises
    MmlopError for a damaged file."""
    found = {}
    folders = sorted({file.parent.parent for file in (root / FOLDER).glob("*/*/*.json")})
    known = list(params.grids)
    for folder in sorted(folders, key=lambda one: known.index(one.name) if one.name in known else len(known)):
        measured = measurements.read(folder)
        if folder.name in params.grids:
            order = [point.label for point in plan(folder.name, params).points]
            measured = sorted((one for one in measured if one.point in order), key=lambda one: order.index(one.point))
        if measured:
            found[folder.name] = measured
    return found


def records(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every measurement as it was written, under its grid's name."""
    for file in sorted((root / FOLDER).glob("*/*/*.json")):
        yield f"grid {file.parent.parent.name}", json.loads(file.read_bytes())


def sections(grids: Grids, params: Params) -> Iterator[Section]:
    for name, found in grids.items():
        grid = params.grids.get(name, Grid())
        part = "" if grid.part == "test" else "Of validation pictures, by which settings are chosen."
        yield _section(name, [_sentence(grid.about), part], found)


def _sentence(about: str) -> str:
    return f"{about[0].upper()}{about[1:].rstrip('.')}." if about else ""


def looks(grids: Grids, params: Params) -> dict[str, dict[str, Any]]:
    """What is known of each data set's test pictures from MMLoP's own measurements, in the form of run.json."""
    found: dict[str, dict[str, Any]] = {}
    for name, measured in grids.items():
        for one in measured:
            if one.point == reference(measured) and params.grids.get(name, Grid()).part == "test":
                seeds = {str(seed): [outcome.model_dump() for outcome in each] for seed, each in one.seeds.items()}
                found.setdefault(one.dataset, {"method": one.method, "classes": [*one.base, *one.novel], "seeds": seeds})
    return found


def costs(grids: Grids) -> Iterator[Table]:
    for name, found in grids.items():
        yield grid_tables.costs(f"{TITLE} {name}", found)


def _section(name: str, about: Sequence[str], found: Sequence[Measurement]) -> Section:
    protocol = _protocol(found)
    means, shared, ours = comparison.means(found, protocol), comparison.common(found, protocol), reference(found)
    differences = paired.paired(found, ours, protocol) if ours in means and len(means) > 1 else {}
    signs = grid_tables.signs(found)
    points = f"{len(means)} point{'' if len(means) == 1 else 's'}"
    notes = [*about, f"{points} on {', '.join(shared.datasets)}; seeds {', '.join(map(str, shared.seeds))}."]
    for dataset, lacking in shared.left_out.items():
        lack = ", ".join(map(titled, lacking)) if len(lacking) <= FEW else f"{len(lacking)} points"
        notes.append(f"{dataset} is left out: not measured, or not with every seed, for {lack}.")
    return Section(
        f"{TITLE} {name}",
        notes=tuple(filter(None, notes)),
        charts=tuple(grid_charts.of(found, means, differences, signs)),
        tables=tuple(grid_tables.of(found, means, differences, signs)),
        small=(MEANS, DIFFERENCES) if differences else (MEANS,),
        panels=tuple(Section(metric, tables=(table,)) for metric, table in grid_tables.per_dataset(found)),
        choice="Of each data set, %",
    )


def _protocol(found: Sequence[Measurement]) -> str:
    """The first of the protocols by which the points can be compared."""
    return next((p for p in (BASE_TO_NOVEL, ALL_CLASSES, FEW_SHOT) if comparison.common(found, p).datasets), BASE_TO_NOVEL)
