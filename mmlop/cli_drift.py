"""The command `mmlop drift`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmlop.cli_output import AsJson, Quiet, print_json

DRIFTED = 3  # exit code, with --fail


def drift(
    name: Annotated[str, typer.Argument(help="A data set (its champion), mmlop-NAME@champion, models:/... or a folder.")],
    log: Annotated[Path | None, typer.Option(help="Folder of `mmlop serve --log`; as a rule drift.log.")] = None,
    since: Annotated[str | None, typer.Option(help="How far back, for instance 12h or 7d; as a rule drift.since.")] = None,
    fail: Annotated[bool, typer.Option("--fail", help=f"Exit with {DRIFTED} where there is drift.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; as a rule as in params.yaml.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare pictures that were sent to a service with validation pictures, and write a report to reports/drift/.

    It is no error if there is drift, or if there are too few pictures to tell: the exit code is 0 unless --fail is given.
    """
    from mmlop import config, drift_check, drift_report

    check = drift_check.check(name, config.load(), log, since, device)
    page = drift_report.write(config.root(), check)
    if as_json:
        print_json(check.as_dict() | {"report": str(page)})
    elif not quiet:
        typer.echo(check.sentence)
        typer.echo(f"The whole report: {page}")
    if fail and check.found.outcome == "drifted":
        raise typer.Exit(DRIFTED)
