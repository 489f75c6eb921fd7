"""`mmlop serve` as a real process, under load and among clients that do not mean well."""

from __future__ import annotations

import asyncio
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np
import psutil
import pytest
from make_adapter import make_adapter
from make_run import make_run, relabel, save_backbone
from PIL import Image
from playwright.sync_api import Browser, expect

from mmlop import backbone as backbones
from mmlop import config, registry
from mmlop.adapter import identity
from mmlop.classifier import Classifier, Prediction

pytest_plugins = ["chromium", "project_fixtures"]
pytestmark = pytest.mark.slow

T = TypeVar("T")
ADAPTERS, PICTURES, REQUESTS = 60, 8, 5000
NAMES = tuple(f"adapter-{number:02d}" for number in range(ADAPTERS))
CANDIDATES = ("a red bus", "cat", "a sheep")
TIMEOUT = 8  # seconds


class Served:
    """A process that serves on a free port."""

    def __init__(self, *arguments: object, folder: Path | None = None) -> None:
        command = [sys.executable, "-m", "mmlop.cli", "serve", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        found = re.search(r"Serving \d+ adapters? at http://127\.0\.0\.1:(\d+) \(ready in ", said)
        if found is None:
            self.process.kill()
            pytest.fail(f"it said {said!r} and {self.process.communicate()[1][-2000:]}")
        self.port = int(found[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory(self) -> float:
        """MB"""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def signal(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> tuple[int, str]:
        """Its exit code, and what it had to say."""
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def spoken(self, data: bytes, patience: float = 20) -> bytes:
        """What comes back on a connection that ``data`` was sent on, until it is closed or silent."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=patience)) as connection:
            found = b""
            try:
                connection.sendall(data)
                while piece := connection.recv(65536):
                    found += piece
                    if b"\r\n\r\n" in found and b"}" in found:
                        break
            except (ConnectionError, TimeoutError):
                pass
            return found


def finished(scenario: Coroutine[Any, Any, T]) -> T:
    """What it comes to; in a thread, since Playwright leaves a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, scenario).result()


def picture(number: int) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((40, 36), Image.Resampling.BILINEAR).save(file, "PNG")
    return file.getvalue()


FILES = [picture(number) for number in range(PICTURES)]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("live")
    tiny = backbones.load(str(save_backbone(root / "tiny")))
    for number, name in enumerate(NAMES):
        make_adapter(tiny, number).save(root / "adapters" / name)
    return root / "adapters"


@pytest.fixture(scope="module")
def expected(adapters: Path) -> dict[tuple[str, bool], list[Prediction]]:
    """What each adapter says of each picture, among its own classes and among CANDIDATES."""
    found = {}
    for name in NAMES:
        classifier = Classifier.load(adapters / name)
        found[name, False] = classifier.predict(FILES)
        found[name, True] = classifier.predict(FILES, CANDIDATES)
    return found


@pytest.fixture(scope="module")
def served(adapters: Path) -> Iterator[Served]:
    options = ("--queue", 64, "--max-picture", 1, "--max-pictures", 4, "--timeout", TIMEOUT)
    one = Served(adapters, *options)
    yield one
    one.stop()


def agrees(said: dict[str, Any], name: str, want: Prediction) -> bool:
    labels = [one["label"] for one in said["labels"]]
    scores = np.array([one["score"] for one in said["labels"]])
    return labels == list(want.labels) and bool(np.abs(scores - want.scores).max() < 1e-4)


def test_every_request_is_answered_by_its_own_adapter(
    served: Served, adapters: Path, expected: dict[tuple[str, bool], list[Prediction]]
) -> None:
    first = [np.array([dict(zip(one.labels, one.scores, strict=True))["cat"] for one in expected[n, False]]) for n in NAMES]
    apart = [np.abs(a - b).max() for place, a in enumerate(first) for b in first[:place]]
    assert min(apart) > 5e-3  # no adapter could be mistaken for another
    identities = {name: identity(adapters / name) for name in NAMES}
    draw = random.Random(0)
    asked = [(draw.choice(NAMES), draw.sample(range(PICTURES), draw.choice((1, 1, 1, 2))), draw.random() < 0.1)
             for _ in range(REQUESTS)]  # fmt: skip
    wrong: list[object] = []
    told: Counter[str] = Counter()

    async def one(session: aiohttp.ClientSession, name: str, numbers: list[int], own: bool) -> None:
        query = [("adapter", name), *(("classes", label) for label in CANDIDATES if own)]
        body: Any = FILES[numbers[0]]
        if len(numbers) > 1:
            body = aiohttp.FormData()
            for number in numbers:
                body.add_field("picture", FILES[number], filename=f"{number}.png")
        async with session.post(f"{served.url}/predict", params=query, data=body) as answer:
            said = await answer.json()
        told[said.get("adapter", str(said))] += 1
        right = answer.status == 200 and (said["adapter"], said["identity"]) == (name, identities[name])
        right = right and len(said["predictions"]) == len(numbers)
        if not right or not all(
            agrees(found, name, expected[name, own][number])
            for found, number in zip(said["predictions"], numbers, strict=True)
        ):
            wrong.append((name, numbers, own, answer.status, said))

    async def worker(session: aiohttp.ClientSession, waiting: Iterator[tuple[str, list[int], bool]]) -> None:
        for name, numbers, own in waiting:
            await one(session, name, numbers, own)

    async def scenario() -> None:
        waiting = iter(asked)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=24)) as session:
            await asyncio.gather(*[worker(session, waiting) for _ in range(24)])

    finished(scenario())
    assert wrong == []
    assert told == Counter(name for name, _, _ in asked)
    assert len(told) == ADAPTERS


def test_overload_is_refused_and_passes(served: Served) -> None:
    before, ceiling = served.memory, 0.0
    big = FILES[0] + bytes(900_000)  # Pillow does not mind what follows a picture

    async def one(session: aiohttp.ClientSession) -> int:
        nonlocal ceiling
        async with session.post(f"{served.url}/predict", params={"adapter": NAMES[0]}, data=big) as answer:
            said = await answer.json()
            ceiling = max(ceiling, served.memory)
            if answer.status != 200:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
                assert "try again" in said["detail"]
            return answer.status

    async def scenario() -> tuple[Counter[int], list[int]]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=300)) as session:
            statuses = Counter(await asyncio.gather(*[one(session) for _ in range(900)]))
            return statuses, [await one(session) for _ in range(20)]

    statuses, afterwards = finished(scenario())
    assert statuses[200] > 50
    assert statuses[503] > 50
    assert afterwards == [200] * 20
    assert ceiling - before < 300


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *lines, "", ""]).encode()


PREDICT = f"/predict?adapter={NAMES[0]}"
CHUNK = b"%x\r\n%s\r\n" % (65536, bytes(65536))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head(PREDICT, "Content-Length: 5000000") + bytes(5_000_000), 413),
        (head(PREDICT, "Transfer-Encoding: chunked") + CHUNK * 100, 413),
        (head(PREDICT, "Content-Length: -1"), 400),
        (b"GET nonsense\r\n\r\n", 400),
        (head("/predict?adapter=" + "x" * 300_000), 400),
        (head("/predict?adapter=" + "x" * 200_000, f"Content-Length: {len(FILES[0])}") + FILES[0], 404),
        (head(PREDICT, "Content-Type: multipart/form-data; boundary=b", "Content-Length: 9") + b"--b\r\n\r\n\r\n", 400),
        *(
            (head(path, "Connection: close", method="GET"), 404)
            for path in (
                "/adapters/../../../../etc/passwd",
                "/adapters/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
                "/adapters//etc/passwd",
                "/docs-files/../../../../../../../etc/passwd",
                "/docs-files/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
                "/docs-files//etc/passwd",
            )
        ),
    ],
)
def test_clients_that_mean_no_good(served: Served, data: bytes, status: int) -> None:
    said = served.spoken(data)
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert b"root:" not in said
    assert b"Traceback" not in said


def health(served: Served) -> dict[str, Any]:
    said = served.spoken(head("/healthz", "Connection: close", method="GET"))
    found: dict[str, Any] = json.loads(said.partition(b"\r\n\r\n")[2])
    return found


def test_clients_that_are_slow_or_leave(served: Served) -> None:
    start = time.monotonic()
    leaving = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(80)]  # more than there are places
    for connection in leaving:
        connection.sendall(head(PREDICT, "Content-Length: 1000") + b"x" * 10)
    for connection in leaving[40:]:
        connection.close()
    while health(served)["queue"] > 40:
        assert time.monotonic() - start < TIMEOUT
        time.sleep(0.05)
    said = served.spoken(head(PREDICT, "Content-Length: 1000") + b"x" * 10, patience=TIMEOUT + 10)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert TIMEOUT <= time.monotonic() - start < TIMEOUT + 10
    for connection in leaving[:40]:
        connection.close()
    asked = head(PREDICT, f"Content-Length: {len(FILES[0])}") + FILES[0]
    assert served.spoken(asked).startswith(b"HTTP/1.1 200 ")
    assert health(served) == {"status": "ok", "adapters": ADAPTERS, "queue": 0}


def test_the_interface_is_shown_without_asking_others(served: Served, browser: Browser) -> None:
    page = browser.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto(f"{served.url}/docs")
    page.get_by_text("Classify pictures").click()
    expect(page.get_by_text("of whatever content type")).to_be_visible()
    page.close()
    assert complaints == []
    assert len(asked) > 3
    assert all(url.startswith((served.url, "data:")) for url in asked)


def test_a_signal_ends_it_once_all_are_answered(adapters: Path) -> None:
    served = Served(*[adapters / name for name in NAMES[:4]])
    answers: list[tuple[float, int]] = []  # when it was asked, and the status; 0: the connection was refused or closed

    async def client(session: aiohttp.ClientSession, name: str) -> None:
        while True:
            asked, status = time.monotonic(), 0
            try:
                async with session.post(f"{served.url}/predict", params={"adapter": name}, data=FILES[0]) as answer:
                    await answer.json()
                    status = answer.status
            except aiohttp.ClientConnectionError:
                pass
            answers.append((asked, status))
            if status != 200:
                return

    async def scenario() -> float:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32)) as session:
            clients = [asyncio.create_task(client(session, NAMES[number % 4])) for number in range(32)]
            await asyncio.sleep(2)
            signalled = time.monotonic()
            served.signal()
            await asyncio.wait_for(asyncio.gather(*clients), 20)
            return signalled

    try:
        signalled = finished(scenario())
        code, said = served.ended()
    finally:
        served.stop()
    assert (code, said) == (0, "")
    before = [status for asked, status in answers if asked < signalled - 0.02]
    assert len(before) > 100
    assert set(before) == {200}
    assert {status for _, status in answers} <= {200, 503, 0}


def test_a_second_signal_ends_it_at_once(adapters: Path) -> None:
    served = Served(adapters / NAMES[0])
    try:
        with closing(socket.create_connection(("127.0.0.1", served.port))) as connection:
            connection.sendall(head(PREDICT, "Content-Length: 1000") + b"x")
            time.sleep(0.5)
            served.signal()
            time.sleep(1.5)
            assert served.process.poll() is None  # it waits for the rest of that body
            served.signal()
            code, _ = served.ended()
        assert code == 1
    finally:
        served.stop()


HUNG = """
import os, signal, socket, threading, time
from mmlop.serving.app import create_app
from mmlop.serving.batching import Batcher
from mmlop.serving.catalogue import Catalogue
from mmlop.serving.limits import Limits
from mmlop.serving.server import Server
from mmlop.serving.service import Service
from mmlop.serving.shelf import Shelf
service = Service(Catalogue(), Shelf(1), Limits())
service.batcher.stop()
service.batcher = Batcher(lambda ones: time.sleep(60), 1, 0.0)
service.batcher.submit(1)
sock = socket.socket()
sock.bind(("127.0.0.1", 0))
Server(create_app(service), service, lambda: os.kill(os.getpid(), signal.SIGTERM)).serve_on(sock, 1)
"""


def test_a_signal_ends_it_though_a_computation_hangs(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", HUNG], cwd=tmp_path, capture_output=True, text=True, timeout=40)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == ["A computation did not end in time: the process ends without it."]


def test_a_promotion_goes_live(project: Path, backbone: Path) -> None:
    registry.publish(make_run(project, "toy", backbone, seed=1, noise=5.0), {})
    folder = make_run(project, "toy", backbone, seed=2, noise=5.0)
    relabel(project, "toy", folder / "adapter")
    registry.register(folder, registry.publish(folder, {}, register=False).run_id)
    wanted = {}
    for number in (1, 2):
        (wanted[number],) = Classifier.load(registry.resolve(f"models:/mmlop-toy/{number}")).predict(FILES[0])
    served = Served("--refresh", 1, folder=project)

    async def asked(session: aiohttp.ClientSession, name: str = "mmlop-toy@champion") -> int:
        async with session.post(f"{served.url}/predict", params={"adapter": name}, data=FILES[0]) as answer:
            said = await answer.json()
        assert answer.status == 200, said
        assert agrees(said["predictions"][0], name, wanted[said["version"]])
        return int(said["version"])

    async def scenario() -> None:
        async with aiohttp.ClientSession() as session:
            assert await asked(session) == 1
            promoting = asyncio.get_running_loop().run_in_executor(
                None, lambda: registry.promote("toy", 2, config.Champion(), force="for the test")
            )
            while not promoting.done():
                await asked(session)
                await asyncio.sleep(0.02)
            promoted, seen = time.monotonic(), 1
            while seen == 1:
                assert time.monotonic() - promoted < 5
                seen = await asked(session)
                await asyncio.sleep(0.02)
            assert seen == 2
            assert [await asked(session, f"mmlop-toy/{number}") for number in (1, 2)] == [1, 2]

    try:
        finished(scenario())
        served.signal()
        assert served.ended()[0] == 0
    finally:
        served.stop()
