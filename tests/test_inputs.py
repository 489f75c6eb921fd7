"""Whatever stands for a picture gives the same pixels, and what doesn't is one sentence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlop.errors import MmlopError
from mmlop.inputs import PictureLike, each, open_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "a picture #1 100%.png"
    file.write_bytes(png())
    return file


def test_every_kind_gives_the_same_pixels(file: Path) -> None:
    kinds: list[PictureLike] = [
        file,
        str(file),
        file.as_uri(),
        file.as_uri().replace("file://", "file://localhost"),
        png(),
        bytearray(png()),
        memoryview(png()),
        Image.fromarray(PIXELS),
        PIXELS,
    ]
    for kind in kinds:
        assert np.array_equal(np.asarray(open_picture(kind)), PIXELS)
        assert [np.asarray(open_picture(one)).tolist() for one in each(kind)] == [PIXELS.tolist()]


def test_many_are_one_by_one(file: Path) -> None:
    assert list(each([file, png()])) == [file, png()]
    assert list(each(one for one in (file,))) == [file]
    assert [np.array_equal(one, PIXELS) for one in each(np.stack([PIXELS, PIXELS]))] == [True, True]
    assert list(each([])) == []


def test_grey_arrays_are_grey_pictures() -> None:
    found = np.asarray(open_picture(PIXELS[..., 0]))
    assert all(np.array_equal(found[..., channel], PIXELS[..., 0]) for channel in range(3))


@pytest.mark.parametrize(
    "url", ["https://example.org/a.png", "http://127.0.0.1/a.png", "s3://b/a.png", "file://host/a.png"]
)
def test_nothing_is_fetched_from_elsewhere(url: str) -> None:
    with pytest.raises(MmlopError, match=f"'{url}' is not on this machine: download it first"):
        open_picture(url)


def test_what_is_no_picture_is_one_sentence(file: Path) -> None:
    with pytest.raises(MmlopError, match=r"The picture .*gone\.png does not exist"):
        open_picture(file.with_name("gone.png").as_uri())
    with pytest.raises(MmlopError, match="A Tensor is no picture: give a path"):
        open_picture(torch.zeros(3, 4, 4))  # type: ignore[arg-type]
    with pytest.raises(MmlopError, match="A int is no picture: give a path"):
        each(3)  # type: ignore[arg-type]
    with pytest.raises(MmlopError, match=r"2 bytes were given that are no readable picture \(of no known kind\)"):
        open_picture(b"no")
