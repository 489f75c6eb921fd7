"""A Prefect server for the duration of one command: `python -m pipelines.server dvc repro`.

Without one, every stage starts and stops an ephemeral server of its own, some ten seconds each. Where PREFECT_API_URL is
set, that server is used and none is started.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from mmlop.errors import MmlopError


@contextmanager
def running(seconds: float = 120) -> Iterator[str]:
    """The API's URL, also in PREFECT_API_URL for the block; a server started here is stopped at its end.

    Raises MmlopError if it does not answer within ``seconds``.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        yield url
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ["PREFECT_API_URL"] = url
    try:
        _wait(url, server, seconds)
        yield url
    finally:
        del os.environ["PREFECT_API_URL"]
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise MmlopError(
        f"The Prefect server did not answer at {url} within {seconds:.0f} s: run `prefect server start` to see why."
    )


def main(command: list[str]) -> int:
    if not command:
        print("Error: usage: python -m pipelines.server COMMAND [ARGUMENT ...]", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped too
    try:
        with running():
            return subprocess.call(command)
    except (MmlopError, FileNotFoundError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
