"""Which measurements are of what params.yaml and the code say now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from mmlop.grids import inputs, measurements
from mmlop.grids.measurements import Measurement
from mmlop.grids.points import Plan, Point


class Current(NamedTuple):
    """The measurements of a grid's points and data sets, by point and data set in the grid's order."""

    measurements: Sequence[Measurement]
    stale: int = 0  # so many more were measured with other settings or code
    other_code: bool = False  # none of the measurements is of the present code

    def note(self, grid: str) -> str | None:
        """What is not as it would come out now, and what to do about it."""
        if not self.stale:
            return (
                f"The results were measured before the code changed: `mmlop benchmark {grid}` measures them again."
                if self.other_code
                else None
            )
        every = len(self.measurements) + self.stale
        verb, them = ("was", "it") if self.stale == 1 else ("were", "them")
        what = f"{self.stale} of {every} results {verb} measured with other settings or code"
        return f"{what}: `mmlop benchmark {grid}` measures {them} again."


def read(root: Path, plan: Plan) -> Current:
    """Files whose point or data set the grid does not have are left out, and what does not compare: results of another code
    beside some of the present one. Raises MmlopError for a damaged file."""
    folder, points = root / measurements.FOLDER / plan.name, {point.label: point for point in plan.points}
    if not list(folder.glob("*/*.json")):
        return Current(())
    order, code = list(points), inputs.code()
    found = [one for one in measurements.read(folder) if one.point in points and one.dataset in plan.datasets]
    alike = [one for one in found if is_of(one, points[one.point])]
    present = [one for one in alike if one.code in (None, code)]
    kept = present or alike
    return Current(
        sorted(kept, key=lambda one: order.index(one.point)), len(found) - len(kept), bool(alike) and not present
    )


def is_of(one: Measurement, point: Point) -> bool:
    """Whether a measurement is of what the point is set to now, as far as it tells: code, data and libraries aside. Of what
    a training differs in beside protocol and shots, files of earlier versions tell nothing."""
    trainings = [asdict(training) for training in point.trainings]
    named = [(training.protocol, training.shots) for training in point.trainings]
    return (
        one.settings == json.loads(json.dumps(point.params.resolved()))
        and one.part == point.part
        and one.trainings in (None, trainings)
        and set(one.seeds) == set(point.params.fewshot.seeds)
        and all([(each.protocol, each.shots) for each in trained] == named for trained in one.seeds.values())
    )
