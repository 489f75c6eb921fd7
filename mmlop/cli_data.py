"""The commands `mmlop data ...`."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmlop.cli_output import AsJson, Dataset, Quiet, dvc, print_json, require_listed, show_table
from mmlop.data.manifest import PARTS, SPLITS
from mmlop.errors import MmlopError

if TYPE_CHECKING:
    from mmlop.config import Params
    from mmlop.data.manifest import Contents, Manifest

SHOWN = 10  # pictures left out that are named

app = typer.Typer(help="Data sets: list, add, fetch, split, show.", no_args_is_help=True)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """All data sets, and which are fetched."""
    from mmlop import config
    from mmlop.data import datasets

    root, params = config.root(), config.load()
    found = [datasets.get(name, params) for name in datasets.names(params)]
    listed = [
        {
            "name": one.name,
            "kind": _kind(one.name, params),
            "variant_of": one.variant_of,
            "classes": one.classes,
            "fetched": (root / "data" / one.name / "manifest.json").exists(),
            "description": one.description,
        }
        for one in found
    ]
    if as_json:
        print_json(listed)
        return
    rows = [
        [
            str(one["name"]),
            f"{one['kind']}, variant of {one['variant_of']}" if one["variant_of"] else str(one["kind"]),
            "?" if one["classes"] is None else str(one["classes"]),
            "yes" if one["fetched"] else "no",
            str(one["description"]),
        ]
        for one in listed
    ]
    show_table("Data sets", ["name", "kind", "classes", "fetched", "what it shows"], rows)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call the data set: small letters, digits, - and _.")],
    path: Annotated[Path, typer.Argument(help="A folder with a folder of pictures per class, or a .csv or .jsonl table.")],
    template: Annotated[str | None, typer.Option(help='A caption with {} for the class, as "a photo of a {}."')] = None,
    licence: Annotated[str | None, typer.Option(help="Of the pictures.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out what cannot be used.")] = False,
    quiet: Quiet = False,
) -> None:
    """Check your own pictures, and enter them in params.yaml. They stay where they are."""
    from mmlop import config
    from mmlop.data import folder, sources

    source = sources.described(name, path, template, licence, skip_bad, config.load())
    found = folder.contents(name, source)
    sources.add(config.root() / "params.yaml", name, source)
    if not quiet:
        typer.echo(f"{name}: {_summary(found)}")
        typer.echo(f"Entered in params.yaml. Next: `mmlop train {name}`, or `dvc repro` for all data sets.")


@app.command()
def fetch(
    dataset: Dataset,
    own_split: Annotated[
        bool, typer.Option("--own-split", help="Where the published split cannot be had, another one will do.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out those of your pictures that cannot be used.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Find out what is in a data set, downloading it if need be, and put its manifest into data/DATASET."""
    from mmlop import config
    from mmlop.data import datasets, sources

    params, root = config.load(), config.root()
    kind = _kind(datasets.get(dataset, params).name, params)
    if own_split and kind != "public":
        raise MmlopError(f"--own-split is for public data sets, and '{dataset}' is {kind}: leave it away.")
    if skip_bad and kind != "own":
        raise MmlopError(f"--skip-bad is for your own pictures, and '{dataset}' is {kind}: leave it away.")
    if own_split:
        sources.allow_own_split(root / "params.yaml", dataset)
    if skip_bad:
        sources.skip_bad(root / "params.yaml", dataset)
    params = config.load()
    if stage := _stage(dataset, params):  # DVC knows it: let it decide, and keep its lock file true
        outside = kind != "built-in"  # the pictures are where DVC does not see them change
        dvc("repro", *(["--force", "--single-item"] if outside else []), stage, quiet=quiet)
        return
    if not quiet:
        logging.basicConfig(level="INFO", format="%(message)s")  # a download says what it waits for
    manifest = datasets.fetch(datasets.get(dataset, params), root / "data" / dataset)
    if not quiet:
        typer.echo(f"{dataset}: {_summary(manifest)}; data/{dataset}/manifest.json lists them")


@app.command()
def split(dataset: Dataset, quiet: Quiet = False) -> None:
    """Draw a data set's few-shot splits into splits/DATASET.json."""
    require_listed(dataset)
    dvc("repro", f"split@{dataset}", quiet=quiet)


@app.command()
def show(
    dataset: Dataset,
    picture: Annotated[
        Path | None, typer.Option("--sheet", help="Where the contact sheet goes. [default: .mmlop/sheets/DATASET.png]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Counts per part and class, base and novel classes, template, licence and split of a fetched data set; examples."""
    from mmlop import config, scoring
    from mmlop.data import datasets
    from mmlop.data.sheet import sheet

    params = config.load()
    datasets.get(dataset, params)
    fetched = datasets.fetched(dataset, params)
    overview = scoring.overview(fetched.manifest)
    shown = sheet(fetched, picture or config.home() / ".mmlop" / "sheets" / f"{dataset}.png")
    if as_json:
        print_json(overview | {"sheet": str(shown)})
        return
    rows = [[c["name"], c["half"], *(str(c[part]) for part in PARTS)] for c in overview["classes"]]
    show_table(f"{dataset}: {overview['source']}", ["class", "half", *PARTS], rows)
    typer.echo(f"template: {overview['template']}   licence: {overview['licence']}   hash: {overview['hash'][:16]}")
    typer.echo(f"split: {overview['split']}, {overview['split_meaning']}")
    for path, reason in overview["skipped"][:SHOWN]:
        typer.echo(f"left out: {path} ({reason})")
    if (more := len(overview["skipped"]) - SHOWN) > 0:
        typer.echo(f"left out: {more} more, which data/{dataset}/manifest.json names")
    typer.echo(f"examples: {shown}")


@app.command()
def docs() -> None:
    """The public data sets as a table in Markdown: what they show, how many pictures, how to come by them."""
    from mmlop.data.public import table

    typer.echo(table.markdown())


def _kind(name: str, params: Params) -> str:
    """built-in, public or own."""
    from mmlop.data import public

    return "own" if name in params.sources else "public" if name in public.SPECS else "built-in"


def _stage(dataset: str, params: Params) -> str | None:
    """The DVC stage that fetches a data set, if params.yaml lists it."""
    if dataset in params.datasets:
        return f"fetch@{dataset}"
    return f"fetch_test@{dataset}" if dataset in params.test_sets else None


def _summary(found: Contents | Manifest) -> str:
    """The pictures by part and the classes, what was left out, and why there are no parts if there are none."""
    parts = Counter(picture.part for picture in found.pictures)
    counted = ", ".join(f"{parts[part]} {part}" for part in PARTS if parts[part])
    said = f"{len(found.pictures)} pictures ({counted}) of {len(found.classes)} classes"
    if found.split == "k-fold":
        said += f"; {SPLITS['k-fold']}"
    if found.skipped:
        said += f"; {len(found.skipped)} left out, {found.skipped[0][0]} ({found.skipped[0][1]}) for one"
    return said
