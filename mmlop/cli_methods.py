"""The command `mmlop methods`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from mmlop.cli_output import AsJson, print_json, show_table


def methods(
    name: Annotated[str | None, typer.Argument(help="A method, to see its published settings.")] = None,
    as_json: AsJson = False,
) -> None:
    """The methods that `method` in params.yaml can name, or the published settings of one.

    What applies on your backbone, with your params.yaml, is what `mmlop params check` shows.
    """
    from mmlop.methods import METHODS, get

    if name is None:
        if as_json:
            print_json({name: _as_json(name) for name in METHODS})
        else:
            rows = [[name, method.title, method.about] for name, method in METHODS.items()]
            show_table("method: one of these, in params.yaml", ["name", "title", "what it is"], rows)
        return
    method = get(name)
    if as_json:
        print_json(_as_json(name))
        return
    typer.echo(f"{method.title}: {method.about} ({method.paper}).")
    rows = [
        [f"{section}.{key}", str(value)] for section, values in _settings(name).items() for key, value in values.items()
    ]
    if not rows:
        typer.echo(f"It has no settings. Source: {method.source}")
        return
    typer.echo(f"Settings for ViT-B/16, base-to-novel, 16 shots, from: {method.source}\n")
    show_table("", ["key", "value"], rows)


def _settings(name: str) -> dict[str, dict[str, Any]]:
    from mmlop.methods import get

    found = get(name).settings.model_dump(exclude_none=True)
    return {section: values for section, values in found.items() if values}


def _as_json(name: str) -> dict[str, Any]:
    from mmlop.methods import get

    about = {key: value for key, value in asdict(get(name)).items() if key != "settings"}
    return about | {"settings": _settings(name)}
