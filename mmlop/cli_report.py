"""`mmlop report`: the results as tables, and as a page."""

from __future__ import annotations

import webbrowser
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmlop.cli_output import AsJson, Quiet, print_json, show_table
from mmlop.errors import MmlopError

if TYPE_CHECKING:
    from mmlop.tables import Table


def report(
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write reports/ from what was measured, a page among it, and show the tables."""
    from mmlop import config, page

    root = config.root()
    summary = page.write(root, config.load())
    if as_json:
        print_json(summary)
    elif not quiet:
        _show(summary)
        typer.echo(f"The whole report: {root / page.FILE}")
    if open_page and not webbrowser.open((root / page.FILE).as_uri()):
        raise MmlopError(f"There is no browser here to open {root / page.FILE} with: open it on a machine that has one.")


def _show(summary: dict[str, Any]) -> None:
    from mmlop import tables

    found = list(tables.of(summary))
    for table in found:
        show_table(table.title, *_printed(table))
    typer.echo("\n".join(tables.footnotes(found)))


def _printed(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows; a group's name stands over the first of its columns."""
    groups = [group for group, _ in table.columns]
    shown = ["" if i and groups[i - 1] == group else group for i, group in enumerate(groups)]
    columns = [f"{group}\n{name}" for group, (_, name) in zip(shown, table.columns, strict=True)]
    return [f"\n{table.first}", *columns], [list(row) for row in table.rows]
