"""From the body of a request to prepared pictures. A body is refused as soon as it is seen to be too large."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from torch import Tensor

from mmlop.data import pictures as pics
from mmlop.data.reading import reason
from mmlop.serving.limits import MB, Limits, Place, Refused

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# What is decoded: not all that Pillow can, since some of that starts other programs (EPS) or is no picture at all.
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
FIELD = "picture"
HEAD = 16 * 1024  # bytes of a part beside its picture: boundary and headers


async def read(request: Request, limits: Limits, place: Place) -> list[bytes]:
    """The picture files in a body: the body itself, or the parts named `picture` of a form.

    Raises Refused (400, 413, 503) at the first byte that is too many, and starlette's ClientDisconnect.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    form = kind == b"multipart/form-data"
    declared = int(request.headers.get("content-length", 0))  # the server has checked that it is a number
    if declared > (limits.pictures * (limits.picture + HEAD) if form else limits.picture):
        raise _too_large(limits)
    files = await (
        _parts(request, options.get(b"boundary", b""), limits, place) if form else _whole(request, limits, place)
    )
    if not files or not all(files):
        raise Refused(400, f"A picture is missing: send its file as the body, or as parts of a form named '{FIELD}'.")
    return files


def prepared(files: list[bytes], size: int, limits: Limits, place: Place) -> list[Tensor]:
    """Picture files as the model is shown them, uint8 [3, S, S] each: what `Classifier.predict` makes of them.

    Raises Refused: 415 for what is no picture, 413 for too many pixels (known before any is decoded), 400 for a broken one;
    504, which nobody reads, where the rest is not wanted any more.
    """
    found = []
    for number, data in enumerate(files, 1):
        if not place.wanted:
            raise Refused(504, "Nobody waits for the answer.")
        try:
            found.append(_prepared(data, size, limits))
        except Refused as error:
            if len(files) == 1:
                raise
            raise Refused(error.status, f"Picture {number} of {len(files)}: {error}") from error
    return found


def _prepared(data: bytes, size: int, limits: Limits) -> Tensor:
    try:
        with Image.open(io.BytesIO(data), formats=KINDS) as image:
            if image.width * image.height > limits.pixels:
                raise _too_many_pixels(f"{image.width} x {image.height}", limits)
            return pics.prepare(pics.rgb(image), size)
    except Refused:
        raise
    except UnidentifiedImageError as error:
        raise Refused(415, f"{len(data)} bytes are no picture of a known kind: send {', '.join(KINDS)}.") from error
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("far too many", limits) from error
    except Exception as error:  # each of Pillow's decoders has its own
        raise Refused(
            400, f"{len(data)} bytes are a broken picture ({reason(error)}): send it again, or another."
        ) from error


async def _whole(request: Request, limits: Limits, place: Place) -> list[bytes]:
    place.picture()
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.picture:
            raise _too_large(limits)
        place.hold(len(chunk))
        chunks.append(chunk)
    return [b"".join(chunks)]


async def _parts(request: Request, boundary: bytes, limits: Limits, place: Place) -> list[bytes]:
    form = _Form(limits, place)
    try:
        if not boundary:
            raise FormParserError("it names no boundary")
        parser = MultipartParser(boundary, form.callbacks)
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise Refused(
            400, f"The form cannot be read ({' '.join(str(error).split())}): send multipart/form-data."
        ) from error
    if not form.ended:
        raise Refused(400, "The form ends before its last boundary: send all of it.")
    return [bytes(file) for file in form.files]


class _Form:
    """Collects the parts named `picture`; its callbacks are those of python_multipart's parser."""

    def __init__(self, limits: Limits, place: Place) -> None:
        self.files: list[bytearray] = []
        self.ended = False
        self._limits, self._place = limits, place
        self._header, self._value, self._disposition = b"", b"", b""

    @property
    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._disposition = b""
        if len(self.files) == self._limits.pictures:
            raise Refused(413, f"The form has more than {self._limits.pictures} pictures: send them in several requests.")
        self._place.picture()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        if (name := options.get(b"name", b"").decode("utf-8", "replace")) != FIELD:
            raise Refused(400, f"The form has a part named '{name[:40]}': name every part '{FIELD}'.")
        self.files.append(bytearray())

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if len(self.files[-1]) + end - start > self._limits.picture:
            raise _too_large(self._limits)
        self._place.hold(end - start)
        self.files[-1] += data[start:end]

    def _end(self) -> None:
        self.ended = True


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"The picture is larger than {limits.picture / MB:g} MB: send a smaller one.")


def _too_many_pixels(size: str, limits: Limits) -> Refused:
    return Refused(
        413, f"The picture has {size} pixels, and {limits.pixels / MB:g} megapixels are the limit: make it smaller."
    )
