"""The report in a real browser: it draws, fits, obeys, and asks nobody for anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import make_grid
import pytest
from make_report import DATASETS, make_project, make_run, written

from mmlop import page

if TYPE_CHECKING:
    from chromium import Watched

    Visit = Callable[..., Watched]

pytest_plugins = ["chromium"]
pytestmark = pytest.mark.slow

PHONE, A4, DESKTOP = 390, 720, 1280  # pixels
HOSTILE = ["<script>window.hit = 1</script>", '"><img src=x onerror="window.hit = 1">', "a long name " * 8]

# Of every chart that can be seen: its name, and how many of its marks have an extent on the screen.
DRAWN = """() => [...document.querySelectorAll("svg[role=img]")].filter(svg => svg.checkVisibility()).map(svg => [
  svg.getAttribute("aria-label"),
  [...svg.querySelectorAll(".dot, .bar, .line, .cell, image")].filter(mark => {
    const box = mark.getBoundingClientRect();
    return box.width + box.height > 1;
  }).length])"""
# Words that stick out of their chart.
OUTSIDE = """() => [...document.querySelectorAll("svg[role=img]")].filter(svg => svg.checkVisibility()).flatMap(svg => {
  const all = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < all.left - 1 || box.right > all.right + 1 || box.top < all.top - 1 || box.bottom > all.bottom + 1;
  }).map(text => svg.getAttribute("aria-label") + ": " + text.textContent);
})"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_project(tmp_path_factory.mktemp("report") / "project")
    make_grid.family(root, DATASETS)
    make_grid.ablation(root, DATASETS)
    make_grid.shots(root)
    make_run(root, "mini_sketch", make_grid.names(24))
    make_run(root, "mini_digits", [*HOSTILE, *make_grid.names(400)])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
            patch.delenv(name, raising=False)
        patch.chdir(root)
        written(root)
    return root / page.FILE


def quiet(watched: Watched) -> bool:
    return watched.complaints == [] and watched.requests == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_fits_draws_everything_and_complains_of_nothing(visit: Visit, file: Path, width: int, dark: bool) -> None:
    watched = visit(file, width, dark)
    assert watched.page.evaluate(OVERFLOW) <= 0
    drawn = watched.page.evaluate(DRAWN)
    assert len(drawn) > 15
    assert [name for name, count in drawn if not count] == []
    assert watched.page.evaluate(OUTSIDE) == []
    assert quiet(watched)
    ground = watched.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3 > 128
    assert light != dark


def test_names_of_classes_run_nothing(visit: Visit, file: Path) -> None:
    watched = visit(file, DESKTOP)
    assert watched.page.evaluate("() => window.hit") is None
    assert quiet(watched)


def test_the_selector_shows_the_chosen_data_set_alone(visit: Visit, file: Path) -> None:
    watched = visit(file, PHONE)
    choice = watched.page.get_by_label("Data set", exact=True)
    headings = watched.page.locator(".panel h3").filter(has_text=re.compile("^mini_"))
    assert headings.filter(visible=True).all_text_contents() == ["mini_sketch"]
    choice.focus()
    watched.page.keyboard.press("ArrowDown")  # as without a mouse
    assert headings.filter(visible=True).all_text_contents() == ["mini_digits"]
    image = watched.page.locator("svg image").filter(visible=True).first
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    assert box is not None
    top = "([x, y]) => document.elementFromPoint(x, y).tagName"
    assert watched.page.evaluate(top, [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]) == "image"
    assert watched.page.evaluate(OVERFLOW) <= 0
    assert watched.page.evaluate(OUTSIDE) == []
    assert quiet(watched)


def test_row_names_leave_room_for_what_scrolls_beside_them(visit: Visit, file: Path) -> None:
    watched = visit(file, PHONE)
    shares = watched.page.evaluate(
        """() => [...document.querySelectorAll(".scroll")].filter(box => box.checkVisibility()).map(
          box => box.querySelector("tbody th").offsetWidth / box.clientWidth)"""
    )
    assert max(shares) < 0.6


def test_wide_tables_scroll_inside_their_box_by_the_keyboard(visit: Visit, file: Path) -> None:
    watched = visit(file, PHONE)
    box = watched.page.get_by_role("region", name="MMLoP minus each of the others").first
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    box.focus()
    watched.page.keyboard.press("ArrowRight")
    watched.page.wait_for_function("box => box.scrollLeft > 0", arg=box.element_handle())


def test_wide_tables_fit_on_paper(visit: Visit, file: Path) -> None:
    watched = visit(file, A4)
    watched.page.emulate_media(media="print")
    assert watched.page.evaluate(OVERFLOW) <= 0


def test_without_scripts_and_on_paper_everything_is_there(visit: Visit, file: Path) -> None:
    for scripts in (False, True):
        watched = visit(file, DESKTOP, scripts=scripts)
        if scripts:
            watched.page.emulate_media(media="print")
        headings = watched.page.locator(".panel h3").filter(has_text=re.compile("^mini_"))
        assert headings.filter(visible=True).all_text_contents() == ["mini_sketch", "mini_digits"]
