"""``mmlop bench``: our training step against the plain one, on random weights, so that anybody can measure it offline.

Every ratio compares with the plain step in fp32, whatever our precision, and both sides of it are measured in turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from mmlop.bench.machine import describe
from mmlop.bench.measure import interleaved
from mmlop.bench.settings import MANY, PARTS, Settings, Work

__all__ = ["PARTS", "Settings", "line", "run"]

PROBES = (10, 40)  # class counts that tell how much memory the reference takes per class
SPARE = 0.85  # of the free memory may be used
OURS = 1.5e9  # bytes that one of our processes, waiting for its turn, may hold on to

Say = Callable[[str], None]


def run(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """Measure what ``settings`` ask for: {"machine", "settings", "rows"}, times in seconds and memory in bytes.

    ``say`` is told what is being measured. Raises MmlopError if the device or the architecture cannot be used, or a
    measurement runs out of memory.
    """
    machine = describe(settings.device, settings.architecture)
    if not settings.precisions:
        settings = replace(settings, precisions=("fp32", "bf16") if machine["bf16"] else ("fp32",))
    plain = Work("step", "reference", batch=settings.batch, device=settings.device, architecture=settings.architecture)
    against = [(part, count) for count in settings.classes for part in ("step", "text") if part in settings.parts]
    rows: list[dict[str, Any]] = []
    if against:
        largest = _largest(plain, settings, machine["free"], say)
        for part, count in against:
            say(f"{part}, {count} classes")
            rows += _against_reference(replace(plain, kind=part), count, min(count, largest), settings)
    if "evaluation" in settings.parts:
        for precision in settings.precisions:
            say(f"evaluation, {precision}")
            rows += _evaluation(settings, precision)
    if "decoding" in settings.parts:
        say("decoding")
        always, once = interleaved([Work("decode", side) for side in ("reference", "ours")], settings.runs)
        ratio = always.seconds / once.seconds
        rows.append({"part": "decoding", "reference_seconds": always.seconds, "seconds": once.seconds, "speedup": ratio})
    return {"machine": machine, "settings": asdict(settings), "rows": rows}


def line(few: int, at_few: float, many: int, at_many: float, classes: int) -> float:
    """The line through two measurements of the reference, at another number of classes."""
    return at_few + (at_many - at_few) / (many - few) * (classes - few)


def _against_reference(plain: Work, classes: int, measurable: int, settings: Settings) -> list[dict[str, Any]]:
    """A row for each precision. The reference is measured at the ``measurable`` number of classes, and at a fourth of it
    too where that is less than ``classes``; a large matrix product in each precision tells what the machine can do."""
    counts = [classes] if measurable == classes else [measurable // 4, measurable]
    cached = [False, True] if plain.kind == "step" and classes < MANY else [False]
    ours = [
        replace(plain, side="ours", precision=precision, classes=classes, cached=given)
        for precision in settings.precisions
        for given in cached
    ]
    runs = settings.runs_at(classes)
    reference = [replace(plain, classes=count) for count in counts]
    products = [Work("matmul", "ours", precision, device=settings.device) for precision in settings.precisions]
    works = [*ours, *reference, *products]
    measured = dict(zip(works, interleaved(works, runs), strict=True))
    seconds = _extended(counts, [measured[work].seconds for work in reference], classes)
    peak = _extended(counts, [measured[work].peak for work in reference], classes)
    rates = {work.precision: measured[work].rate for work in products}
    return [
        {
            "part": plain.kind,
            "classes": classes,
            "precision": work.precision,
            "cached_views": work.cached,
            "recorded": work.recorded,
            "runs": runs,
            "seconds": m.seconds,
            "peak": m.peak,
            "gflops": m.rate,
            "matmul_gflops": rates[work.precision],
            "matmul_share": m.rate / rates[work.precision],
            "reference_seconds": seconds,
            "reference_peak": int(peak),
            "reference_classes": counts,
            "extrapolated": len(counts) == 2,
            "speedup": seconds / m.seconds,
            "memory_ratio": peak / m.peak,
        }
        for work, m in ((work, measured[work]) for work in ours)
    ]


def _extended(counts: list[int], found: list[float] | list[int], classes: int) -> float:
    """What was found at one number of classes, or the line through two at ``classes``."""
    return line(counts[0], found[0], counts[1], found[1], classes) if len(counts) == 2 else found[0]


def _largest(plain: Work, settings: Settings, free: int, say: Say) -> int:
    """The largest number of classes at which the reference fits the memory, as two small ones tell; at most the largest
    wanted."""
    few, many = PROBES
    wanted = max(settings.classes)
    if wanted <= many:
        return wanted
    say("memory of the reference")
    at_few, at_many = (interleaved([replace(plain, classes=count)], runs=0)[0].peak for count in PROBES)
    allowed = settings.memory * 1e9 if settings.memory else SPARE * free - OURS * len(settings.precisions)
    per_class = max(1, at_many - at_few) / (many - few)
    return min(wanted, max(many, int(many + (allowed - at_many) / per_class)))


def _evaluation(settings: Settings, precision: str) -> list[dict[str, Any]]:
    """Pictures per second of our image encoder, without and with prompts, against open_clip's own."""
    sides = ("open_clip", "unprompted", "prompted")
    batch = settings.evaluation_batch
    works = [
        Work("encode", side, precision, batch=batch, device=settings.device, architecture=settings.architecture)
        for side in sides
    ]
    own, *ours = interleaved(works, settings.runs)
    return [
        {
            "part": "evaluation",
            "precision": precision,
            "prompts": side == "prompted",
            "pictures_per_second": batch / m.seconds,
            "reference_pictures_per_second": batch / own.seconds,
            "speedup": own.seconds / m.seconds,
        }
        for side, m in zip(sides[1:], ours, strict=True)
    ]
