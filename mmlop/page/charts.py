"""The charts of the report, each from numbers to geometry."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmlop.page.geometry import (
    LETTER,
    LINE,
    WIDTH,
    Box,
    Chart,
    Mark,
    Plot,
    Point,
    Scale,
    Series,
    Words,
    around,
    number,
    overlap,
    px,
    shortened,
)

LONGEST_NAME, LONGEST_LINE = 20, 48  # letters beside and above a row
ROW = 26.0  # height of a row
LEFT, RIGHT, TOP = 48.0, WIDTH - 8, 30.0  # of what lies between axes
COUNTED, NAMED, DRAWN = 16, 30, 60  # classes up to which a confusion matrix has counts, names, and cells to point at
BOLD = 9.0  # mean width of a bold letter
LARGEST, PIXELS = 48.0, 120  # largest cell; cells along a side of what is a picture

Row = tuple[str, Sequence[Point]]


def rows(title: str, axis: str, found: Sequence[Row], zero: bool = False, bars: bool = False) -> Chart:
    """A row per name with its points and their intervals; ``zero`` shows where nothing differs, and with ``bars`` one
    reaches from there to the first point of each row."""
    plot, longest = Plot(), max(len(name) for name, _ in found)
    above = longest > LONGEST_NAME  # names too long to stand beside their rows stand over them
    left, height = (14.0, ROW + LINE) if above else (longest * LETTER + 14, ROW)
    bottom = 12 + height * len(found)
    ends = [end for _, points in found for point in points for end in point.ends]
    x = Scale(*around([*ends, 0.0] if zero else ends), left, WIDTH - 14)
    plot.axis_below(x, 6, bottom, axis)
    if zero:
        plot.upright(x(0), 6, bottom, "zero")
    for row, (name, points) in enumerate(found):
        middle = 12 + height * (row + 1) - ROW / 2
        if above:
            plot.words.append(Words(left, middle - ROW / 2 + 2, shortened(name, LONGEST_LINE), "start", "name", name))
        else:
            plot.words.append(Words(left - 8, middle + 4, name, "end", "name", name))
        apart = 0.0 if bars else min(6.0, 16.0 / max(len(points), 1))
        for place, point in enumerate(points):
            y = middle + (place - (len(points) - 1) / 2) * apart
            _row(plot, x, y, point, f"{name}, {point.series.name}: {point}", bars and place == 0)
    legend = tuple(dict.fromkeys(point.series for _, points in found for point in points))
    return plot.chart(title, bottom + 2.6 * LINE, legend if len(legend) > 1 else ())


def _row(plot: Plot, x: Scale, y: float, point: Point, tip: str, bar: bool) -> None:
    look = point.series.look
    if bar:
        start, end = sorted((x(0), x(point.value)))
        plot.area((start, y - 7, end, y + 7), f"bar {look}", tip)
    if point.low is not None:
        plot.level(x(point.ends[0]), x(point.ends[1]), y, f"whisker {'ink' if bar else look}", tip)
    if not bar:
        plot.dot(point.series, x(point.value), y, tip)


def curves(title: str, across: str, up: str, found: Sequence[Sequence[Point]], log: bool = False) -> Chart:
    """A line with intervals for each sequence of points; ``log``: ticks at the points, which grow by factors."""
    plot, bottom = Plot(), 230.0
    places = sorted({point.x for line in found for point in line})
    room = 1.15 if log else 1.0
    x = Scale(places[0] / room, places[-1] * room, LEFT + 8, WIDTH - 14, log)
    y = Scale(*around(end for line in found for point in line for end in point.ends), bottom, TOP)
    plot.axis_left(y, LEFT, RIGHT, up)
    plot.axis_below(x, TOP, bottom, across, places if log else None)
    for line in found:
        look = line[0].series.look
        steps = "L".join(f"{px(x(point.x))},{px(y(point.value))}" for point in line)
        plot.marks.append(Mark(f"M{steps}", f"line {look}", line[0].series.name))
        for point in line:
            tip = f"{point.series.name}, {across} {number(point.x)}: {point}"
            if point.low is not None:
                plot.upright(x(point.x), y(point.ends[0]), y(point.ends[1]), f"whisker {look}", tip)
            if len(line) <= 12:
                plot.dot(point.series, x(point.x), y(point.value), tip)
    return plot.chart(title, bottom + 2.6 * LINE, (line[0].series for line in found))


def scatter(title: str, across: str, up: str, points: Sequence[Point]) -> Chart:
    """Named points over a logarithmic axis; x = 0, which has no logarithm, has a place of its own on the left."""
    plot, bottom = Plot(), 290.0
    powers = [math.log10(point.x) for point in points if point.x > 0] or [0.0]
    zero = LEFT + 22 if any(point.x <= 0 for point in points) else None
    highest = 10.0 ** max(math.ceil(max(powers)), max(powers) + 0.3)
    x = Scale(10.0 ** math.floor(min(powers)), highest, LEFT + 8, WIDTH - 18, log=True)
    if zero is not None:
        x = replace(x, start=LEFT + 60)
        plot.upright(zero, TOP, bottom, "grid")
        plot.words.append(Words(zero, bottom + LINE, "0", "middle", "tick"))
        plot.marks.append(Mark(f"M{px(zero + 18)},{px(bottom + 4)}l4,-8m3,8l4,-8", "zero"))  # the axis is cut here
    y = Scale(*around((end for point in points for end in point.ends), 0.12), bottom, TOP)
    plot.axis_left(y, LEFT, RIGHT, up)
    plot.axis_below(x, TOP, bottom, across)
    at = {point.series: (x(point.x) if zero is None or point.x > 0 else zero, y(point.value)) for point in points}
    for point in points:
        tip, look = f"{point.series.name}, {number(point.x)}: {point}", point.series.look
        if point.low is not None:
            plot.upright(at[point.series][0], y(point.ends[0]), y(point.ends[1]), f"whisker {look}", tip)
        plot.dot(point.series, *at[point.series], tip)
    plot.words += _beside(at)
    return plot.chart(title, bottom + 2.6 * LINE)


def _beside(at: dict[Series, tuple[float, float]]) -> list[Words]:
    """Each name beside its point, at the first place where it covers neither a point nor another name; shortened where it
    would not stay inside. Names are bold."""
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in at.values()]
    half = int(((WIDTH - LEFT) / 2 - 9) / BOLD)  # letters that have room on one side of any point
    words = []
    for series, (x, y) in at.items():
        name = series.name
        if not (inside := _places(x, y, name)):
            name = shortened(name, half)
            inside = _places(x, y, name)
        free = [place for place, box in inside.items() if not any(overlap(box, other) for other in taken)]
        chosen = (free or list(inside))[0]
        taken.append(inside[chosen])
        words.append(Words(chosen[0], chosen[1], name, chosen[2], f"name {series.look}", series.name))
    return words


def _places(x: float, y: float, name: str) -> dict[tuple[float, float, str], Box]:
    """Where the name of a point may stand, and the box it takes there, inside the plot."""
    beside = [place for up in (4, -8, 16, -20, 28) for place in ((x + 8, y + up, "start"), (x - 8, y + up, "end"))]
    boxes = {place: _box(*place, len(name) * BOLD) for place in (*beside, (x, y - 9, "middle"), (x, y + 19, "middle"))}
    return {place: box for place, box in boxes.items() if box[0] > LEFT and box[2] < WIDTH}


def _box(x: float, y: float, anchor: str, wide: float) -> Box:
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    return (left, y - 10, left + wide, y + 2)


def reliability(title: str, bins: Sequence[Sequence[float]], series: Series) -> Chart:
    """How often pictures are classified rightly (bars) against how sure the adapter is. ``bins``, equal steps of
    confidence, hold their number, mean confidence and accuracy in percent; of an adapter as sure as it should be, bars end
    on the diagonal."""
    plot, bottom = Plot(), 260.0
    x, y = Scale(0, 100, LEFT + 8, WIDTH - 14), Scale(0, 100, bottom, TOP)
    plot.axis_left(y, LEFT, RIGHT, "accuracy, %")
    plot.axis_below(x, TOP, bottom, "confidence, %")
    most = max((count for count, _, _ in bins), default=0) or 1
    for place, (count, confidence, accuracy) in enumerate(bins):
        if count:
            start, end = x(100 * place / len(bins)) + 1, x(100 * (place + 1) / len(bins)) - 1
            tip = f"{count:.0f} pictures: {confidence:.1f} % sure, {accuracy:.1f} % right"
            shade = round(0.25 + 0.75 * math.sqrt(count / most), 3)  # a bar that few pictures stand behind is paler
            plot.area((start, y(accuracy), end, bottom), f"bar {series.look}", tip, shade)
            plot.upright(x(confidence), y(accuracy), y(confidence), "gap", tip)
    plot.marks.append(Mark(f"M{px(x(0))},{px(y(0))}L{px(x(100))},{px(y(100))}", "diagonal"))
    return plot.chart(title, bottom + 2.6 * LINE)


def confusion(title: str, counts: Sequence[Sequence[int]], classes: Sequence[str], series: Series) -> Chart:
    """Counts [C, C] of (label, prediction); a cell's depth is its share of the label's pictures. Many classes become one
    picture, with neighbours in one cell, since a million cells are more than a browser or an eye bears."""
    matrix = np.asarray(counts, dtype=np.int64).reshape(len(classes), len(classes))
    if len(classes) > DRAWN:
        return _crowd(title, matrix)
    names = [shortened(name, 16) for name in classes] if len(classes) <= NAMED else []
    room = max(map(len, names), default=0) * LETTER * 0.8
    side = min(WIDTH - 38 - room, LARGEST * len(classes))
    plot, box = _frame(room, side)
    left, top, _, bottom = box
    cell = side / len(classes)
    for place, name in enumerate(names):
        middle = cell * (place + 0.5) + 3.5
        plot.words.append(Words(left - 5, top + middle, name, "end", "small", classes[place]))
        plot.words.append(Words(left + middle, bottom + 5, name, "end", "small", classes[place], turned=True))
    for row, column in np.argwhere(matrix).tolist():
        count, total, at, down = matrix[row, column], matrix[row].sum(), left + cell * column, top + cell * row
        tip = f"{classes[row]}, taken for {classes[column]}: {count} of {total}"
        shade = round(0.1 + 0.9 * count / total, 3)
        plot.area((at, down, at + cell, down + cell), f"cell {series.look}", tip, shade)
        if len(classes) <= COUNTED:
            look = "count inverse" if count > total / 2 else "count"
            plot.words.append(Words(at + cell / 2, down + cell / 2 + 4, str(count), "middle", look, tip))
    return plot.chart(title, bottom + room + 28)


def _frame(room: float, side: float) -> tuple[Plot, Box]:
    """An empty matrix with ``room`` for names, and where it is."""
    left, top = (WIDTH - side + room) / 2 + 8, 8.0
    plot, box = Plot(), (left, top, left + side, top + side)
    plot.area(box, "frame")
    plot.words.append(Words(left + side / 2, top + side + room + 20, "prediction", "middle", "axis"))
    plot.words.append(Words(left - room - 10, top + side / 2, "label", "middle", "axis", turned=True))
    return plot, box


def _crowd(title: str, matrix: np.ndarray[Any, Any]) -> Chart:
    """As a PNG in a data: URI; as opaque as the share is large, so that it suits any ground."""
    from PIL import Image

    together = -(-len(matrix) // PIXELS)
    starts = np.arange(0, len(matrix), together)
    blocks = np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)
    shares = blocks / np.maximum(blocks.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = (58, 120, 224)
    pixels[..., 3] = np.round(255 * np.sqrt(shares))  # by the root, so that a small share can be seen
    held = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(held, "PNG", optimize=True)
    plot, box = _frame(0.0, WIDTH - 38)
    chart = plot.chart(f"{title}, {together} to a cell" if together > 1 else title, box[3] + 28)
    return replace(chart, picture=f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}", box=box)
