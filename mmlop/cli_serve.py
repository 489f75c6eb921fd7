"""The command `mmlop serve`."""

from __future__ import annotations

import logging
import socket
import time
import warnings
from pathlib import Path
from typing import Annotated

import typer

from mmlop.cli_output import Device
from mmlop.errors import MmlopError

GRACE = 5  # seconds beyond a request's own timeout that stopping may take


def serve(
    uris: Annotated[
        list[str] | None,
        typer.Argument(
            help="models:/mmlop-NAME@champion, a folder, NAME=FOLDER, or a folder of such; none: all registered."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8000,
    batch: Annotated[int, typer.Option(min=1, help="Pictures computed together.")] = 32,
    delay: Annotated[float, typer.Option(min=0, max=10_000, help="Milliseconds that a picture waits for others.")] = 2,
    adapters: Annotated[int, typer.Option(min=1, help="Adapters kept in memory.")] = 1000,
    refresh: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds after which the registry is asked again.")
    ] = 10,
    queue: Annotated[int, typer.Option(min=1, help="Pictures under way before others are refused.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.001, max=3600, help="Seconds that a request may take.")] = 30,
    max_picture: Annotated[float, typer.Option(min=0.001, max=10_000, help="MB of a picture file.")] = 20,
    max_pixels: Annotated[float, typer.Option(min=0.001, max=10_000, help="Megapixels of a picture.")] = 50,
    max_pictures: Annotated[int, typer.Option(min=1, help="Pictures of one request.")] = 16,
    max_classes: Annotated[int, typer.Option(min=1, help="Class names of one request.")] = 1000,
    log: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Log predictions there, for `mmlop drift`.")] = None,
    log_pictures: Annotated[bool, typer.Option("--log-pictures", help="Log the pictures too.")] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="Print a line for every request.")] = False,
    device: Device = "cpu",
) -> None:
    """Answer HTTP requests with predictions of many adapters, until Ctrl-C.

    There is a page at /, the interface at /docs, numbers for Prometheus at /metrics. Nobody is asked who they are: beyond
    this machine, put a proxy in front that does.
    """
    from mmlop.serving.limits import MB, Limits

    if queue < max_pictures:
        raise MmlopError(f"--queue {queue} has no room for a request of --max-pictures {max_pictures}: make it larger.")
    if log_pictures and log is None:
        raise MmlopError("--log-pictures needs a folder to log to: give --log FOLDER.")
    limits = Limits(
        queue=queue,
        timeout=timeout,
        picture=round(max_picture * MB),
        pictures=max_pictures,
        pixels=round(max_pixels * MB),
        classes=max_classes,
        bodies=max(Limits.bodies, round(max_pictures * max_picture * MB)),
    )
    started = time.monotonic()
    with _bound(host, port) as sock:  # before anything is loaded, as that takes a while
        from mmlop.prediction_log import PredictionLog
        from mmlop.serving.app import create_app
        from mmlop.serving.catalogue import Catalogue
        from mmlop.serving.server import Server
        from mmlop.serving.service import Service
        from mmlop.serving.shelf import Shelf

        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a broken form is its sender's business
        warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # what is too large is refused
        catalogue, shelf = Catalogue(uris or [], refresh=refresh), Shelf(adapters, device)
        service = Service(catalogue, shelf, limits, batch, delay / 1000, PredictionLog(log, log_pictures) if log else None)
        count = service.warm(all_or_none=bool(uris))

        def opened() -> None:
            place = f"[{host}]" if ":" in host else host
            where = f"http://{place}:{sock.getsockname()[1]}"
            noun = "adapter" if count == 1 else "adapters"
            typer.echo(f"Serving {count} {noun} at {where} (ready in {time.monotonic() - started:.1f} s); Ctrl-C stops.")

        Server(create_app(service), service, opened, access_log).serve_on(sock, timeout + GRACE)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port, but does not listen yet. Raises MmlopError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise MmlopError(f"{host}:{port} cannot be listened on ({why}): choose another --port or --host.") from error
    return sock
