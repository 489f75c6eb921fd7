"""Which adapters can be asked for by which names, and where they are now.

A request's name is looked up in dictionaries of what was given at the start and of what is registered. It never becomes a
path, or part of one: what was neither given nor registered cannot be reached by any spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmlop.errors import MmlopError, listing
from mmlop.resolving import resolve
from mmlop.serving.folders import Folders
from mmlop.serving.found import LONG, Found, UnknownAdapter
from mmlop.serving.registered import Reference, Registered

__all__ = ["Catalogue", "Found", "UnknownAdapter"]

MANY = 20  # names that a message lists at most


class Catalogue:
    """The adapters of a service.

    ``uris`` are folders, folders of adapter folders, registered adapters (``models:/NAME@ALIAS``, ``models:/NAME/VERSION``)
    and ``runs:/ID/adapter``; all but folders of folders may have a name before them, ``NAME=URI``. None at all stand for
    all that is registered. A promotion, a version or a folder that is new is seen within ``refresh`` seconds.
    """

    def __init__(self, uris: Sequence[str] = (), refresh: float = 10.0) -> None:
        """Raises MmlopError for a folder that is no adapter and holds none, for a name that is given twice, and for a run
        that cannot be had; registered adapters are looked for when they are asked for."""
        self._folders, self._registered = Folders(refresh), Registered(refresh)
        self._given: dict[str, Reference] = {}
        self._everything = not uris
        for given in uris:
            self._add(given)

    def names(self) -> list[str]:
        """The names to choose from, sorted. Raises TrackingUnavailable where what is registered is not known yet."""
        if self._everything:
            return self._registered.names()
        return sorted([*self._folders.names(), *self._given])

    def find(self, name: str) -> Found:
        """The adapter of a request's name, which is one of `names`, or of a registered one another form (see `Reference`).

        Raises UnknownAdapter for any other name; TrackingUnavailable where a registered one cannot be looked up now.
        """
        if (found := self._folders.find(name)) is not None:
            return found
        wanted = Reference.parse(name)
        if self._everything and self._registered.has(wanted.model):
            return self._registered.find(wanted)
        for known in (name, str(wanted)):
            if known in self._given:
                return self._registered.find(self._given[known], known)
        raise UnknownAdapter(f"There is no adapter '{name[:LONG]}'; {self._there(name[:LONG])}")

    def _add(self, given: str) -> None:
        name, equals, uri = given.partition("=")
        if not equals or "/" in name:
            name, uri = "", given
        if uri.startswith("models:/"):
            wanted = Reference.parse(uri)
            name = name or str(wanted)
            if name in self.names():
                raise MmlopError(f"Two adapters are named '{name}', one of them {uri}: give one as NAME={uri}.")
            self._given[name] = wanted
        elif uri.startswith("runs:/"):
            self._folders.add(resolve(uri), name or uri)  # a run's adapter never changes
        else:
            self._folders.add(Path(uri).expanduser(), name)

    def _there(self, name: str) -> str:
        names = self.names()
        if not names:
            return "none is registered yet."
        if len(names) <= MANY:
            return f"there are: {listing(names, name)}."
        return f"there are {len(names)}, which GET /adapters lists."
