"""A real HTTP server on 127.0.0.1 for files, with ranges, that can be told to misbehave path by path.

A plugin too: ``pytest_plugins = ["file_server"]`` gives the fixture ``file_server``. (PYTEST_DONT_REWRITE, as tests also
import it.)
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import pytest


class Request(NamedTuple):
    """Equals the plain pair (path, range)."""

    path: str
    range: str | None  # the header as it came: "bytes=100-"


@dataclass(frozen=True)
class Fault:
    """How an answer differs from the file as it is."""

    status: int | None = None  # answer with this status and no file
    body: bytes | None = None  # these bytes instead of the file's
    headers: Mapping[str, str] = field(default_factory=dict)  # added to, or instead of, the usual ones
    cut_after: int | None = None  # bytes of the body after which the connection is dropped
    pace: int | None = None  # bytes a second, in ten small writes
    ranges: bool = True  # False: a range that is asked for is ignored
    validators: bool = True  # False: neither ETag nor Last-Modified
    chunked: bool = False  # chunks, and so no Content-Length


class FileServer:
    """Files by path; what was asked for is in ``requests``, in order."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        self._files: dict[str, bytes] = {}
        self._faults: dict[str, list[tuple[Fault, int | None]]] = {}
        self._sent: dict[str, int] = {}
        self._lock = threading.Lock()
        server = self

        class Bound(_Handler):
            files = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._http.daemon_threads = True

    def add(self, path: str, data: bytes | Path) -> str:
        """Serve these bytes (a file, or every file below a folder) as ``path``; its address."""
        if isinstance(data, Path) and data.is_dir():
            for file in sorted(p for p in data.rglob("*") if p.is_file()):
                self.add(f"{path}/{file.relative_to(data).as_posix()}", file)
        else:
            self._files[_clean(path)] = data if isinstance(data, bytes) else data.read_bytes()
        return self.url(path)

    def fault(self, path: str, fault: Fault, times: int | None = None) -> None:
        """Misbehave for the next ``times`` requests of ``path``, or for good; further faults come after this one."""
        self._faults.setdefault(_clean(path), []).append((fault, times))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/{quote(_clean(path))}"

    def asked(self, path: str) -> list[str | None]:
        """The ranges that were asked for of ``path``, None for all of it."""
        return [request.range for request in list(self.requests) if request.path == _clean(path)]

    def sent(self, path: str) -> int:
        """How many bytes of bodies have gone out for ``path``."""
        return self._sent.get(_clean(path), 0)

    @contextmanager
    def running(self) -> Iterator[FileServer]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    def take(self, request: Request) -> tuple[bytes | None, Fault]:
        """Note the request; what there is to serve, and how."""
        with self._lock:
            self.requests.append(request)
            waiting = self._faults.get(request.path, [])
            if not waiting:
                return self._files.get(request.path), Fault()
            fault, times = waiting[0]
            if times is not None:
                waiting[:1] = [(fault, times - 1)] if times > 1 else []
            return self._files.get(request.path), fault

    def count(self, path: str, sent: int) -> None:
        with self._lock:
            self._sent[path] = self._sent.get(path, 0) + sent


def _clean(path: str) -> str:
    return path.lstrip("/")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: ClassVar[FileServer]

    def do_GET(self) -> None:
        self.close_connection = True
        path, asked = _clean(unquote(urlsplit(self.path).path)), self.headers.get("Range")
        data, fault = self.files.take(Request(path, asked))
        if fault.status is not None or (data is None and fault.body is None):
            self._head(fault.status or 404, fault, {"Content-Type": "text/plain"}, len(fault.body or b""))
            return self._body(path, fault.body or b"", fault)
        data = fault.body if fault.body is not None else data
        assert data is not None
        headers = {"Content-Type": "application/octet-stream"}
        if fault.validators:
            headers |= {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Last-Modified": formatdate(0, usegmt=True)}
        start = self._start(asked, headers) if fault.ranges else None
        if start is None:
            self._head(200, fault, headers, len(data))
            self._body(path, data, fault)
        elif start >= len(data):
            self._head(416, fault, {"Content-Range": f"bytes */{len(data)}"}, 0)
        else:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._head(206, fault, headers, len(data) - start)
            self._body(path, data[start:], fault)

    def _start(self, asked: str | None, headers: Mapping[str, str]) -> int | None:
        """Where an open range starts; None if all of the file is to be sent."""
        condition = self.headers.get("If-Range")
        if asked is None or (condition and condition not in (headers.get("ETag"), headers.get("Last-Modified"))):
            return None
        return int(asked.removeprefix("bytes=").split("-")[0])

    def _head(self, status: int, fault: Fault, headers: Mapping[str, str], length: int) -> None:
        size = {"Transfer-Encoding": "chunked"} if fault.chunked else {"Content-Length": str(length)}
        self.send_response(status)
        for name, value in {**headers, **size, "Connection": "close", **fault.headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, path: str, data: bytes, fault: Fault) -> None:
        step = 65536 if fault.pace is None else max(1, fault.pace // 10)
        end = len(data) if fault.cut_after is None else min(fault.cut_after, len(data))
        try:
            for at in range(0, end, step):
                piece = data[at : min(at + step, end)]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if fault.chunked else piece)
                self.files.count(path, len(piece))
                if fault.pace is not None and self.files.stopping.wait(len(piece) / fault.pace):
                    return
            if fault.chunked and end == len(data):
                self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the other side has gone: nothing to tell it
            pass

    def log_message(self, *_: object) -> None:
        """Silence: what was asked for is in `requests`."""


@pytest.fixture
def file_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with FileServer().running() as server:
        yield server
