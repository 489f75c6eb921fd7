"""Loaded classifiers, ready to answer: as many as were asked for last."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache

from mmlop import adapter as adapters
from mmlop.classifier import Classifier
from mmlop.errors import MmlopError
from mmlop.serving import mixed
from mmlop.serving.catalogue import Found


@dataclass(frozen=True)
class Stats:
    hits: int  # classifiers taken that were there
    loads: int
    evictions: int
    held: int  # classifiers there now
    bytes: int  # of their factors


class Shelf:
    """Up to ``size`` classifiers by the identity of their adapters, on one device; what was not asked for longest goes.

    Threads that want the same adapter at once wait for one to load it; different ones are loaded side by side.
    """

    def __init__(self, size: int = 1000, device: str = "cpu") -> None:
        self.size, self.device = size, device
        self._lock = Lock()
        self._held: LRUCache[str, Classifier] = LRUCache(size)
        self._loading: dict[str, Future[Classifier]] = {}
        self._hits = self._loads = 0

    def take(self, found: Found) -> Classifier:
        """The classifier of an adapter, with the text features of its own classes computed.

        Raises MmlopError where it cannot be loaded, which the next one to ask tries again.
        """
        with self._lock:
            if (held := self._held.get(found.identity)) is not None:
                self._hits += 1
                return held
            loading = self._loading.get(found.identity)
            if own := loading is None:
                loading = self._loading[found.identity] = Future()
        if own:
            self._load(found, loading)
        return loading.result()

    def stats(self) -> Stats:
        """What the shelf has done since it was made, and what it holds now."""
        with self._lock:
            held = list(self._held.values())
            hits, loads = self._hits, self._loads
        size = sum(factor.nbytes for one in held for factor in one.adapter.factors.values())
        return Stats(hits, loads, loads - len(held), len(held), size)

    def _load(self, found: Found, loading: Future[Classifier]) -> None:
        try:
            classifier = Classifier.load(found.folder, self.device)
            if adapters.identity(found.folder) != found.identity:
                raise MmlopError(f"The files of {found.name} were changed while they were read: ask again.")
            mixed.candidates(classifier, None)
        except BaseException as error:
            with self._lock:
                del self._loading[found.identity]
            loading.set_exception(error)
        else:
            with self._lock:
                self._held[found.identity] = classifier
                self._loads += 1
                del self._loading[found.identity]
            loading.set_result(classifier)
