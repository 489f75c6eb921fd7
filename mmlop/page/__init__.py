"""The report: one self-contained HTML page, and its twin in Markdown.

`reports/summary.md` is the same on every machine that has the same results. `reports/report.html` has more: charts, what it
cost, and links to MLflow's runs, which differ from machine to machine. It needs no network, and no script to be read.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from mmlop import report, tables
from mmlop.config import Params
from mmlop.files import write_text
from mmlop.methods import METHODS
from mmlop.page import grids, logged, machine, printed, trained
from mmlop.page.section import Section
from mmlop.report import Record, Summary

FILE = Path("reports") / "report.html"
TWIN = Path("reports") / "summary.md"


def write(root: Path, params: Params) -> Summary:
    """Write everything in reports/ from the results of what is configured, and return their summary. Raises MmlopError,
    with nothing written, where results are missing or a file is damaged."""
    records = report.collect(root, params)
    summary = report.summarise(records)
    found = sections(root, params, records, summary)
    page = render(f"mmlop report: {params.backbone}", _lead(params, found), found)
    report.write(root, records, summary)
    write_text(root / TWIN, markdown(summary, found))
    write_text(root / FILE, page)
    return summary


def sections(root: Path, params: Params, records: Sequence[Record], summary: Summary) -> list[Section]:
    """Everything there is to say; what has no data is left out."""
    measured, runs = grids.read(root, params), trained.runs(root, params.datasets)
    found = [
        trained.results(summary, records),
        printed.section(summary),
        *grids.sections(measured, params),
        trained.closer(params.datasets, grids.looks(measured) | runs),
        machine.costs(root, measured),
        machine.conditions(runs, measured),
        logged.section(root, params.datasets, measured),
    ]
    return [section for section in found if section is not None]


def markdown(summary: Summary, found: Iterable[Section]) -> str:
    """The tables of the results first, as `mmlop report` shows them; then the other sections' words and tables."""
    text = [tables.to_markdown(summary).rstrip("\n")]
    for section in found:
        if section.twin and section.title != trained.RESULTS:
            text += [f"## {section.title}", *section.notes, *map(tables.markdown, section.tables)]
            text += ["\n".join(f"- {line}" for line in section.small)] if section.small else []
    return "\n\n".join(text) + "\n"


def render(title: str, lead: Sequence[str], found: Sequence[Section]) -> str:
    """The page. Names of classes and data sets are users' words: the template escapes all it is given, and the page forbids
    a browser to load anything or to run another script than its own."""
    texts = {name: _text(f"page.{name}") for name in ("html.j2", "css", "js")}
    style, script = texts["css"], texts["js"]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["spoken"] = _spoken
    return environment.from_string(texts["html.j2"]).render(
        title=title,
        lead=lead,
        sections=found,
        style=Markup(style),
        script=Markup(script),
        hashes={"style": _hash(style), "script": _hash(script)},
    )


def _spoken(text: str) -> Markup:
    """A sentence, with what is between backticks as code."""
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(part) if n % 2 else escape(part) for n, part in enumerate(text.split("`")))


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a content security policy knows an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _lead(params: Params, found: Sequence[Section]) -> list[str]:
    """What this is of, and how to get what is not in it."""
    shots, seeds = params.fewshot.shots, ", ".join(map(str, params.fewshot.seeds))
    lead = [
        f"{METHODS[params.method].title} on {', '.join(params.datasets)}; backbone {params.backbone}, {shots} shots, seeds "
        f"{seeds}. Accuracies are of test pictures, in percent."
    ]
    titles = [section.title for section in found]
    if not any(title.startswith(grids.TITLE) for title in titles):
        lead.append("No grid has been measured here: `mmlop benchmark family` compares the methods.")
    if trained.CLOSER not in titles:
        lead.append("Calibration and confusions are shown where runs/ is: `dvc repro` or `dvc pull` brings it.")
    measured = [chart.title for section in found if section.title != printed.TITLE for chart in section.charts]
    if not any("by shots" in title for title in measured):
        lead.append("Curves over the number of shots are measured if `protocols.few_shot.shots` in params.yaml lists some.")
    return lead
