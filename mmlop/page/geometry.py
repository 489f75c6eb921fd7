"""What charts are made of: scales, marks and words in a box WIDTH units wide, which the page's template draws as SVG.

Nothing here knows colours or fonts. A mark has a *look*, names of CSS classes, so that one drawing serves light, dark and
paper; its *tip* is what a browser shows when pointed at. The same numbers give the same geometry everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

WIDTH = 400.0
LETTER = 7.6  # mean width of a letter, of a wide font: for placing words
LINE = 15.0  # height of a line of words
COLOURS = 7  # looks s1 .. s7; s0 is ours
SYMBOLS = (  # drawn from their centre, about 9 units wide
    "m-4.2,0a4.2,4.2 0 1,0 8.4,0a4.2,4.2 0 1,0 -8.4,0z",
    "m-4,-4h8v8h-8z",
    "m0,-5.4l5.4,5.4l-5.4,5.4l-5.4,-5.4z",
    "m0,-5l5,9h-10z",
    "m0,5l5,-9h-10z",
    "m-1.6,-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",
)

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Series:
    """What belongs together and has one colour and one symbol."""

    name: str
    number: int  # 0 is ours; a negative one is the frozen CLIP

    @property
    def look(self) -> str:
        if self.number < 1:
            return "s0" if self.number == 0 else "reference"
        turn, colour = divmod(self.number - 1, COLOURS)
        return f"s{colour + 1} again" if turn else f"s{colour + 1}"

    @property
    def symbol(self) -> str:
        return SYMBOLS[max(self.number, 0) % len(SYMBOLS)]


@dataclass(frozen=True)
class Point:
    """A value with the ends of its interval (None: none is known), and where on the other axis it lies."""

    series: Series
    value: float
    low: float | None = None
    high: float | None = None
    x: float = 0.0

    @classmethod
    def percent(cls, series: Series, value: float, low: float | None, high: float | None, x: float = 0.0) -> Point:
        """A share: an interval that goes beyond what shares can be ends there."""
        return cls(series, value, low and max(low, 0.0), high and min(high, 100.0), x)

    @property
    def ends(self) -> tuple[float, float]:
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)

    def __str__(self) -> str:
        interval = "" if self.low is None else f" ({self.ends[0]:.1f} to {self.ends[1]:.1f})"
        return f"{self.value:.1f}{interval}"


@dataclass(frozen=True)
class Mark:
    d: str  # an SVG path
    look: str
    tip: str = ""
    opacity: float = 1.0


@dataclass(frozen=True)
class Words:
    x: float
    y: float
    text: str
    anchor: str = "start"  # start, middle, end
    look: str = ""
    tip: str = ""
    turned: bool = False  # read from below to above


@dataclass(frozen=True)
class Chart:
    title: str
    height: float
    marks: tuple[Mark, ...]
    words: tuple[Words, ...]
    legend: tuple[Series, ...] = ()
    picture: str = ""  # a data: URI, shown in `box`
    box: Box = (0.0, 0.0, 0.0, 0.0)
    width: float = WIDTH


@dataclass(frozen=True)
class Scale:
    """Maps low..high to start..end, by the logarithm where ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / ((high - low) or 1.0)

    def ticks(self, most: int = 6) -> list[float]:
        if self.log:
            return [10.0**n for n in range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)]
        step = nice_step(self.high - self.low, most)
        return [step * n for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


@dataclass
class Plot:
    """Collects what a chart consists of."""

    marks: list[Mark] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)

    def level(self, start: float, end: float, y: float, look: str, tip: str = "") -> None:
        self.marks.append(Mark(f"M{px(start)},{px(y)}H{px(end)}", look, tip))

    def upright(self, x: float, start: float, end: float, look: str, tip: str = "") -> None:
        self.marks.append(Mark(f"M{px(x)},{px(start)}V{px(end)}", look, tip))

    def area(self, box: Box, look: str, tip: str = "", opacity: float = 1.0) -> None:
        left, top, right, bottom = map(px, box)
        self.marks.append(Mark(f"M{left},{top}H{right}V{bottom}H{left}z", look, tip, opacity))

    def dot(self, series: Series, x: float, y: float, tip: str) -> None:
        self.marks.append(Mark(f"M{px(x)},{px(y)}{series.symbol}", f"dot {series.look}", tip))

    def axis_below(self, x: Scale, top: float, bottom: float, title: str, at: Iterable[float] | None = None) -> None:
        for tick in x.ticks() if at is None else at:
            self.upright(x(tick), top, bottom, "grid")
            self.words.append(Words(x(tick), bottom + LINE, number(tick), "middle", "tick"))
        self.words.append(Words((x.start + x.end) / 2, bottom + 2.2 * LINE, title, "middle", "axis"))

    def axis_left(self, y: Scale, left: float, right: float, title: str) -> None:
        """Its title stands on top."""
        for tick in y.ticks(5):
            self.level(left, right, y(tick), "grid")
            self.words.append(Words(left - 6, y(tick) + 4, number(tick), "end", "tick"))
        self.words.append(Words(4, LINE, title, "start", "axis"))

    def chart(self, title: str, height: float, legend: Iterable[Series] = ()) -> Chart:
        return Chart(title, height, tuple(self.marks), tuple(self.words), tuple(legend))


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten of which at most ``most`` fit into ``span``.

    >>> nice_step(37, 6), nice_step(0.8, 5)
    (10.0, 0.2)
    """
    power = 10.0 ** math.floor(math.log10((span or 1.0) / most))
    return next(power * n for n in (1, 2, 5, 10) if (span or 1.0) / (power * n) <= most)


def around(values: Iterable[float], margin: float = 0.06) -> tuple[float, float]:
    """A range that shows all values with room beside them."""
    found = list(values)
    low, high = min(found), max(found)
    room = (high - low) * margin or 1.0
    return low - room, high + room


def number(value: float) -> str:
    """As an axis shows it.

    >>> number(0.5), number(20.0), number(11556), number(3_555_072)
    ('0.5', '20', '11.6 K', '3.56 M')
    """
    for size, letter in ((1e6, " M"), (1e3, " K")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"


def shortened(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def px(value: float) -> str:
    """A coordinate, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")
