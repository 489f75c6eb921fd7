"""Registered adapters, as MLflow said when it was last asked."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from mmlop import adapter as adapters
from mmlop.errors import MmlopError
from mmlop.resolving import resolve
from mmlop.serving.found import LONG, Found, UnknownAdapter
from mmlop.serving.fresh import Fresh
from mmlop.store import TrackingUnavailable, answering, connect
from mmlop.versions import CHAMPION, version_of

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Reference:
    """A registered model, and which version of it: by the alias that points at it, or by its number."""

    model: str
    mark: str = "@"  # or "/", before a number
    which: str = CHAMPION

    @classmethod
    def parse(cls, name: str) -> Reference:
        """``mmlop-x@champion``, ``mmlop-x`` (the champion) or ``mmlop-x/3``, with or without ``models:/`` before it."""
        rest = name.removeprefix("models:/")
        mark = "@" if "@" in rest else "/"
        model, marked, which = rest.partition(mark)
        return cls(model, mark, which) if marked else cls(model)

    def __str__(self) -> str:
        return f"{self.model}{self.mark}{self.which}"


@dataclass(frozen=True)
class _Model:
    """A registered model, as the registry lists it."""

    aliases: dict[str, int]
    newest: int  # its highest version


class Registered:
    """The registry's models and aliases, read at most every ``refresh`` seconds, and the folders of the versions in use.

    What was known when MLflow went down stays in use. Versions never change, so a known one is not asked about again.
    """

    def __init__(self, refresh: float) -> None:
        self._refresh = refresh
        self._tracking = _Tracking(refresh)
        self._models = Fresh(self._read, refresh)
        self._used: dict[Reference, int] = {}  # aliases that were asked for, and the versions they stood for
        self._folders: dict[tuple[str, int], tuple[Path, str]] = {}  # of versions, with the adapters' identities
        self._failed: dict[tuple[str, int], tuple[float, MmlopError]] = {}  # versions, and until when not again

    def names(self) -> list[str]:
        """The champions there are."""
        return [str(Reference(name)) for name, model in self._models.get().items() if CHAMPION in model.aliases]

    def has(self, model: str) -> bool:
        return model in self._models.get()

    def find(self, wanted: Reference, name: str = "") -> Found:
        """Raises UnknownAdapter where there is no such model, alias or version; TrackingUnavailable where that cannot be
        known now."""
        model = self._models.get().get(wanted.model)
        if model is None:
            raise UnknownAdapter(f"There is no registered adapter '{wanted.model}'.")
        number = model.aliases.get(wanted.which) if wanted.mark == "@" else _number(wanted.which, model.newest)
        if number is None:
            aliases = ", ".join(f"@{alias}" for alias in sorted(model.aliases)) or "no alias"
            said = str(wanted)[:LONG]
            raise UnknownAdapter(f"There is no '{said}'; {wanted.model} has {aliases} and versions up to /{model.newest}.")
        folder, identity = self._fetched(wanted.model, number)
        if wanted.mark == "@":
            self._used[wanted] = number
        return Found(name or str(wanted), folder, identity, number, f"models:/{wanted.model}/{number}")

    def _read(self) -> dict[str, _Model]:
        """What the registry says now. The version that an alias in use has moved to is fetched before it goes live."""
        models = self._tracking.ask(_models)
        for wanted, before in list(self._used.items()):
            aliases = models[wanted.model].aliases if wanted.model in models else {}
            if (now := aliases.get(wanted.which, before)) == before:
                continue
            try:
                self._fetched(wanted.model, now)
                logger.info("%s is version %d now, after version %d.", wanted, now, before)
            except MmlopError as error:
                logger.warning("%s stays version %d: %s", wanted, before, error)
                aliases[wanted.which] = before
        return models

    def _fetched(self, model: str, number: int) -> tuple[Path, str]:
        """The folder of a version, fetched again where it was deleted, and the identity of what is in it."""
        key = model, number
        known = self._folders.get(key)
        if known is not None and all((known[0] / name).is_file() for name in ("adapter.safetensors", "adapter.json")):
            return known
        until, failure = self._failed.get(key, (0.0, None))
        if failure is not None and time.monotonic() < until:
            raise failure
        try:
            folder = self._tracking.ask(partial(_folder, model=model, number=number))
        except TrackingUnavailable:
            raise
        except MmlopError as error:
            self._failed[key] = time.monotonic() + self._refresh, error
            raise
        self._folders[key] = folder, adapters.identity(folder)
        return self._folders[key]


class _Tracking:
    """MLflow, asked by one thread at a time. While it is down, it is tried again every ``pause`` seconds, not at every
    request, and the log says so once."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._lock = Lock()
        self._error: TrackingUnavailable | None = None  # while it is down
        self._again = -float("inf")

    def ask(self, question: Callable[[Any], T]) -> T:
        """What ``question`` makes of an MlflowClient. Raises TrackingUnavailable where there is no answer now."""
        with self._lock:
            if self._error is not None and time.monotonic() < self._again:
                raise self._error
            try:
                client = connect()
                with answering():
                    answer = question(client)
            except TrackingUnavailable as error:
                if self._error is None:
                    logger.warning("The registry does not answer; adapters in use go on being used. %s", error)
                self._error = TrackingUnavailable("The registry does not answer now, and this was not asked for before.")
                self._again = time.monotonic() + self._pause
                raise self._error from error
            if self._error is not None:
                logger.warning("The registry answers again.")
                self._error = None
            return answer


def _models(client: Any) -> dict[str, _Model]:
    """The registered models of mmlop, by name."""
    found: dict[str, _Model] = {}
    token = None
    while True:
        page = client.search_registered_models("name LIKE 'mmlop-%'", max_results=1000, page_token=token)
        for model in page:
            newest = max((int(version.version) for version in model.latest_versions), default=0)
            found[model.name] = _Model({alias: int(number) for alias, number in model.aliases.items()}, newest)
        token = page.token
        if not token:
            return dict(sorted(found.items()))


def _folder(client: Any, model: str, number: int) -> Path:
    try:
        version_of(client, model, str(number))
    except MmlopError as error:  # it was deleted
        raise UnknownAdapter(str(error)) from error
    return resolve(f"models:/{model}/{number}")


def _number(text: str, newest: int) -> int | None:
    """A version's number, from its one spelling."""
    return int(text) if re.fullmatch("[1-9][0-9]{0,8}", text) and int(text) <= newest else None
