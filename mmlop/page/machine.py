"""By what it was measured, and what that took: of this machine alone, or of the one that measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmlop.page import grids, trained
from mmlop.page.section import Section
from mmlop.tables import Table

STAGES = ("train", "source", "transfer")  # of DVC, whose costs are told


def costs(root: Path, measured: grids.Grids) -> Section | None:
    """Seconds and memory."""
    found = [*_timings(root / "reports" / "timings.json"), *grids.costs(measured)]
    note = (
        "Wall time and peak memory on the machine that measured. Of a point of a grid: all seeds of a data set together, "
        "mean over data sets."
    )
    return Section("Costs", (note,), tables=tuple(found), twin=False) if found else None


def _timings(file: Path) -> Iterator[Table]:
    timings: dict[str, dict[str, float]] = {}
    with suppress(OSError, ValueError):  # what stages write beside their results, and would not stop for
        timings = json.loads(file.read_bytes())
    rows = tuple(
        (stage, f"{cost['seconds']:.1f}", f"{cost['peak_mb'] / 1000:.2f}")
        for stage, cost in sorted(timings.items())
        if stage.partition("@")[0] in STAGES
    )
    if rows:
        yield Table("Pipeline", (("", "seconds"), ("", "peak memory, GB")), rows, "stage")


def conditions(runs: Mapping[str, trained.Run], measured: grids.Grids) -> Section | None:
    """Backbone, device and libraries, of the pipeline's data sets and of grids: what is alike in one row."""
    found: dict[tuple[str, ...], list[str]] = {}
    of_grids = [(f"grid {name}", vars(one)) for name, (each, _) in measured.items() for one in each]
    for name, record in (*runs.items(), *of_grids):
        if record.get("mode") and record.get("backbone"):
            found.setdefault(_condition(record), []).append(name)
    rows = tuple((", ".join(dict.fromkeys(names)), *condition) for condition, names in found.items())
    columns = tuple(("", name) for name in ("backbone", "device", "machine", "threads", "libraries"))
    return Section("Measured on", tables=(Table("", columns, rows, "what"),), twin=False) if rows else None


def _condition(record: Mapping[str, Any]) -> tuple[str, ...]:
    mode, backbone = record["mode"], record["backbone"]
    libraries = ", ".join(f"{name} {version}" for name, version in mode.get("libraries", {}).items())
    model = f"{backbone.get('name', '')} {backbone.get('weights') or ''}".strip()
    device = mode.get("gpu") or mode.get("device", "")
    return (model, device, mode.get("machine", ""), str(mode.get("threads", "")), libraries)
