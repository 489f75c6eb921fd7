"""The service behind the routes: from a request to labels, and what is shared by all requests."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from mmlop import card
from mmlop.adapter import Adapter
from mmlop.classifier import ranked
from mmlop.errors import MmlopError
from mmlop.prediction_log import PredictionLog
from mmlop.serving import bodies, mixed
from mmlop.serving.batching import Batcher, BatchFailed
from mmlop.serving.catalogue import Catalogue, Found, UnknownAdapter
from mmlop.serving.limits import Limits, Place, Refused, Room
from mmlop.serving.metrics import Kept, Metrics
from mmlop.serving.mixed import Answer, Asked
from mmlop.serving.shelf import Shelf

logger = logging.getLogger(__name__)
T = TypeVar("T")
FAILED = "The computation failed; the log of the service says why."
LOGGED = 5  # labels of each picture in the prediction log
WARM = 16  # adapters loaded before the first request; others are when they are asked for


class Pool:
    """Threads, and a queue in front of them that leaves nothing behind of who does not wait any more."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._free = asyncio.Semaphore(threads)

    async def run(self, place: Place, function: Callable[..., T], *arguments: object) -> T:
        """Who is cancelled while the thread works goes at once; the thread, and with it the ``place``, when it is done."""
        await self._free.acquire()
        try:
            work = asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        except RuntimeError:  # shut down
            self._free.release()
            raise
        place.stay()

        def done(work: asyncio.Future[T]) -> None:
            self._free.release()
            place.leave()

        work.add_done_callback(done)
        return await asyncio.shield(work)

    def stop(self, wait: bool = True) -> None:
        self._threads.shutdown(wait, cancel_futures=True)


@dataclass(frozen=True)
class Predicted:
    found: Found
    labels: list[list[tuple[str, float]]]  # of each picture, most probable first


class Service:
    """Requests are read by the event loop, decoded by one pool of threads, and computed in batches by one thread.

    Adapters whose class names come with the request have a pool of their own: encoding many names takes long, and should
    not hold up those whose names are known.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        shelf: Shelf,
        limits: Limits,
        batch: int = 32,
        delay: float = 0.002,  # seconds
        log: PredictionLog | None = None,
    ) -> None:
        self.catalogue, self.shelf, self.limits, self.log = catalogue, shelf, limits, log
        self.metrics, self.room = Metrics(), Room(limits)
        self.batcher: Batcher[Asked, Answer] = Batcher(mixed.answer, batch, delay, self.metrics.batch)
        self.metrics.registry.register(Kept(self.room, shelf, log))
        self._quick, self._slow = Pool(max(4, os.cpu_count() or 1), "mmlop-decode"), Pool(2, "mmlop-names")
        self._about_pool = ThreadPoolExecutor(2, "mmlop-about")  # of questions that no picture should hold up
        self._warmed = self.stopping = False

    def warm(self, all_or_none: bool = True) -> int:
        """Load the first of what is served, so that its backbone is there; the number of names. Raises MmlopError for what
        cannot be loaded, or where others will do, logs it, and raises the last if there are none."""
        names = self.catalogue.names()
        failure: MmlopError | None = None
        for name in names[: min(self.shelf.size, WARM)]:
            try:
                self.shelf.take(self.catalogue.find(name))
            except MmlopError as error:
                if all_or_none:
                    raise
                logger.error("%s cannot be loaded: %s", name, error)
                failure = error
        if failure is not None and not self.shelf.stats().loads:
            raise failure
        self._warmed = True
        return len(names)

    @property
    def ready(self) -> bool:
        """Whether what there was to load is loaded, and batches are computed."""
        return self._warmed and self.batcher.alive

    async def predict(self, request: Request, name: str, top: int, classes: Sequence[str] | None) -> Predicted:
        """Raises Refused, starlette's ClientDisconnect, or MmlopError for what is not the request's fault."""
        place, outcome, whole = Place(self.room), "failed", False
        try:
            self.require_open()
            names = self.limits.candidates(classes)
            async with asyncio.timeout(self.limits.timeout):
                files = await bodies.read(request, self.limits, place)
                whole = True
                predicted = await _unless_gone(request, self._answered(place, name, names, files, top))
            outcome = "answered"
            return predicted
        except Refused:
            outcome = "refused"
            raise
        except ClientDisconnect:
            outcome = "gone"
            raise
        except BatchFailed as error:
            raise Refused(500, FAILED) from error
        except TimeoutError:
            outcome = "late"
            limit = f"{self.limits.timeout:g} s"
            if whole:
                raise Refused(504, f"The prediction took longer than {limit}: try again, or send fewer pictures.") from None
            raise Refused(
                408, f"The request did not arrive within {limit}: send it faster, or a smaller picture."
            ) from None
        finally:
            self.metrics.pictures.labels(outcome).inc(max(1, place.pictures))
            place.wanted = False
            place.leave()

    async def about(self, name: str) -> dict[str, Any]:
        """What `GET /adapters/{name}` says."""
        return await asyncio.get_running_loop().run_in_executor(self._about_pool, self._about, name)

    async def names(self) -> list[str]:
        return await asyncio.get_running_loop().run_in_executor(self._about_pool, self.catalogue.names)

    def require_open(self) -> None:
        if self.stopping:
            raise Refused(503, "The service is stopping: ask another, or try again.")

    def stop(self) -> None:
        """Finish what was let in, and end the threads."""
        self.stopping = True
        self.batcher.stop()
        self._quick.stop()
        self._slow.stop(wait=False)
        self._about_pool.shutdown(wait=False, cancel_futures=True)
        if self.log is not None:
            self.log.close()

    async def _answered(
        self, place: Place, name: str, names: tuple[str, ...] | None, files: list[bytes], top: int
    ) -> Predicted:
        pool = self._quick if names is None else self._slow
        found, asked = await pool.run(place, self._asked, place, name, names, files)
        answers = await asyncio.gather(*[asyncio.wrap_future(self.batcher.submit(one)) for one in asked])
        labels = []
        for one, data in zip(answers, files, strict=True):
            (row,) = ranked(one.probabilities[None], one.classes)
            labels.append(list(zip(row.labels[:top], row.scores[:top], strict=True)))
            if self.log is not None:
                features = one.features.float().numpy()
                self.log.add(found.name, found.identity, features, row.labels[:LOGGED], row.scores[:LOGGED], names, data)
        return Predicted(found, labels)

    def _asked(
        self, place: Place, name: str, names: tuple[str, ...] | None, files: list[bytes]
    ) -> tuple[Found, list[Asked]]:
        """Everything that comes before the forward pass; in a thread, as it decodes, and may load and encode."""
        found = self._found(name)
        classifier = self.shelf.take(found)
        try:
            mixed.candidates(classifier, names)  # encoded now, and not by the thread that all wait for
        except MmlopError as error:
            raise Refused(400, str(error)) from error
        size = classifier.backbone.preprocessing.size
        return found, [Asked(classifier, picture, names) for picture in bodies.prepared(files, size, self.limits, place)]

    def _found(self, name: str) -> Found:
        try:
            return self.catalogue.find(name)
        except UnknownAdapter as error:
            raise Refused(404, str(error)) from error

    def _about(self, name: str) -> dict[str, Any]:
        found = self._found(name)
        adapter = Adapter.load(found.folder)
        info = adapter.info
        return {
            "name": found.name,
            "uri": found.uri if ":/" in found.uri else found.name,  # no path of this machine
            "version": found.version,
            "identity": found.identity,
            "method": info.method,
            "dataset": info.origin.dataset,
            "classes": info.classes,
            "open_vocabulary": adapter.shape.kind != "probe",
            "backbone": {"name": info.backbone.shown, "weights": info.backbone.weights},
            "trainable": adapter.shape.trainable,
            "bytes": (found.folder / "adapter.safetensors").stat().st_size,
            "metrics": info.metrics,
            "intervals": {
                name: card.interval(info.metrics[name], count)
                for name, count in info.pictures.items()
                if name in card.SHARES and name in info.metrics
            },
            "report": {key: one.model_dump() for key, one in info.report.items()},
            "origin": {key: getattr(info.origin, key) for key in ("data_hash", "split_hash", "shots", "seed")},
            "temperature": info.temperature,
            "card": card.body(adapter),
        }


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is dropped when the client goes away. The body must have been read."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # after the body, all there is to come is the end of the connection
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()
