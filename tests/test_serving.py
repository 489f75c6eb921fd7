"""The HTTP service inside the process: answers, limits, errors, batches. A real server is in `test_serving_live.py`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import logging
import re
import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from make_adapter import CLASSES, make_adapter
from make_run import save_backbone
from PIL import Image
from said import Run, error

from mmlop import adapter as adapters
from mmlop import backbone as backbones
from mmlop import prediction_log
from mmlop.adapter import Reported
from mmlop.classifier import Classifier
from mmlop.errors import MmlopError
from mmlop.prediction_log import PredictionLog
from mmlop.probe import ProbeShape
from mmlop.serving import bodies, mixed
from mmlop.serving.answers import About, Predicted, Problem
from mmlop.serving.app import create_app
from mmlop.serving.batching import Batcher, BatchFailed
from mmlop.serving.catalogue import Catalogue
from mmlop.serving.limits import Limits, Place, Refused, Room
from mmlop.serving.service import Pool, Service
from mmlop.serving.shelf import Shelf

pytest_plugins = ["cli_fixtures", "project_fixtures"]

LIMITS = Limits(picture=100_000, pictures=3, classes=4, letters=150, pixels=1_000_000, queue=4, timeout=20, bodies=250_000)


def picture(number: int = 0, size: tuple[int, int] = (40, 36), kind: str = "PNG") -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def form(*parts: bytes, name: str = "picture", end: bytes = b"--\r\n") -> tuple[bytes, dict[str, str]]:
    head = f'--line\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'.encode()
    body = b"".join(head + part + b"\r\n" for part in parts) + b"--line" + end
    return body, {"content-type": "multipart/form-data; boundary=line"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters `one` and `two`, which answer differently, and a linear probe."""
    root = tmp_path_factory.mktemp("served")
    tiny = backbones.load(str(save_backbone(root / "tiny")))
    report = {"base": Reported(mean=80.0, std=1.0, seeds=3)}
    make_adapter(tiny, 1, pictures={"accuracy": 40}, report=report).save(root / "adapters" / "one")
    make_adapter(tiny, 2).save(root / "adapters" / "two")
    probe = make_adapter(tiny, 3)
    shape = ProbeShape(len(CLASSES), tiny.embed_dim)
    factors = {name: torch.randn(size) for name, size in shape.factors.items()}
    changed = probe.info.model_copy(update={"method": "linear_probe", "shape": shape, "drift_correction": False})
    type(probe)(factors, changed).save(root / "adapters" / "probe")
    return root / "adapters"


class Gate:
    """The real computation, which can be held up, or made to fail, and says what it computed."""

    def __init__(self) -> None:
        self.open, self.entered, self.failing = threading.Event(), threading.Event(), False
        self.open.set()
        self.pictures = 0

    def __call__(self, asked: Sequence[mixed.Asked]) -> Sequence[Any]:
        self.entered.set()
        assert self.open.wait(20)
        if self.failing:
            raise RuntimeError("out of memory, say")
        self.pictures += len(asked)
        return mixed.answer(asked)


Make = Callable[..., Service]


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    made: list[Service] = []

    def service(limits: Limits = LIMITS, gate: Gate | None = None, **options: Any) -> Service:
        one = Service(Catalogue([str(folder)]), Shelf(10), limits, **options)
        if gate is not None:
            one.batcher.stop()
            one.batcher = Batcher(gate, 32, 0.0)
        made.append(one)
        return one

    yield service
    for one in made:
        one.stop()


@pytest.fixture
def app(make: Make) -> FastAPI:
    return create_app(make())


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    read: int  # bytes of the request's body that were taken

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """The one sentence of a refusal."""
        said: str = Problem.model_validate(self.json).detail
        assert "\n" not in said
        assert said.endswith((".", "?"))
        return said


@dataclass
class Client:
    """An ASGI client that sends its body piece by piece, and may go away."""

    app: FastAPI
    pieces: Sequence[bytes] = ()
    headers: dict[str, str] = field(default_factory=dict)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    pause: float = 0.0  # seconds before each piece

    async def ask(self, method: str, path: str, **query: Any) -> Reply:
        pieces, read, sent = list(self.pieces), 0, []
        raw = quote(path, safe="/%")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": raw.encode(),
            "root_path": "",
            "query_string": urlencode(query, doseq=True).encode(),
            "headers": [(name.encode(), value.encode()) for name, value in self.headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "scheme": "http",
            "http_version": "1.1",
        }
        whole = False

        async def receive() -> dict[str, Any]:
            nonlocal read, whole
            if whole:
                await self.gone.wait()
                return {"type": "http.disconnect"}
            await asyncio.sleep(self.pause)
            piece = pieces.pop(0) if pieces else b""
            read, whole = read + len(piece), not pieces
            return {"type": "http.request", "body": piece, "more_body": not whole}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start, *rest = sent
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return Reply(start["status"], headers, b"".join(one.get("body", b"") for one in rest), read)


def post(app: FastAPI, body: bytes, headers: dict[str, str] | None = None, adapter: str = "one", **query: Any) -> Reply:
    return asyncio.run(Client(app, [body], headers or {}).ask("POST", "/predict", adapter=adapter, **query))


def get(app: FastAPI, path: str) -> Reply:
    return asyncio.run(Client(app).ask("GET", path))


def test_answers_are_those_of_the_classifier(app: FastAPI, folder: Path) -> None:
    files = [picture(1), picture(2, kind="WEBP"), picture(3, kind="BMP")]
    answers = []
    for name in ("one", "two", "probe"):
        reply = post(app, *form(*files), name)
        assert reply.status == 200
        found = Predicted.model_validate(reply.json)
        assert (found.adapter, found.version, found.identity) == (name, None, adapters.identity(folder / name))
        for one, want in zip(found.predictions, Classifier.load(folder / name).predict(files), strict=True):
            assert [label.label for label in one.labels] == list(want.labels)
            assert [label.score for label in one.labels] == pytest.approx(want.scores, abs=1e-5)
        answers.append(found.predictions)
    assert answers[0] != answers[1] != answers[2]


def test_single_pictures_top_and_candidates(app: FastAPI, folder: Path) -> None:
    classifier, names = Classifier.load(folder / "two"), ["a bus", "cat"]
    for number in range(3):
        (want,) = classifier.predict(picture(number), names)
        (found,) = post(app, picture(number), {"content-type": "text/plain"}, "two", classes=names).json["predictions"]
        assert [one["label"] for one in found["labels"]] == list(want.labels)
        assert [one["score"] for one in found["labels"]] == pytest.approx(want.scores, abs=1e-5)
        (first,) = post(app, picture(number), adapter="two", classes=names, top=1).json["predictions"]
        assert first["labels"] == found["labels"][:1]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["a", "b", "c", "d", "e"], "5 classes"),
        (["x" * 151], "151 letters"),
        (["a", " "], "empty"),
        (["a", "b", "a"], "'a' is named twice"),
        (["1 2 3 4 5 6 7 8 9 " * 8], "shorten the class name"),
    ],
)
def test_class_names_that_are_not_usable(app: FastAPI, classes: list[str], said: str) -> None:
    reply = post(app, picture(), classes=classes)
    assert reply.status == 400
    assert said in reply.detail


def test_a_probe_knows_its_own_classes_alone(app: FastAPI) -> None:
    assert post(app, picture(), adapter="probe", classes=list(CLASSES[:2])).status == 200
    reply = post(app, picture(), adapter="probe", classes=["bus"])
    assert reply.status == 400
    assert "'bus'" in reply.detail


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, all of them zero."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    found = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")):
        found += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return found


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "missing"),
        (b"no picture at all", 415, "17 bytes"),
        (EPS, 415, "no picture"),
        (picture()[:2000], 400, "broken"),
        (bomb(1001, 1000), 413, "1001 x 1000"),
        (bomb(12_000, 12_000), 413, "12000 x 12000"),
        (bomb(60_000, 60_000), 413, "far too many"),
        (picture(size=(200, 200)), 413, "0.1 MB"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size")
def test_pictures_that_are_not_usable(app: FastAPI, body: bytes, status: int, said: str) -> None:
    for reply in (post(app, body), post(app, *form(picture(), body))):
        assert reply.status == status
        assert said in reply.detail
    if status in (400, 415) and body:
        assert reply.detail.startswith("Picture 2 of 2: ")


def test_as_many_pixels_as_are_allowed(app: FastAPI) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1000, 1000)).save(file, "PNG")
    assert post(app, file.getvalue()).status == 200


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (form(picture(), name="file"), 400, "named 'file'"),
        (form(*[picture()] * 4), 413, "more than 3 pictures"),
        (form(picture(), end=b"\r\n"), 400, "before its last boundary"),
        (form(picture(), end=b""), 400, "before its last boundary"),
        (form(), 400, "missing"),
        ((form(picture())[0], {"content-type": "multipart/form-data"}), 400, "no boundary"),
        ((b"\r\n\r\nrubbish", form()[1]), 400, "before its last boundary"),
        ((picture(), form()[1]), 400, "cannot be read"),
        ((b"--line\r\nno header\r\n\r\n\r\n--line--\r\n", form()[1]), 400, "cannot be read"),
    ],
)
def test_forms_that_are_not_usable(app: FastAPI, body: tuple[bytes, dict[str, str]], status: int, said: str) -> None:
    reply = post(app, *body)
    assert reply.status == status
    assert said in reply.detail
    assert post(app, picture()).status == 200


@pytest.mark.parametrize("kind", ["whole", "form"])
def test_too_large_a_body_is_refused_while_it_comes_in(app: FastAPI, kind: str) -> None:
    data, headers = (bytes(300_000), {}) if kind == "whole" else form(bytes(300_000))
    pieces = [data[at : at + 10_000] for at in range(0, len(data), 10_000)]
    reply = asyncio.run(Client(app, pieces, headers).ask("POST", "/predict", adapter="one"))
    assert reply.status == 413
    assert 100_000 < reply.read <= 110_000
    told = headers | {"content-length": "100001" if kind == "whole" else "400000"}
    reply = asyncio.run(Client(app, pieces, told).ask("POST", "/predict", adapter="one"))
    assert (reply.status, reply.read) == (413, 0)


@pytest.mark.parametrize(
    "name", ["three", "../adapters/one", "/etc/passwd", "..", "one/", "one/../two", "models:/one", "\0"]
)
def test_names_that_are_not_served(app: FastAPI, folder: Path, name: str) -> None:
    for asked in (name, str(folder / "one")):
        replies = [post(app, picture(), adapter=asked), get(app, f"/adapters/{asked}")]
        for reply in replies:
            assert reply.status == 404
            assert "one" in reply.detail


def test_the_list_and_the_description(app: FastAPI) -> None:
    assert get(app, "/adapters").json == {"adapters": ["one", "probe", "two"]}
    one = About.model_validate(get(app, "/adapters/one").json)
    assert (one.name, one.version, one.classes) == ("one", None, list(CLASSES))
    assert one.report["base"].mean == 80
    (interval,) = one.intervals.values()
    assert interval[0] < one.metrics["accuracy"] < interval[1]
    assert one.open_vocabulary
    assert "<h1>" in one.card
    assert not About.model_validate(get(app, "/adapters/probe").json).open_vocabulary


def test_every_problem_is_one_sentence(app: FastAPI) -> None:
    assert "'adapter'" in asyncio.run(Client(app).ask("POST", "/predict")).detail
    assert "'top'" in post(app, picture(), top=0).detail
    assert post(app, picture(), top="many").status == 422
    assert get(app, "/nothing/here").status == 404
    assert "/nothing/here" in get(app, "/nothing/here").detail
    assert get(app, "/predict").status == 405
    assert get(app, "/predict").detail


def test_a_full_queue_refuses_before_it_reads(make: Make) -> None:
    gate = Gate()
    service = make(gate=gate)
    app = create_app(service)

    async def scenario() -> None:
        gate.open.clear()
        waiting = [asyncio.create_task(Client(app, [picture()]).ask("POST", "/predict", adapter="one")) for _ in range(4)]
        await until(lambda: service.room.pictures == 4)
        refused = await Client(app, [picture()]).ask("POST", "/predict", adapter="one")
        assert (refused.status, refused.read, refused.headers["retry-after"]) == (503, 0, "1")
        assert "4 pictures" in refused.detail
        gate.open.set()
        assert [one.status for one in await asyncio.gather(*waiting)] == [200] * 4
        assert (await Client(app, [picture()]).ask("POST", "/predict", adapter="one")).status == 200

    asyncio.run(scenario())
    assert (service.room.pictures, service.room.bytes) == (0, 0)


def test_bodies_of_all_requests_together_are_bounded(make: Make) -> None:
    service = make()
    app = create_app(service)

    async def scenario() -> None:
        pieces = [bytes(90_000), b"x"]
        slow = [Client(app, pieces, pause=0.2).ask("POST", "/predict", adapter="one") for _ in range(3)]
        assert sorted(one.status for one in await asyncio.gather(*slow)) == [415, 415, 503]

    asyncio.run(scenario())
    assert (service.room.pictures, service.room.bytes) == (0, 0)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("why", ["late", "gone"])
def test_what_nobody_waits_for_is_not_computed(make: Make, why: str) -> None:
    gate = Gate()
    service = make(Limits(timeout=0.5 if why == "late" else 20), gate)
    service.warm()
    app = create_app(service)

    async def scenario() -> None:
        gate.open.clear()
        clients = [Client(app, [picture()]) for _ in range(2)]
        first = asyncio.create_task(clients[0].ask("POST", "/predict", adapter="one"))
        await until(gate.entered.is_set)
        second = asyncio.create_task(clients[1].ask("POST", "/predict", adapter="two"))
        await until(lambda: service.batcher.waiting == 1)
        if why == "gone":
            clients[1].gone.set()
        reply = await second
        assert reply.status == (504 if why == "late" else 499)
        if why == "late":
            assert "0.5 s" in reply.detail
        gate.open.set()
        await first
        await until(lambda: service.batcher.waiting == 0)
        assert (await Client(app, [picture()]).ask("POST", "/predict", adapter="one")).status == 200

    asyncio.run(scenario())
    assert gate.pictures == 2  # of three
    assert f'mmlop_pictures_total{{outcome="{why}"}}' in get(app, "/metrics").body.decode()


def test_a_slow_body_is_given_up(make: Make) -> None:
    app = create_app(make(Limits(timeout=0.2)))
    reply = asyncio.run(Client(app, [b"x"] * 100, pause=0.05).ask("POST", "/predict", adapter="one"))
    assert (reply.status, reply.read < 10) == (408, True)
    assert "0.2 s" in reply.detail


def test_a_batch_that_fails_is_told_and_the_next_is_computed(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    app = create_app(make(gate=gate))
    gate.failing = True
    reply = post(app, picture())
    assert reply.status == 500
    assert "out of memory" not in reply.detail
    (told,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert told.exc_info is not None
    assert "out of memory, say" in str(told.exc_info[1])
    gate.failing = False
    assert post(app, picture()).status == 200


def test_an_adapter_that_cannot_be_read(make: Make, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(folder / "one", tmp_path / "broken")
    (tmp_path / "broken" / "adapter.safetensors").write_bytes(b"nothing")
    service = make()
    service.catalogue = Catalogue([str(tmp_path / "broken")])
    app = create_app(service)
    for reply in (post(app, picture(), adapter="broken"), get(app, "/adapters/broken")):
        assert reply.status == 503
        assert str(tmp_path) not in reply.detail
    assert "adapter.safetensors is corrupt" in caplog.text
    for all_or_none in (True, False):
        with pytest.raises(MmlopError, match="corrupt"):
            service.warm(all_or_none)
    service.catalogue = Catalogue([str(tmp_path / "broken"), str(folder)])
    with pytest.raises(MmlopError, match="corrupt"):
        service.warm()
    assert service.warm(all_or_none=False) == 4
    assert post(app, picture(), adapter="two").status == 200
    assert post(create_app(make()), picture()).status == 200


def test_health(make: Make) -> None:
    service = make()
    app = create_app(service)
    assert get(app, "/healthz").status == 503
    assert service.warm() == 3
    assert get(app, "/healthz").json == {"status": "ok", "adapters": 3, "queue": 0}
    service.stopping = True
    for reply in (get(app, "/healthz"), post(app, picture())):
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "stopping" in reply.detail
    service.stopping = False
    service.batcher.stop()
    assert get(app, "/healthz").status == 503


def test_metrics_name_no_adapter(app: FastAPI) -> None:
    for adapter in ("one", "two", "nobody-knows"):
        post(app, picture(), adapter=adapter)
    get(app, "/adapters/one")
    get(app, "/nothing/one")
    shown = get(app, "/metrics").body.decode()
    for line in (
        'mmlop_requests_total{code="200",route="/predict"} 2.0',
        'mmlop_requests_total{code="404",route="/predict"} 1.0',
        'mmlop_requests_total{code="404",route="other"} 1.0',
        'mmlop_pictures_total{outcome="answered"} 2.0',
        'mmlop_pictures_total{outcome="refused"} 1.0',
        "mmlop_batch_pictures_sum 2.0",
        "mmlop_adapter_loads_total 2.0",
        "mmlop_adapters_held 2.0",
        "mmlop_queue 0.0",
    ):
        assert line in shown.splitlines()
    assert "nobody" not in shown
    assert 'one"' not in shown


def test_pages_ask_nobody_else_and_every_answer_is_guarded(app: FastAPI) -> None:
    for path in ("/", "/docs", "/openapi.json", "/adapters", "/nothing", "/docs-files/swagger-ui.css"):
        headers = get(app, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
    page, docs = get(app, "/"), get(app, "/docs")
    (script,) = re.findall(r"<script[^>]*>(.+?)</script>", page.body.decode(), re.S)
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{hashed}'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    for address in re.findall(r'(?:href|src)="([^"]+)"', docs.body.decode()):
        assert "//" not in address
        assert address.startswith("data:") or get(app, f"/{address}").status == 200


def test_the_interface_is_described(app: FastAPI) -> None:
    described = get(app, "/openapi.json").json
    posted = described["paths"]["/predict"]["post"]
    assert set(posted["responses"]) == {"200", "400", "404", "408", "413", "415", "422", "500", "503", "504"}
    assert set(posted["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert "HTTPValidationError" not in described["components"]["schemas"]
    for methods in described["paths"].values():
        for one in methods.values():
            for code, response in one["responses"].items():
                if code != "200":
                    assert response["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")


def test_predictions_are_logged(make: Make, tmp_path: Path) -> None:
    service = make(log=PredictionLog(tmp_path / "log"))
    app = create_app(service)
    first = post(app, *form(picture(1), picture(2))).json
    post(app, picture(3), classes=["a bus", "a car"])
    post(app, b"no picture")
    service.stop()
    logged = prediction_log.read(tmp_path / "log", "one")
    assert list(logged.own) == [True, True, False]
    assert list(logged.labels[:2]) == [one["labels"][0]["label"] for one in first["predictions"]]
    assert logged.features.shape == (3, 16)


def test_httpx_speaks_to_it_too(app: FastAPI) -> None:
    """A client that is not ours, with a body of unknown length."""

    async def body() -> AsyncIterator[bytes]:
        data = picture()
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]

    async def scenario() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            streamed = await client.post("/predict", params={"adapter": "one"}, content=body())
            files = [("picture", ("a.png", picture(), "image/png")), ("picture", ("b.png", picture(1), "image/png"))]
            parts = await client.post("/predict", params={"adapter": "one"}, files=files)
            assert (streamed.status_code, parts.status_code) == (200, 200)
            assert len(parts.json()["predictions"]) == 2

    asyncio.run(scenario())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-5, 100), min_size=1, max_size=60), st.integers(1, 9))
def test_batches_answer_each_its_own(numbers: list[int], size: int) -> None:
    batches: list[int] = []

    def compute(ones: list[int]) -> list[int | Exception]:
        batches.append(len(ones))
        return [ValueError(str(one)) if one < 0 else one * one for one in ones]

    batcher: Batcher[int, int] = Batcher(compute, size, 0.0)
    futures = [batcher.submit(number) for number in numbers]
    dropped = {place for place, future in enumerate(futures) if numbers[place] % 5 == 4 and future.cancel()}
    batcher.stop()
    for place, (number, future) in enumerate(zip(numbers, futures, strict=True)):
        if place in dropped:
            assert future.cancelled()
        elif number < 0:
            assert isinstance(future.exception(), ValueError)
        else:
            assert future.result() == number * number
    assert sum(batches) == len(numbers) - len(dropped)
    assert max(batches, default=0) <= size


def test_a_batch_waits_for_company_but_not_long() -> None:
    batches: list[list[int]] = []
    batcher: Batcher[int, int] = Batcher(lambda ones: batches.append(ones) or ones, 3, 0.3)
    start = time.monotonic()
    first = batcher.submit(1)
    time.sleep(0.05)
    assert batcher.submit(2).result(5) == 2
    assert 0.3 <= time.monotonic() - start < 2
    assert first.done()
    start = time.monotonic()
    for one in [batcher.submit(number) for number in (3, 4, 5)]:
        one.result(5)
    assert time.monotonic() - start < 0.3
    batcher.stop()
    assert batches == [[1, 2], [3, 4, 5]]
    with pytest.raises(RuntimeError):
        batcher.submit(6)


def test_a_batch_of_the_wrong_length_fails_as_a_whole() -> None:
    batcher: Batcher[int, int] = Batcher(lambda ones: ones[1:], 3, 0.0)
    with pytest.raises(BatchFailed):
        batcher.submit(1).result(5)
    batcher.stop()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--queue", "4"], "--max-pictures 16"),
        (["--log-pictures"], "--log FOLDER"),
        (["--host", "256.0.0.1"], "256.0.0.1"),
        (["nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_options_that_cannot_be(mmlop: Run, options: list[str], said: str) -> None:
    assert said in error(mmlop("serve", "--port", 0, *options))


def test_a_port_in_use(mmlop: Run, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = error(mmlop("serve", folder, "--port", taken.getsockname()[1]))
    assert "--port" in said
    assert "already in use" in said


def test_who_goes_away_leaves_nothing_in_the_queue_and_keeps_the_place_while_a_thread_works() -> None:
    room = Room(Limits())
    begun, go, ran = threading.Event(), threading.Event(), []

    def work(number: int) -> None:
        begun.set()
        go.wait(10)
        ran.append(number)

    async def scenario() -> None:
        pool = Pool(1, "one")
        tasks, places = [], [Place(room) for _ in range(2)]
        for number, place in enumerate(places):
            place.picture()
            place.hold(1000)
            tasks.append(asyncio.create_task(pool.run(place, work, number)))
        await until(begun.is_set)
        for task, place in zip(tasks, places, strict=True):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            place.leave()
        assert (room.pictures, room.bytes) == (1, 1000)  # of the one whose thread goes on
        go.set()
        await until(lambda: room.pictures == 0)
        await pool.run(Place(room), work, 2)
        pool.stop()

    asyncio.run(scenario())
    assert ran == [0, 2]
    assert room.bytes == 0


def test_what_is_not_wanted_any_more_is_not_decoded() -> None:
    place = Place(Room(Limits()))
    assert len(bodies.prepared([picture()], 32, Limits(), place)) == 1
    place.wanted = False
    with pytest.raises(Refused, match="Nobody waits"):
        bodies.prepared([picture()], 32, Limits(), place)


def test_on_an_empty_registry_it_is_ready_for_the_first_champion(make: Make, empty_project: Path) -> None:
    service = make()
    service.catalogue = Catalogue()
    assert get(create_app(service), "/healthz").status == 503
    assert service.warm() == 0
    reply = get(create_app(service), "/healthz")
    assert (reply.status, reply.json["adapters"]) == (200, 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--timeout", "inf"], "--timeout"),
        (["--delay", "inf"], "--delay"),
        (["--max-picture", "inf"], "--max-picture"),
        (["--host", "a..b"], "cannot be listened on"),
    ],
)
def test_options_without_sense_are_one_sentence(mmlop: Run, folder: Path, options: list[str], says: str) -> None:
    said = mmlop("serve", folder, "--port", 0, *options)
    assert said.code != 0
    assert says in said.err
    assert "Traceback" not in said.err
