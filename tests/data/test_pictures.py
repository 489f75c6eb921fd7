"""Pictures of every kind as RGB, prepared as open_clip does, augmented as torchvision does."""

from __future__ import annotations

import io
import math
import random
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, features
from torchvision.transforms import RandomResizedCrop

from mmlop.data import pictures, reading
from mmlop.data.manifest import Fetched, Manifest, Picture, content_of
from mmlop.errors import MmlopError


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    """Slow gradients, which JPEG keeps nearly as they are."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / width, 255 * y / height, 255 - 255 * x / width]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).max())


# Kinds of files


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_270),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_90),
    ],
)
def test_exif_orientation_is_followed(tmp_path: Path, orientation: int, undo: Image.Transpose | None) -> None:
    stored, exif = noise(30, 20), Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    found = pictures.read(tmp_path / "a.png")
    upright = stored if undo is None else stored.transpose(undo)
    assert found.mode == "RGB"
    assert found.size == upright.size
    assert difference(found, upright) == 0


def test_cmyk(tmp_path: Path) -> None:
    image = smooth(40, 30)
    image.convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    found = pictures.read(tmp_path / "a.jpg")
    assert found.mode == "RGB"
    assert difference(found, image) < 12


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 64 * 8).astype(np.uint16).reshape(8, 64)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    found = np.asarray(pictures.read(tmp_path / f"a.{suffix}")).astype(int)
    assert found.shape == (8, 64, 3)
    assert (found == values[..., None] // 256).all()  # the upper byte


@pytest.mark.parametrize("orientation", [1, 6])
def test_sixteen_bit_grey_with_the_upper_byte_first(tmp_path: Path, orientation: int) -> None:
    """TIFF of the byte order MM, which Pillow reads but does not write."""
    values = np.linspace(0, 65535, 64 * 8).astype(np.uint16).reshape(8, 64)
    (tmp_path / "a.tiff").write_bytes(big_endian_tiff(values, orientation))
    with Image.open(tmp_path / "a.tiff") as stored:
        assert stored.mode == "I;16B"
    found = np.asarray(pictures.read(tmp_path / "a.tiff")).astype(int)
    upright = values if orientation == 1 else np.rot90(values, -1)
    assert found.shape == (*upright.shape, 3)
    assert (found == upright[..., None] // 256).all()


def big_endian_tiff(values: np.ndarray[Any, Any], orientation: int) -> bytes:
    """One strip of 16-bit grey behind the directory."""
    height, width = values.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 0), (274, 3, orientation)]
    tags += [(277, 3, 1), (278, 3, height), (279, 4, 2 * values.size)]
    start = 8 + 2 + 12 * len(tags) + 4
    rows = [
        struct.pack(">HHIHH", tag, kind, 1, value, 0) if kind == 3 else struct.pack(">HHII", tag, kind, 1, value or start)
        for tag, kind, value in tags
    ]
    directory = struct.pack(">H", len(tags)) + b"".join(rows) + bytes(4)
    return b"MM\0*" + struct.pack(">I", 8) + directory + values.astype(">u2").tobytes()


def png(width: int, depth: int, colour: int, rows: list[bytes]) -> bytes:
    """A PNG file of kinds that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_sixteen_bit_colours_keep_their_range(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(7, 16, 2, [row.astype(">u2").tobytes() for row in values]))
    assert (np.asarray(pictures.read(tmp_path / "a.png")) == values // 256).all()


def test_cmyk_of_tiff_is_not_inverted_and_of_adobe_jpeg_is(tmp_path: Path) -> None:
    """Both files mean a strong cyan: TIFF stores ink, Adobe's JPEG stores 255 less ink, and says so by its marker."""
    ink = Image.new("CMYK", (16, 16), (230, 20, 10, 0))
    ink.save(tmp_path / "a.tiff")
    ink.save(tmp_path / "a.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    for name in ("a.tiff", "a.jpg"):
        assert np.abs(np.asarray(pictures.read(tmp_path / name)).astype(int) - [25, 235, 245]).max() <= 3


@pytest.mark.parametrize(("mode", "dtype"), [("F", np.float32), ("I", np.int32)])
def test_numbers_of_no_agreed_range_are_refused(tmp_path: Path, mode: str, dtype: type) -> None:
    Image.fromarray(np.linspace(0, 70_000, 64).reshape(8, 8).astype(dtype)).save(tmp_path / "a.tiff")
    with pytest.raises(MmlopError, match=f"mode {mode}, have no agreed range"):
        pictures.read(tmp_path / "a.tiff")


def test_small_integers_are_grey(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.int32).reshape(8, 8) * 4
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert (np.asarray(pictures.read(tmp_path / "a.tiff")) == values[..., None]).all()


def test_palette_with_transparency_is_put_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (4, 0, 8, 8))
    image.save(tmp_path / "a.png", transparency=0)
    found = np.asarray(pictures.read(tmp_path / "a.png"))
    assert (found[:, :4] == 255).all()
    assert (found[:, 4:] == [200, 100, 50]).all()


def test_half_transparency_is_mixed_with_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (100, 0, 50, 128)).save(tmp_path / "a.png")
    Image.new("LA", (4, 4), (100, 0)).save(tmp_path / "b.png")
    expected = [255 + (value - 255) * 128 / 255 for value in (100, 0, 50)]
    assert np.abs(np.asarray(pictures.read(tmp_path / "a.png")) - expected).max() <= 1
    assert (np.asarray(pictures.read(tmp_path / "b.png")) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    image = smooth(20, 10).convert(mode)
    image.save(tmp_path / "a.png")
    assert difference(pictures.read(tmp_path / "a.png"), image.convert("RGB")) == 0


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_an_animation_is_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        assert getattr(stored, "n_frames", 1) == 3
    assert difference(pictures.read(tmp_path / f"a.{suffix}"), frames[0]) == 0


@pytest.mark.parametrize("name", ["Schrauben größer.png", "螺丝.png", "nai\u0308ve e\u0301.png"])
def test_file_names_of_all_languages(tmp_path: Path, name: str) -> None:
    noise(9, 9).save(tmp_path / name)
    assert difference(pictures.read(tmp_path / name), noise(9, 9)) == 0


def test_a_picture_in_memory_is_not_changed() -> None:
    image = noise(10, 20)
    before = np.array(image)
    pictures.rgb(image)
    pictures.prepare(image, 8)
    assert (np.asarray(image) == before).all()


# Files that are no pictures


@pytest.mark.parametrize("kind", ["empty", "text", "truncated png", "truncated jpg", "svg", "folder"])
def test_what_is_no_picture_is_named(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"bad.{kind.split()[-1]}"
    if kind == "folder":
        file.mkdir()
    elif kind.startswith("truncated"):
        noise(60, 60).save(file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.write_text({"empty": "", "text": "hello", "svg": "<svg xmlns='http://www.w3.org/2000/svg'/>"}[kind])
    with pytest.raises(MmlopError, match=r"is not a readable picture .*: replace or remove it") as error:
        pictures.read(file)
    assert str(file) in str(error.value)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(MmlopError, match=r"missing\.jpg does not exist"):
        pictures.read(tmp_path / "missing.jpg")


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(30, 20).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(MmlopError, match=r"huge\.png is not a readable picture \(Image size \(600 pixels\) exceeds limit"):
        pictures.read(tmp_path / "huge.png")


def succeeds(data: bytes, quick: bool) -> bool:
    try:
        reading.decode(data, quick)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("progressive", [False, True])
def test_a_quick_look_refuses_what_a_whole_one_refuses(progressive: bool) -> None:
    buffer, draws = io.BytesIO(), random.Random(0)
    smooth(300, 200).save(buffer, format="JPEG", progressive=progressive)
    found = []
    for _ in range(150):
        damaged = bytearray(buffer.getvalue())
        for _ in range(draws.choice([1, 4])):
            damaged[draws.randrange(draws.choice([700, len(damaged)]))] = draws.randrange(256)
        data = bytes(damaged[: draws.choice([len(damaged), len(damaged), draws.randrange(len(damaged))])])
        found.append(succeeds(data, quick=True))
        assert found[-1] == succeeds(data, quick=False)
    assert 20 < sum(found) < 130


def test_between_the_limit_and_twice_it_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(15, 10).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    assert pictures.read(tmp_path / "huge.png").size == (15, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 149)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(MmlopError, match=r"150 pixels.* limit of 149"):
        pictures.read(tmp_path / "huge.png")


# Pictures that a manifest knows


def test_a_picture_is_loaded_if_it_is_still_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    noise(12, 9).save(file)
    content = content_of(file.read_bytes())
    assert difference(pictures.load(file, content), pictures.read(file)) == 0
    noise(12, 9, seed=1).save(file)
    with pytest.raises(MmlopError, match=r"a\.png changed since its data set was fetched: .*`mmlop data fetch NAME`"):
        pictures.load(file, content)
    file.write_bytes(b"hello")
    with pytest.raises(MmlopError, match=r"a\.png is not a readable picture \(of no known kind\)"):
        pictures.load(file, content_of(b"hello"))
    file.unlink()
    with pytest.raises(MmlopError, match=r"a\.png is not, or no longer, on this machine: .*`mmlop data fetch NAME`"):
        pictures.load(file, content)
    with pytest.raises(MmlopError, match="cannot be read"):
        pictures.load(tmp_path, content)


# Decoded quickly, to see whether a file is whole


@pytest.mark.parametrize("progressive", [False, True])
def test_a_quick_look_sees_a_truncated_jpeg(progressive: bool) -> None:
    buffer = io.BytesIO()
    smooth(1200, 900).save(buffer, format="JPEG", progressive=progressive)
    data = buffer.getvalue()
    small = reading.decode(data, quick=True)
    assert max(small.size) == 150  # an eighth
    for length in (len(data) // 10, len(data) // 2, len(data) - 100, len(data) - 3):
        with pytest.raises(OSError, match="truncated"):
            reading.decode(data[:length], quick=True)


def encoded() -> list[tuple[str, bytes]]:
    files = []
    kinds = [("PNG", "P"), ("JPEG", "RGB"), ("GIF", "P"), ("TIFF", "RGB"), ("BMP", "RGB"), ("WEBP", "RGB")]
    if features.check("avif"):
        kinds.append(("AVIF", "RGB"))
    for kind, mode in kinds:
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP") else {}
        noise(12, 9).convert(mode).save(buffer, format=kind, **options)
        files.append((kind, buffer.getvalue()))
    return files


@pytest.mark.parametrize(("kind", "data"), encoded(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path: Path, kind: str, data: bytes) -> None:
    generator, file = random.Random(kind), tmp_path / "damaged"
    refused = 0
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(generator.choice([1, 1, 4])):
            damaged[generator.randrange(min(len(damaged), generator.choice([40, 400, 4000])))] = generator.randrange(256)
        file.write_bytes(damaged[: generator.choice([len(damaged), generator.randrange(len(damaged))])])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = pictures.read(file)
        except MmlopError:
            refused += 1
        else:
            assert found.mode == "RGB"
    assert refused > 5


# Prepared for evaluation


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([8, 17, 32, 48]))
def test_prepared_as_open_clip_does(width: int, height: int, size: int) -> None:
    image = noise(width, height)
    theirs = image_transform_v2(PreprocessCfg(size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), is_train=False)
    ours = pictures.prepare(image, size)
    assert ours.dtype == torch.uint8
    assert ours.shape == (3, size, size)
    assert torch.equal(ours.float() / 255, theirs(image))


def test_pictures_of_a_data_set_are_stacked(tmp_path: Path) -> None:
    rows = []
    for index in range(3):
        noise(20 + index, 30, index).save(tmp_path / f"{index}.png")
        rows.append(Picture(f"{index}.png", 0, "train", content_of((tmp_path / f"{index}.png").read_bytes())))
    data = Fetched(
        Manifest("zoo", ("ape",), "a photo of a {}.", "CC0", "drawn", pictures=tuple(rows), split="given"), tmp_path
    )
    together = pictures.prepare_all(data, rows, 16)
    assert together.shape == (3, 3, 16, 16)
    for one, row in zip(together, rows, strict=True):
        assert torch.equal(one, pictures.prepare(pictures.read(data.file(row)), 16))
    assert pictures.prepare_all(data, [], 16).shape == (0, 3, 16, 16)
    whole = pictures.decode(data, rows[1])
    assert whole.shape == (3, 30, 21)
    assert torch.equal(whole, torch.tensor(np.asarray(Image.open(data.file(rows[1])))).permute(2, 0, 1))


# Augmented for training


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([8, 32]), st.integers(0, 2**31))
def test_a_view_has_the_size_asked_for_and_is_the_generators(width: int, height: int, size: int, seed: int) -> None:
    picture = torch.tensor(np.asarray(noise(width, height))).permute(2, 0, 1)
    before = picture.clone()
    view = pictures.augment(picture, size, generator(seed))
    assert view.shape == (3, size, size)
    assert view.dtype == torch.uint8
    torch.rand(5)
    assert torch.equal(view, pictures.augment(picture, size, generator(seed)))
    assert torch.equal(picture, before)


def test_views_differ() -> None:
    picture, draws = torch.tensor(np.asarray(noise(40, 40))).permute(2, 0, 1), generator(0)
    views = [pictures.augment(picture, 16, draws) for _ in range(6)]
    assert len({view.numpy().tobytes() for view in views}) == 6


def test_half_of_the_views_are_flipped() -> None:
    left_to_right = torch.linspace(0, 255, 64).expand(3, 64, 64).to(torch.uint8)
    draws, flipped, count = generator(0), 0, 400
    for _ in range(count):
        view = pictures.augment(left_to_right, 8, draws).float()
        flipped += int(view[..., 0].mean() > view[..., -1].mean())
    assert abs(flipped / count - 0.5) < 4 * math.sqrt(0.25 / count)


def crop_numbers(crops: list[tuple[int, int, int, int]], height: int, width: int) -> np.ndarray:
    """Area share, aspect ratio, and centre of crops."""
    top, left, h, w = np.array(crops, dtype=float).T
    return np.stack([h * w / (height * width), np.log(w / h), (top + h / 2) / height, (left + w / 2) / width])


@pytest.mark.parametrize(("height", "width"), [(100, 100), (60, 160), (30, 300), (300, 30)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    count, draws = 3000, generator(0)
    ours = [pictures._crop(height, width, draws) for _ in range(count)]
    picture = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = [RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    for top, left, h, w in ours:
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        assert abs(h * w - height * width * 0.54) <= height * width * 0.46 + (h + w + 1)  # 0.08 .. 1, up to rounding
        assert (w + 0.5) / (h - 0.5) >= 3 / 4
        assert (w - 0.5) / (h + 0.5) <= 4 / 3
    mine, other = crop_numbers(ours, height, width), crop_numbers(theirs, height, width)
    for name, a, b in zip(("area", "aspect", "y", "x"), mine, other, strict=True):
        grid = np.sort(np.concatenate([a, b]))
        gap = np.abs(
            np.searchsorted(np.sort(a), grid, side="right") - np.searchsorted(np.sort(b), grid, side="right")
        ).max()
        # Kolmogorov and Smirnov: c(0.001) = 1.95 for two samples of the same size
        assert gap / count < 1.95 * math.sqrt(2 / count), name


def test_a_narrow_picture_falls_back_to_the_centre_as_torchvision() -> None:
    for height, width in ((1, 100), (100, 1), (2, 500)):
        picture = torch.empty(3, height, width)
        theirs = {RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(20)}
        ours = {pictures._crop(height, width, generator(seed)) for seed in range(20)}
        assert ours == theirs


def test_gentle_augmentation() -> None:
    picture = torch.arange(3 * 20 * 20, dtype=torch.uint8).view(3, 20, 20)
    for seed in range(20):
        _, _, height, width = pictures._crop(100, 100, torch.Generator().manual_seed(seed), smallest=0.5)
        assert height * width >= 0.5 * 100 * 100 - 100
        same = pictures.augment(picture, 20, torch.Generator().manual_seed(seed), smallest=1.0, flip=False)
        assert same.shape == picture.shape
    views = {flip: _mirrored(flip) for flip in (False, True)}
    assert views[False] == 0
    assert 5 < views[True] < 35


def _mirrored(flip: bool) -> int:
    """How many of 40 views have their gradient from right to left."""
    ramp = torch.arange(20, dtype=torch.uint8).expand(3, 20, 20) * 10
    views = [pictures.augment(ramp, 20, torch.Generator().manual_seed(seed), flip=flip) for seed in range(40)]
    return sum(int(view[0, 0, 0] > view[0, 0, -1]) for view in views)
