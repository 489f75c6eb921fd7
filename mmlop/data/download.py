"""Downloading a file that may be had at several addresses: resumed, verified, and there as a whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from mmlop.errors import MmlopError
from mmlop.files import write_json

if TYPE_CHECKING:
    from requests import Response, Session

logger = logging.getLogger(__name__)

LEAST = 1024  # bytes; an attempt, or `timeout` seconds, that brings less counts as nothing
LONGEST_PAUSE = 60.0  # seconds
CONNECTING = 10.0  # seconds at most until a connection stands
KNOCKS = 2  # attempts at an address that cannot be reached at all: waiting longer seldom helps
CHUNK = 1 << 20
BUSY = (408, 425, 429)  # beside 5xx: a status that may be another one soon


class DiskFull(MmlopError):
    """There is no room: no other source of the same file would help."""


@dataclass(frozen=True)
class Remote:
    """A file to download: where it may be had, in order of preference, and what it must be."""

    name: str  # file name
    urls: tuple[str, ...]
    checksum: str | None = None  # "md5:...", "sha256:..." or "git:...", the SHA-1 of the file as a git blob
    size: int | None = None  # bytes, perhaps roughly: only to see in time that the disk is too small


def drive(file_id: str) -> str:
    """The address of a file on Google Drive that is not asked for confirmation when the file is big."""
    return "https://drive.usercontent.google.com/download?" + urlencode(
        {"id": file_id, "export": "download", "confirm": "t"}
    )


def download(remote: Remote, folder: Path, *, attempts: int = 5, timeout: float = 30.0, pause: float = 1.0) -> Path:
    """The file ``folder/remote.name``: taken as it is where it is there already and right, otherwise downloaded.

    An address is left for the next one when it refuses the file, sends a wrong one, or fails ``attempts`` times without
    bringing anything (two times are enough where there never was a connection), with ``pause`` seconds before the second
    attempt and twice as many before each further one. What has come is kept in ``folder/remote.name.part``, and a later
    call goes on from there, in another process too. Each address and each further attempt is logged.

    Raises MmlopError if the file that is there is a wrong one or no address gives it; DiskFull if the disk is too small.
    """
    from filelock import FileLock

    file = folder / remote.name
    if not file.exists():
        try:
            if remote.size is not None:
                need_room(folder, remote.size - _Part.load(file).size, remote.name)
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{remote.name}.lock"):
                if not file.exists():  # another process may have brought it
                    _from_anywhere(remote, _Part.load(file), attempts, timeout, pause)
                    return file
        except OSError as error:
            raise unwritable(folder, error) from error
    verify(remote, file)
    return file


def verify(remote: Remote, file: Path) -> None:
    """Raises MmlopError if the file is missing, or not of the checksum that is known of it (if one is)."""
    if not file.is_file():
        raise MmlopError(f"{file} is missing, or not a file.")
    if wrong := _wrong(remote, file):
        raise MmlopError(f"{file} is not the file it should be: {wrong}; remove it and run the same command again.")


def need_room(folder: Path, bytes_needed: int, what: str) -> None:
    """Raises DiskFull if the disk of a folder, which need not exist yet, has less than this left."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < bytes_needed:
        raise DiskFull(
            f"{what} needs {_amount(bytes_needed)}, and only {_amount(free)} are free at {existing}: make room there, or "
            f"set MMLOP_DATA to a folder on a bigger disk."
        )


def unwritable(folder: Path, error: OSError) -> MmlopError:
    """The sentence for a disk that does not take what is written to it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"The disk of {folder} is full: make room there and run the same command again, which goes on from what has "
            f"come so far, or set MMLOP_DATA to a folder on a bigger disk."
        )
    return MmlopError(
        f"Writing to {folder} failed ({error.strerror or error}): put that right, or set MMLOP_DATA to another folder."
    )


def bar(**options: Any) -> Any:
    """A progress bar of tqdm on standard error, shown on a terminal only."""
    from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

    return tqdm(**{"disable": None, "leave": False, "unit": "B", "unit_scale": True} | options)


class _Refused(Exception):
    """The address does not give the file, however often it is asked."""


class _Cut(Exception):
    """The file did not come, or not all of it: the next attempt may bring more."""


class _NoConnection(_Cut):
    """The address could not be reached: no network, no such host, nobody listening, a proxy that does not help."""


@dataclass
class _Part:
    """What has come of a file so far, and where from."""

    whole: Path  # where the file will be
    url: str | None = None
    validator: str | None = None  # the server's ETag or Last-Modified: the same one, the same bytes
    total: int | None = None  # bytes of the whole file
    joined: bool = False  # of several answers, or from an earlier process: the pieces may not fit

    @classmethod
    def load(cls, whole: Path) -> _Part:
        part = cls(whole)
        part.joined = part.size > 0
        try:
            known = json.loads(part.note.read_text(encoding="utf-8"))
            part.url, part.validator, part.total = known["url"], known["validator"], known["total"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # without the note the bytes may still be right: the checksum decides
        return part

    @property
    def file(self) -> Path:
        return self.whole.with_name(f"{self.whole.name}.part")

    @property
    def note(self) -> Path:
        return self.whole.with_name(f"{self.whole.name}.part.json")

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def describe(self, url: str, validator: str | None, total: int | None) -> None:
        self.url, self.validator, self.total = url, validator, total
        write_json(self.note, {"url": url, "validator": validator, "total": total})

    def clear(self) -> None:
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.url, self.validator, self.total, self.joined = None, None, None, False


def _from_anywhere(remote: Remote, part: _Part, attempts: int, timeout: float, pause: float) -> None:
    """Try the addresses in turn, the one that the part came from first; raises MmlopError when all have failed."""
    import requests

    reasons: list[str] = []
    with requests.Session() as session:
        for url in sorted(remote.urls, key=lambda url: url != part.url):
            logger.info("%s: asking %s", remote.name, urlsplit(url).netloc)
            try:
                _from(session, url, remote, part, attempts, timeout, pause)
            except _Refused as reason:
                reasons.append(f"{url}: {reason}")
                logger.info("%s: %s, so it is given up there", remote.name, reason)
            else:
                part.file.replace(part.whole)
                part.clear()
                return
    raise MmlopError(
        f"{remote.name} could not be downloaded ({'; '.join(reasons)}): download it by hand to {part.whole} and run the "
        f"same command again."
    )


def _from(session: Session, url: str, remote: Remote, part: _Part, attempts: int, timeout: float, pause: float) -> None:
    """The whole file, verified, into the part file. Raises _Refused."""
    failures, farthest, again, reached = 0, part.size, False, False
    while True:
        try:
            _ask(session, url, remote, part, timeout)
        except _Cut as cut:
            progress = part.size >= farthest + LEAST
            failures, farthest = (0 if progress else failures + 1), max(farthest, part.size)
            reached |= not isinstance(cut, _NoConnection)
            if failures >= (attempts if reached else min(attempts, KNOCKS)):
                raise _Refused(f"{cut}, {failures} times") from cut
            wait = min(pause * 2 ** max(failures - 1, 0), LONGEST_PAUSE)
            logger.info("%s: %s, once more in %g s", remote.name, cut, wait)
            time.sleep(wait)
            continue
        wrong = _wrong(remote, part.file)
        if not wrong:
            return
        joined = part.joined
        part.clear()
        if again or not joined:
            raise _Refused(f"not the file that is expected, {wrong}")
        again, farthest = True, 0  # pieces that do not fit together say nothing about the address


def _ask(session: Session, url: str, remote: Remote, part: _Part, timeout: float) -> None:
    """Ask once for what is missing. Raises _Cut or _Refused."""
    import requests
    import urllib3

    start = part.size if part.url == url or remote.checksum else 0  # pieces of two addresses: only if that can be checked
    validator = part.validator if part.url == url else None
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
    try:
        with session.get(url, headers=headers, stream=True, timeout=(min(CONNECTING, timeout), timeout)) as answer:
            if start and answer.status_code == 416:
                _nothing_left(answer, part, start)
                return
            _check_status(answer, remote)
            if answer.status_code != 206:
                start = 0
            _check_piece(answer, part, url, start)
            _receive(answer, part, timeout)
    except (requests.TooManyRedirects, ValueError) as error:
        raise _Refused("the address leads nowhere") from error
    except requests.ConnectTimeout as error:
        raise _NoConnection(f"no connection within {min(CONNECTING, timeout):g} seconds") from error
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _Cut(f"no answer within {timeout:g} seconds") from error
    except requests.exceptions.SSLError as error:
        raise _NoConnection("no trusted connection") from error
    except requests.exceptions.ProxyError as error:
        raise _NoConnection("no connection through the proxy that the environment names") from error
    except requests.ConnectionError as error:
        kind = _NoConnection if _never_connected(error) else _Cut
        raise kind("no connection") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Cut("the connection was cut") from error


def _never_connected(error: Exception) -> bool:
    """Whether there was nobody to answer, rather than somebody who hung up."""
    import urllib3

    cause = error.args[0] if error.args else None
    return isinstance(getattr(cause, "reason", None), urllib3.exceptions.NewConnectionError)


def _nothing_left(answer: Response, part: _Part, start: int) -> None:
    """The server has no bytes from ``start`` on: because they are all here, or because the file is another one."""
    if answer.headers.get("Content-Range") == f"bytes */{start}":
        part.joined = True
        return
    part.clear()
    raise _Cut("the file changed meanwhile")


def _check_status(answer: Response, remote: Remote) -> None:
    if answer.status_code in BUSY or answer.status_code >= 500:
        raise _Cut(f"HTTP status {answer.status_code} {answer.reason}")
    if answer.status_code not in (200, 206):
        raise _Refused(f"HTTP status {answer.status_code} {answer.reason}")
    page = answer.headers.get("Content-Type", "").lower().startswith("text/html")
    if page and not remote.name.endswith((".html", ".htm")):
        raise _Refused("a web page instead of the file")


def _check_piece(answer: Response, part: _Part, url: str, start: int) -> None:
    """That the answer's bytes go on where those of the part end; note what the file is now."""
    validator, total = _validator(answer), None
    if answer.status_code == 206:
        piece = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        total = int(piece[2]) if piece and piece[2] != "*" else None
        if part.url == url:
            validator = validator or part.validator  # that of a 206 may go without saying
        same = part.url != url or validator == part.validator
        if not piece or int(piece[1]) != start or not same or (total and part.total and total != part.total):
            part.clear()
            raise _Cut("the file changed meanwhile")
        total = total or part.total
        part.joined |= start > 0 and (part.url != url or validator is None)
    else:
        if answer.headers.get("Content-Length", "").isdigit():
            total = int(answer.headers["Content-Length"])
        part.clear()
    if total is not None:
        need_room(part.whole.parent, total - start, part.whole.name)
    part.describe(url, validator, total)


def _receive(answer: Response, part: _Part, timeout: float) -> None:
    """Append the answer's body to the part file, byte by byte as it is sent, whatever its Content-Encoding."""
    since, got = time.monotonic(), 0
    with part.file.open("ab") as out, bar(desc=part.whole.name, total=part.total, initial=part.size) as progress:
        while piece := answer.raw.read1(CHUNK, decode_content=False):
            out.write(piece)
            progress.update(len(piece))
            got += len(piece)
            if time.monotonic() - since >= timeout:
                if got < LEAST:
                    raise _Cut(f"less than 1 KiB in {timeout:g} seconds")
                since, got = time.monotonic(), 0
    if part.total is not None and part.size != part.total:
        if part.size > part.total:
            part.clear()
        raise _Cut("the connection was cut")


def _validator(answer: Response) -> str | None:
    tag = answer.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _wrong(remote: Remote, file: Path) -> str:
    """What is wrong with the file's checksum; empty if nothing is, or if none is known."""
    if remote.checksum is None:
        return ""
    kind, _, _ = remote.checksum.partition(":")
    digest = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    size = file.stat().st_size
    if kind == "git":
        digest.update(b"blob %d\0" % size)
    with file.open("rb") as stream, bar(desc=f"checking {remote.name}", total=size) as progress:
        while piece := stream.read(CHUNK):
            digest.update(piece)
            progress.update(len(piece))
    found = f"{kind}:{digest.hexdigest()}"
    return "" if found == remote.checksum.lower() else f"its checksum is {found} instead of {remote.checksum}"


def _amount(size: int) -> str:
    """Bytes for people: 1.5 GB."""
    value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"
