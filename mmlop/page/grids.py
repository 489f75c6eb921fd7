"""What grids of measurements say, a section for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmlop.config import Params
from mmlop.errors import MmlopError
from mmlop.grids import comparison, current, measurements, paired
from mmlop.grids.measurements import FOLDER, Measurement
from mmlop.grids.points import plan
from mmlop.grids.section import Grid
from mmlop.grids.verdicts import reference
from mmlop.page import grid_charts, grid_tables
from mmlop.page.naming import titled
from mmlop.page.section import Section
from mmlop.protocols import BASE_TO_NOVEL, FEW_SHOT
from mmlop.tables import Table

TITLE = "Grid"
FEW = 4  # points that are named
MEANS = "Means over data sets, in percent, with 95 % confidence intervals over seeds (Student's t) in brackets."
DIFFERENCES = (
    "Differences are in points, paired by data set and seed. Their 95 % intervals are over data sets and seeds (crossed "
    "bootstrap): one that has 0 in it says that another selection of data sets might tell otherwise. Beside them is on how "
    "many data sets the first is better, equal and worse; p is of a signed-rank test over data sets, for one comparison."
)


class Found(NamedTuple):
    """What can be shown of a grid, and why not all of it."""

    measurements: Sequence[Measurement]
    notes: tuple[str, ...] = ()


Grids = Mapping[str, Found]


def read(root: Path, params: Params) -> Grids:
    """The measurements of every grid; of one that params.yaml describes, those of its points, in their order, that are what
    params.yaml and the code say now. Raises MmlopError for a damaged file."""
    names = sorted({file.parent.parent.name for file in (root / FOLDER).glob("*/*/*.json")})
    known = list(params.grids)
    names.sort(key=lambda name: known.index(name) if name in known else len(known))
    found = {name: _found(root, name, params) for name in names}
    return {name: one for name, one in found.items() if one.measurements or one.notes}


def _found(root: Path, name: str, params: Params) -> Found:
    if name not in params.grids:
        return Found(measurements.read(root / FOLDER / name))
    try:
        planned = plan(name, params)
    except MmlopError as error:
        return Found((), (f"Nothing of it is shown: {error}",))
    now = current.read(root, planned)
    return Found(now.measurements, tuple(filter(None, [now.note(name)])))


def sections(grids: Grids, params: Params) -> Iterator[Section]:
    for name, found in grids.items():
        grid = params.grids.get(name, Grid())
        part = "" if grid.part == "test" else "Of validation pictures, by which settings are chosen."
        notes = tuple(filter(None, (_sentence(grid.about), part, *found.notes)))
        yield _section(name, notes, found.measurements) if found.measurements else Section(f"{TITLE} {name}", notes)


def _sentence(about: str) -> str:
    return f"{about[0].upper()}{about[1:].rstrip('.')}." if about else ""


def looks(grids: Grids) -> dict[str, dict[str, Any]]:
    """What is known of each data set's test pictures from MMLoP's own measurements, in the form of run.json."""
    found: dict[str, dict[str, Any]] = {}
    for measured, _ in grids.values():
        ours = reference(measured)
        for one in measured:
            if one.point == ours and one.part == "test":
                seeds = {str(seed): [outcome.model_dump() for outcome in each] for seed, each in one.seeds.items()}
                found.setdefault(one.dataset, {"method": one.method, "classes": [*one.base, *one.novel], "seeds": seeds})
    return found


def costs(grids: Grids) -> Iterator[Table]:
    for name, (found, _) in grids.items():
        if found:
            yield grid_tables.costs(f"{TITLE} {name}", _protocol(found), found)


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
        notes=tuple(notes),
        charts=tuple(grid_charts.of(found, protocol, means, differences, signs)),
        tables=tuple(grid_tables.of(found, protocol, means, differences, signs)),
        small=(MEANS, *([DIFFERENCES] if differences else []), *grid_tables.told(signs)),
        panels=tuple(Section(metric, tables=(table,)) for metric, table in grid_tables.per_dataset(found)),
        choice="Of each data set, %",
    )


def _protocol(found: Sequence[Measurement]) -> str:
    """The first of the protocols by which the points can be compared."""
    return next((p for p in (BASE_TO_NOVEL, FEW_SHOT) if comparison.common(found, p).datasets), BASE_TO_NOVEL)
