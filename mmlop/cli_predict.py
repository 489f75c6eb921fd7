"""The commands `mmlop predict` and `mmlop evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmlop.cli_output import AsJson, Device, print_json, show_table
from mmlop.errors import MmlopError

if TYPE_CHECKING:
    from mmlop.classifier import Prediction


def predict(
    uri: Annotated[str, typer.Argument(help="models:/mmlop-NAME@champion, runs:/ID/adapter or a folder.")],
    pictures: Annotated[list[Path], typer.Argument(help="Picture files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Labels to show per picture.")] = 1,
    classes: Annotated[str | None, typer.Option(help="Score these class names instead, separated by commas.")] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Classify pictures. Scores are probabilities over one label set, which is named first."""
    from tqdm import tqdm

    import mmlop
    from mmlop import scoring

    classifier = mmlop.load(uri, device)
    names = tuple(name.strip() for name in classes.split(",") if name.strip()) if classes else classifier.classes
    if not as_json:
        whose = "given with --classes" if classes else f"of {classifier.adapter.info.origin.dataset}"
        typer.echo(f"Scoring {len(names)} classes {whose}: {', '.join(names)}", err=True)
    failed = 0
    # A bar only where lines go elsewhere: between them it would be in the way.
    with tqdm(unit=" pictures", disable=sys.stdout.isatty() or not sys.stderr.isatty()) as bar:
        for path, found in scoring.predictions(classifier, scoring.picture_files(pictures), names):
            if isinstance(found, MmlopError):
                failed += 1
                bar.write(f"Error: {found}", file=sys.stderr)
            else:
                typer.echo(_prediction_line(path, found, top, as_json))
            bar.update()
    if failed:
        raise typer.Exit(1)


def evaluate(
    uri: Annotated[str, typer.Argument(help="models:/mmlop-NAME@champion, runs:/ID/adapter or a folder.")],
    dataset: Annotated[str | None, typer.Option(help="Another data set than the adapter's.")] = None,
    part: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Score an adapter on a fetched data set: accuracy, calibration error, per class."""
    import mmlop
    from mmlop import config, scoring
    from mmlop.data import datasets

    classifier = mmlop.load(uri, device)
    name = dataset or classifier.adapter.info.origin.dataset
    score = scoring.score(classifier, datasets.fetched(name, config.load()), part)
    if as_json:
        print_json(score.as_dict())
        return
    rows = [[c, "" if a is None else f"{a:.1f}"] for c, a in score.per_class]
    show_table(f"{uri} on {name} ({part})", ["class", "accuracy %"], rows)
    typer.echo(f"accuracy {score.accuracy:.2f} %, calibration error {score.ece:.2f} %, {score.pictures} pictures")


def _prediction_line(path: Path, found: Prediction, top: int, as_json: bool) -> str:
    pairs = list(zip(found.labels, found.scores, strict=True))[:top]
    if as_json:
        return json.dumps({"path": str(path), "labels": [{"label": label, "score": score} for label, score in pairs]})
    return f"{path}\t" + "\t".join(f"{label} {100 * score:.1f}%" for label, score in pairs)
