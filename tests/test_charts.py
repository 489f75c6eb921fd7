"""Charts as geometry, against positions worked out the long way."""

from __future__ import annotations

import base64
import io
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmlop.page import charts
from mmlop.page.geometry import Chart, Mark, Point, Scale, Series, nice_step, overlap

OURS, OTHER, FROZEN = Series("MMLoP", 0), Series("CoOp", 1), Series("CLIP", -1)
VALUES = st.floats(-1e3, 1e3)


def marks(chart: Chart, look: str) -> list[Mark]:
    return [mark for mark in chart.marks if mark.look.startswith(look)]


def start(mark: Mark) -> tuple[float, float]:
    x, y = re.match(r"M([\d.-]+),([\d.-]+)", mark.d).groups()  # type: ignore[union-attr]
    return float(x), float(y)


@given(VALUES, st.floats(0.01, 1e3), st.floats(0, 1))
def test_a_scale_maps_in_proportion(low: float, span: float, share: float) -> None:
    scale = Scale(low, low + span, 50, 350)
    assert scale(low + share * span) == pytest.approx(50 + share * 300, abs=1e-3)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)


@given(st.floats(1e-3, 1e6), st.integers(2, 9))
def test_steps_are_round_and_few(span: float, most: int) -> None:
    step = nice_step(span, most)
    digits = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(digits - round_) for round_ in (1, 2, 5, 10)) < 1e-6
    assert span / step <= most
    assert span / step > most / 2.51  # the next smaller step would be too many


def test_a_logarithmic_scale_gives_each_factor_of_ten_the_same_room() -> None:
    scale = Scale(100, 1_000_000, 0, 400, log=True)
    assert [scale(tick) for tick in scale.ticks()] == pytest.approx([0, 100, 200, 300, 400])


def test_rows_place_points_and_intervals_by_value() -> None:
    chart = charts.rows("t", "%", [("one", [Point(OURS, 50, 40, 60)]), ("two", [Point(FROZEN, 30)])])
    whisker = marks(chart, "whisker")[0]
    left, right = map(float, re.match(r"M([\d.]+),[\d.]+H([\d.]+)", whisker.d).groups())  # type: ignore[union-attr]
    ours, frozen = (start(mark)[0] for mark in marks(chart, "dot"))
    assert ours == pytest.approx((left + right) / 2, abs=0.1)
    assert (ours - frozen) / (right - left) == pytest.approx(20 / 20, abs=0.01)
    assert len(marks(chart, "whisker")) == 1  # of one without seeds there is no interval
    assert [series.name for series in chart.legend] == ["MMLoP", "CLIP"]
    assert marks(chart, "dot")[0].tip == "one, MMLoP: 50.0 (40.0 to 60.0)"


def test_bars_reach_from_zero_to_either_side() -> None:
    chart = charts.rows("t", "points", [("up", [Point(OTHER, 2, 1, 3)]), ("down", [Point(OTHER, -1, -2, 0)])], True, True)
    zero = start(marks(chart, "zero")[0])[0]
    up, down = (re.match(r"M([\d.]+),[\d.]+H([\d.]+)", mark.d) for mark in marks(chart, "bar"))
    assert up is not None
    assert down is not None
    assert float(up[1]) == zero == float(down[2])
    assert (float(up[2]) - zero) / (zero - float(down[1])) == pytest.approx(2, abs=0.02)


def test_what_trains_nothing_has_a_place_on_the_logarithmic_axis() -> None:
    points = [Point(FROZEN, 59, x=0), Point(OURS, 70, 69, 71, 1020), Point(OTHER, 64, x=102_000)]
    chart = charts.scatter("t", "numbers", "%", points)
    x = [start(mark)[0] for mark in marks(chart, "dot")]
    assert x[0] < x[1] < x[2]
    ticks = {words.text: words.x for words in chart.words if words.look == "tick" and words.y > 250}
    assert ticks["0"] == x[0]
    assert x[2] - x[1] == pytest.approx(2 * (ticks["10 K"] - ticks["1 K"]), abs=0.2)
    assert [words.text for words in chart.words if words.look.startswith("name")] == ["CLIP", "MMLoP", "CoOp"]


def test_names_of_points_that_lie_close_do_not_cover_one_another() -> None:
    points = [Point(Series(f"method {n}", n), 60 + 0.3 * n, x=1000 * 1.1**n) for n in range(6)]
    chart = charts.scatter("t", "numbers", "%", points)
    names = [words for words in chart.words if words.look.startswith("name")]
    boxes = [charts._box(words.x, words.y, words.anchor, len(words.text) * charts.BOLD) for words in names]
    assert not [1 for place, box in enumerate(boxes) for other in boxes[:place] if overlap(box, other)]
    assert all(box[0] >= 0 and box[2] <= chart.width for box in boxes)


@pytest.mark.parametrize("x", [1000, 3160, 10_000])
def test_names_too_long_for_the_plot_are_shortened(x: float) -> None:
    long = "no sharing, no consistency, no drift correction"
    points = [Point(Series(long, 0), 60, x=x), Point(Series("short", 1), 70, x=1000), Point(OTHER, 64, x=10_000)]
    chart = charts.scatter("t", "numbers", "%", points)
    (name, *_) = [words for words in chart.words if words.look.startswith("name")]
    left, _, right, _ = charts._box(name.x, name.y, name.anchor, len(name.text) * charts.BOLD)
    assert charts.LEFT < left < right < chart.width
    assert (name.text[-1], name.tip) == ("…", long)


def test_curves_have_a_line_for_each_series() -> None:
    lines = [[Point(OURS, 50 + k, x=k) for k in (1, 4, 16)], [Point(OTHER, 40 + k, x=k) for k in (1, 4, 16)]]
    chart = charts.curves("t", "shots", "%", lines, log=True)
    assert len(marks(chart, "line")) == 2
    x = [start(mark)[0] for mark in marks(chart, "dot s0")]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)  # each is four times the one before


def test_reliability_bars_are_accuracies_and_empty_bins_are_left_out() -> None:
    bins = [[0, 0.0, 0.0], [10, 50.0, 25.0], [30, 80.0, 100.0]]
    chart = charts.reliability("t", bins, OURS)
    bars = marks(chart, "bar")
    assert [mark.tip for mark in bars] == [
        "10 pictures: 50.0 % sure, 25.0 % right",
        "30 pictures: 80.0 % sure, 100.0 % right",
    ]
    heights = [float(re.findall(r"V([\d.]+)", mark.d)[0]) - start(mark)[1] for mark in bars]
    assert heights[0] / heights[1] == pytest.approx(25 / 100, abs=0.01)
    assert bars[0].opacity < bars[1].opacity == 1


def test_confusion_has_a_cell_for_everything_that_happened() -> None:
    counts = [[3, 1, 0], [0, 4, 0], [2, 0, 2]]
    chart = charts.confusion("t", counts, ["cat", "dog", "cow"], OURS)
    cells = marks(chart, "cell")
    assert len(cells) == 5
    assert cells[0].tip == "cat, taken for cat: 3 of 4"
    assert cells[0].opacity == pytest.approx(0.1 + 0.9 * 3 / 4, abs=1e-3)
    assert [words.text for words in chart.words if words.look.startswith("count")] == ["3", "1", "4", "2", "2"]


@pytest.mark.parametrize("classes", [61, 120, 250])
def test_many_classes_are_a_picture_of_neighbours_together(classes: int) -> None:
    counts = np.random.default_rng(0).integers(0, 3, (classes, classes)) + 40 * np.eye(classes, dtype=int)
    chart = charts.confusion("t", counts.tolist(), [str(n) for n in range(classes)], OURS)
    together = math.ceil(classes / 120)
    side = math.ceil(classes / together)
    expected = np.zeros((side, side))
    for row in range(classes):
        for column in range(classes):
            expected[row // together, column // together] += counts[row, column]
    expected = 255 * (expected / expected.sum(axis=1, keepdims=True)) ** 0.5
    picture = Image.open(io.BytesIO(base64.b64decode(chart.picture.partition(",")[2])))
    assert np.abs(np.asarray(picture)[..., 3] - expected).max() <= 0.5
    assert not marks(chart, "cell")


def test_a_class_without_pictures_has_no_share() -> None:
    chart = charts.confusion("t", [[0, 0], [1, 1]], ["none", "some"], OURS)
    assert len(marks(chart, "cell")) == 2


def test_the_first_eight_series_look_different_and_ours_is_alone() -> None:
    looks = [Series("", number).look for number in range(-1, 20)]
    assert len(set(looks[:9])) == 9
    assert looks.count("s0") == 1
    assert len({(Series("", n).look, Series("", n).symbol) for n in range(1, 40)}) == 39


def test_only_the_first_of_a_row_is_a_bar() -> None:
    chart = charts.rows("t", "points", [("part", [Point(OURS, 2, 1, 3), Point(OTHER, 0.5)])], zero=True, bars=True)
    assert [mark.look for mark in marks(chart, "bar")] == ["bar s0"]
    assert [mark.look for mark in marks(chart, "dot")] == ["dot s1"]


def test_long_names_stand_above_their_rows() -> None:
    points = [Point(OURS, 2)]
    chart = charts.rows("t", "%", [("a name too long to stand beside its row", points), ("short", points)])
    names = [words for words in chart.words if words.look == "name"]
    dots = [start(mark)[1] for mark in marks(chart, "dot")]
    assert [words.anchor for words in names] == ["start", "start"]
    assert names[0].y < dots[0] < names[1].y < dots[1]


def test_an_interval_of_shares_ends_where_shares_do() -> None:
    assert Point.percent(OURS, 60, -5, 130).ends == (0, 100)
    assert Point.percent(OURS, 60, 0.0, 70).ends == (0, 70)
    assert Point.percent(OURS, 60, None, None).low is None
