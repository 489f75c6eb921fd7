"""The card of an adapter: true to adapter.json, and safe to show whatever classes are called."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import tiny_clip
from hypothesis import given
from hypothesis import strategies as st
from make_adapter import make_adapter

from mmlop import card
from mmlop.adapter import Adapter, Reported
from mmlop.backbone import wrap

CLIP = wrap(tiny_clip(), "tiny", "random")


class Elements(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(adapter: Adapter) -> str:
    return " ".join(Elements(card.body(adapter)).text.split())


def test_it_says_what_the_adapter_is_for_and_how_good_it_is() -> None:
    report = {"base": Reported(mean=88.0, std=1.2, seeds=3), "novel": Reported(mean=61.0, std=2.0, seeds=3)}
    text = shown(make_adapter(CLIP, pictures={"accuracy": 280, "validation": 50}, report=report, temperature=1.25))
    for words in (
        "mmlop adapter for pets",
        "3 classes of pictures apart: cat, dog, sea_horse.",
        "16 pictures per class at most",
        "adapter for pets",
        "accuracy on test pictures 87.5 (95 % interval 83.1 to 90.9, 280 pictures)",
        "90.0 (95 % interval 78.6 to 95.7, 50 pictures)",
        "of 3 seeds",
        "accuracy on the classes never seen 61.0 ± 2.0",
        "temperature 1.25",
        "dddddddddddddddd",
        'mmlop.load("models:/mmlop-pets@champion")',
    ):
        assert words in text


def test_where_a_backbone_lies_is_nobody_elses_business() -> None:
    adapter = make_adapter(CLIP)
    local = adapter.info.backbone.model_copy(update={"name": "/home/ada/clips/own", "weights": "local"})
    text = shown(make_adapter(CLIP, backbone=local))
    assert "frozen CLIP own (local)" in text
    assert "/home" not in text


def test_what_was_not_measured_is_said_to_be_so() -> None:
    text = shown(make_adapter(CLIP, metrics={}, drift_correction=False))
    assert "not measured" in text
    assert "not calibrated" in text
    assert "common drift" not in text


@given(st.integers(0, 400), st.integers(1, 400))
def test_intervals_are_wilsons(right: int, pictures: int) -> None:
    right = min(right, pictures)
    low, high = card.interval(100 * right / pictures, pictures)
    z, p = 1.959963984540054, right / pictures
    centre = (p + z * z / (2 * pictures)) / (1 + z * z / pictures)
    half = z / (1 + z * z / pictures) * math.sqrt(p * (1 - p) / pictures + z * z / (4 * pictures**2))
    assert low == pytest.approx(100 * (centre - half), abs=1e-9)
    assert high == pytest.approx(100 * (centre + half), abs=1e-9)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=30))
def test_class_names_are_shown_as_they_are_and_run_nothing(name: str) -> None:
    page = Elements(card.body(make_adapter(CLIP, classes=("cat", name))))
    assert f"cat, {name}." in page.text
    assert page.tags <= {"h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "pre", "code"}
    assert page.attributes <= {"class"}


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "[x](javascript:alert(1))", "a | b", "**b**", "&lt;", "1. x"]
)
def test_nor_do_names_that_look_like_markup(name: str) -> None:
    test_class_names_are_shown_as_they_are_and_run_nothing.hypothesis.inner_test(name)  # type: ignore[attr-defined]


def test_the_folder_holds_it_for_people_and_browsers(tmp_path: Path) -> None:
    adapter = make_adapter(CLIP)
    adapter.save(tmp_path / "a")
    assert (tmp_path / "a" / "README.md").read_text(encoding="utf-8") == card.markdown(adapter)
    page = Elements((tmp_path / "a" / "card.html").read_text(encoding="utf-8"))
    assert {"title", "style", "table"} <= page.tags
    assert not page.tags & {"script", "link", "img"}
