"""Training pictures as they are decoded: when they are looked at, and kept as long as there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmlop.data.manifest import Fetched, Picture
from mmlop.data.pictures import decode

ROOM = 2 * 1024**3  # bytes of decoded pictures kept between trainings


@dataclass(frozen=True)
class Decoded:
    """Pictures, uint8 [3, H, W] each. Those of a large data set do not fit into memory together."""

    pictures: Sequence[Picture]
    decode: Callable[[Picture], Tensor]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.decode(self.pictures[index])


class Decoder:
    """Pictures of one data set, with their shorter side at least ``least`` pixels where they have as many. What was decoded
    is there for the next epoch, and for other seeds and trainings."""

    def __init__(self, data: Fetched, least: int) -> None:
        self._data, self._least = data, least
        self._kept: dict[str, Tensor] = {}
        self._bytes = 0

    def of(self, pictures: Sequence[Picture]) -> Decoded:
        return Decoded(pictures, self._decode)

    def _decode(self, picture: Picture) -> Tensor:
        if (known := self._kept.get(picture.content)) is not None:
            return known
        found = decode(self._data, picture, self._least)
        if self._bytes + found.nbytes < ROOM:
            self._kept[picture.content] = found
            self._bytes += found.nbytes
        return found
