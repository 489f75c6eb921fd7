"""The card of an adapter: what it is for, what it was made from, how good it is, its limits and how to load it.

Markdown for the adapter's folder and the registry, HTML for browsers. Everything in it is from adapter.json.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from mmlop.lora import LoraShape
from mmlop.probe import ProbeShape
from mmlop.prompts import PromptShape
from mmlop.tip import CacheShape

if TYPE_CHECKING:
    from mmlop.adapter import Adapter, AdapterInfo
    from mmlop.shapes import Shape

LEVEL = 0.95  # of intervals
SHARES = ("accuracy", "accuracy_estimate", "validation")  # metrics that are a share of pictures, and so have an interval
MEANING = {
    "accuracy": "accuracy on test pictures",
    "accuracy_estimate": "accuracy, estimated by k-fold on the training pictures",
    "validation": "accuracy on validation pictures, by which seeds were ranked",
    "ece": "calibration error of the probabilities on test pictures",
    "base": "accuracy on the classes trained on",
    "novel": "accuracy on the classes never seen",
    "hm": "harmonic mean of the two",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere;
  color: #1d2129; background: #fff; color-scheme: light dark; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #8884; text-align: left; }
pre { padding: .75rem; overflow-x: auto; background: #8881; border-radius: .4rem; }
@media (prefers-color-scheme: dark) { body { color: #e6e8ec; background: #16181d; } }
"""


def markdown(adapter: Adapter) -> str:
    """The card in Markdown."""
    info = adapter.info
    parts = [_purpose(adapter), _loading(info), _metrics(info), _limits(info), _lineage(info)]
    return "\n\n".join(part for part in parts if part) + "\n"


def body(adapter: Adapter) -> str:
    """The card as HTML elements: headings, paragraphs, tables and code, without attributes that run anything."""
    from markdown_it import MarkdownIt

    rendered: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown(adapter))
    return rendered


def html(adapter: Adapter) -> str:
    """The card as a page of its own."""
    title = escape(f"{adapter.info.method} adapter for {adapter.info.origin.dataset}")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n{body(adapter)}</html>\n"
    )


def interval(percent: float, pictures: int) -> tuple[float, float]:
    """Wilson's 95 % interval, in percent, of an accuracy measured on so many pictures."""
    from scipy.stats import binomtest

    found = binomtest(round(percent / 100 * pictures), pictures).proportion_ci(LEVEL, method="wilson")
    return 100 * float(found.low), 100 * float(found.high)


def plain(text: str) -> str:
    """Text that Markdown is to show as it is.

    >>> plain("a_b | <c>")
    'a\\\\_b \\\\| \\\\<c\\\\>'
    """
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&-])", r"\\\1", " ".join(text.split()))


def _purpose(adapter: Adapter) -> str:
    info, origin = adapter.info, adapter.info.origin
    licence = f" (licence: {plain(origin.licence)})" if origin.licence else ""
    source = f" They come from {plain(origin.source)}{licence}." if origin.source else ""
    return f"""# {plain(info.method)} adapter for {plain(origin.dataset)}

It tells {len(info.classes)} classes of pictures apart: {", ".join(map(plain, info.classes))}.

It was trained on {origin.shots} pictures per class at most, of the data set {plain(origin.dataset)}.{source}

It belongs to the frozen CLIP {plain(info.backbone.shown)} ({plain(info.backbone.weights)}), which stays as it is, and has
{adapter.shape.trainable:,} trained numbers: {described(adapter.shape)}."""


def _loading(info: AdapterInfo) -> str:
    return f"""## How to load it

```python
import mmlop

classifier = mmlop.load("models:/mmlop-{info.origin.dataset}@champion")  # or this folder
classifier.predict(["picture.jpg"])
```"""


def _metrics(info: AdapterInfo) -> str:
    rows = [f"| {MEANING.get(name, plain(name))} | {_measured(info, name)} |" for name in sorted(info.metrics)]
    measured = "\n".join(["## How good it is", "", "| in percent | |", "|---|---|", *rows])
    if not rows:
        measured = "## How good it is\n\nIt was not measured: there were too few pictures."
    if not info.report:
        return measured
    seeds = next(iter(info.report.values())).seeds
    rows = [f"| {MEANING.get(name, plain(name))} | {one.mean:.1f} ± {one.std:.1f} |" for name, one in info.report.items()]
    about = (
        f"Adapters that were trained in the same way on half of the classes (mean and standard deviation of {seeds} "
        f"seed{'s' * (seeds != 1)}):"
    )
    return "\n".join([measured, "", about, "", "| in percent | |", "|---|---|", *rows])


def _measured(info: AdapterInfo, name: str) -> str:
    value, pictures = info.metrics[name], info.pictures.get(name)
    if pictures is None or name not in SHARES:
        return f"{value:.2f}"
    low, high = interval(value, pictures)
    return f"{value:.1f} (95 % interval {low:.1f} to {high:.1f}, {pictures} pictures)"


def _limits(info: AdapterInfo) -> str:
    limits = ["It always chooses one of the candidate classes: a picture of something else gets one of their labels too."]
    if info.drift_correction:
        limits.append("Scores depend on the set of candidates, since prompting's common drift over that set is taken out.")
    if info.shape.kind == "probe":
        limits.append("It knows no other classes than those it was trained on.")
    else:
        limits.append("Other class names can be scored as well; how well is known only where `novel` was measured.")
    if "validation" in info.metrics:
        limits.append(
            f"Scores are probabilities, calibrated on the data set's validation pictures (temperature "
            f"{info.temperature:.2f}): on other pictures or classes they are less to be relied on."
        )
    else:
        limits.append("Scores were not calibrated: there were no validation pictures.")
    return "\n".join(["## Limits", "", *(f"- {limit}" for limit in limits)])


def _lineage(info: AdapterInfo) -> str:
    origin, backbone = info.origin, info.backbone
    rows = {
        "data set": plain(origin.dataset),
        "hash of the data": f"`{origin.data_hash[:16]}`",
        "hash of the split": f"`{origin.split_hash[:16]}`",
        "seed": str(origin.seed),
        "backbone": f"{plain(backbone.shown)}, fingerprint `{backbone.fingerprint[:16]}`",
        "computed in": f"{backbone.precision}, pictures of {backbone.resolution} pixels",
        "anchor texts": f"{plain(info.anchor_name)} ({len(info.anchor_templates)})",
    }
    return "\n".join(["## Lineage", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def described(shape: Shape) -> str:
    """What was trained, in words."""
    if isinstance(shape, PromptShape):
        where = "both encoders" if shape.encoders == "both" else f"the {shape.encoders} encoder"
        rank = f", rank {shape.rank}" if shape.rank else ""
        return f"{shape.tokens} prompt tokens in the first {shape.depth} blocks of {where}{rank}"
    if isinstance(shape, LoraShape):
        return f"changes of rank {shape.rank} in the attention of every block of both encoders"
    if isinstance(shape, ProbeShape):
        return f"a linear classifier of {shape.classes} classes on frozen features"
    if isinstance(shape, CacheShape):
        return f"a cache of {shape.pictures} pictures beside the frozen classifier"
    return "nothing was learned"
