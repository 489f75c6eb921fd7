"""What one request may ask for, and what all of them together may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmlop.errors import MmlopError

MB = 10**6
RETRY_AFTER = 1  # seconds after which a client that was refused for want of room may try again


class Refused(MmlopError):
    """A request that is not answered: an HTTP status and one sentence for whoever sent it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(RETRY_AFTER)} if self.status == 503 else {}


@dataclass(frozen=True)
class Limits:
    queue: int = 256  # pictures that were let in and are not answered yet
    timeout: float = 30.0  # seconds from a request's head to its answer
    picture: int = 20 * MB  # bytes of one picture file
    pictures: int = 16  # of one request
    pixels: int = 50 * MB  # of one picture, as its header says
    classes: int = 1000  # candidates of one request
    letters: int = 200  # of a class name
    bodies: int = 512 * MB  # bytes of the bodies of all requests together

    def candidates(self, names: Sequence[str] | None) -> tuple[str, ...] | None:
        """The class names of a request, None for the adapter's own. Raises Refused, saying which, for names that are too
        many, too long, empty or given twice."""
        if not names:
            return None
        if len(names) > self.classes:
            raise Refused(400, f"The request names {len(names)} classes: name at most {self.classes}.")
        for name, times in Counter(names).items():
            if not name.strip():
                raise Refused(400, "A class name is empty: leave it out, or give it a word.")
            if len(name) > self.letters:
                raise Refused(400, f"The class '{name[:40]}...' has {len(name)} letters: use at most {self.letters}.")
            if times > 1:
                raise Refused(400, f"The class '{name}' is named twice: name each candidate once.")
        return tuple(names)


class Room:
    """Places for pictures and for the bytes they come in. Used by the event loop alone, so there is no lock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pictures, self.bytes = 0, 0


class Place:
    """What one request holds of the room, until it leaves, and so does every thread that works for it."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.pictures, self._bytes, self._users = 0, 0, 1
        self.wanted = True  # whether somebody waits for the answer; read by threads

    def picture(self) -> None:
        """Let one more picture in. Raises Refused where the queue is full."""
        if self._room.pictures >= self._room.limits.queue:
            raise Refused(503, f"{self._room.pictures} pictures are waiting already: try again in {RETRY_AFTER} s.")
        self._room.pictures += 1
        self.pictures += 1

    def hold(self, size: int) -> None:
        """Keep ``size`` bytes more. Raises Refused where all requests together hold too many."""
        if self._room.bytes + size > self._room.limits.bodies:
            raise Refused(503, f"Too much is being uploaded at the moment: try again in {RETRY_AFTER} s.")
        self._room.bytes += size
        self._bytes += size

    def stay(self) -> None:
        """One more has to leave."""
        self._users += 1

    def leave(self) -> None:
        self._users -= 1
        if self._users:
            return
        self._room.pictures -= self.pictures
        self._room.bytes -= self._bytes
        self.pictures, self._bytes = 0, 0
