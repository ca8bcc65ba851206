"""How soon bad releases are refused, as a picture (SVG) that is readable on light and on dark
pages. Pure: curves in, text out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate


@dataclass(frozen=True)
class Curve:
    """Of so many rollouts of a release: after how many seconds each of those that were refused
    was."""

    name: str
    refused: Sequence[int]
    rollouts: int

    def after(self, share: float) -> int | None:
        """The second by which this share of all rollouts was refused; None: so many never were."""
        place = math.ceil(share * self.rollouts)
        return sorted(self.refused)[place - 1] if 0 < place <= len(self.refused) else None

    def words(self) -> str:
        half, most = self.after(0.5), self.after(0.99)
        if half is None:
            return f"{len(self.refused) or 'none'} of {self.rollouts:,} refused"
        return f"half after {half} s" + (f", 99 % after {most} s" if most is not None else "")


@dataclass(frozen=True)
class Mark:
    """A second that is asked for, and what is asked there."""

    second: int
    text: str


WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 620, 40, 366  # where the curves are
LEGEND, STEP = 644, 45
# Each curve has a colour on light and one on dark ground, and a pattern for those who can't tell
# them apart.
COLOURS = (("#b3261e", "#ff7b72"), ("#0b62c4", "#58a6ff"), ("#8250df", "#bc8cff"),
           ("#1a7f37", "#3fb950"), ("#a15c00", "#e3b341"), ("#0e7490", "#39c5cf"),
           ("#57606a", "#9ea7b3"))
DASHES = ("", "8 3", "2 2.5", "", "10 3 2 3", "5 3", "")
# Paper, ink, grid.
LIGHT, DARK = ("#ffffff", "#1f2328", "#d0d7de"), ("#0d1117", "#e6edf3", "#30363d")


def picture(curves: Sequence[Curve], marks: Sequence[Mark], upto: int) -> str:
    """The share of rollouts that were refused by each second, up to so many; the quickest first."""
    def second(curve: Curve) -> float:
        found = curve.after(0.5)
        return math.inf if found is None else found

    ordered = sorted(curves, key=second)
    if len(ordered) > len(COLOURS):
        raise ValueError(f"there are no more than {len(COLOURS)} colours")
    said = "; ".join(f"{curve.name}: {curve.words()}" for curve in ordered)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-labelledby="title what">',
        '<title id="title">How soon a bad release is refused</title>',
        f'<desc id="what">{escape(said)}.</desc>', _style(),
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        *_axes(upto), *_marks(marks, upto),
        *(f'<path class="curve c{number}" d="{_path(curve, upto)}"/>'
          for number, curve in reversed(list(enumerate(ordered)))),
        *_legend(ordered), "</svg>", ""])


def _style() -> str:
    def colours(mode: int) -> str:
        paper, ink, grid = (LIGHT, DARK)[mode]
        return (f".paper{{fill:{paper}}} text{{fill:{ink}}} .grid{{stroke:{grid}}} "
                f".mark{{stroke:{ink}}} "
                + " ".join(f".c{number}{{stroke:{each[mode]}}}"
                           for number, each in enumerate(COLOURS)))

    dashes = " ".join(f".c{number}{{stroke-dasharray:{dash.replace(' ', ',')}}}"
                      for number, dash in enumerate(DASHES) if dash)
    return (f"<style>text{{font:13px system-ui,'DejaVu Sans',sans-serif}} .small{{font-size:12px;"
            f"opacity:.8}} .grid{{fill:none}} .mark{{stroke-dasharray:3,3;opacity:.7}} "
            f".curve{{fill:none;stroke-width:2.2}} {dashes} {colours(0)} "
            f"@media (prefers-color-scheme:dark){{{colours(1)}}}</style>")


def _x(second: float, upto: int) -> float:
    return round(LEFT + (RIGHT - LEFT) * second / upto, 1)


def _y(share: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * share, 1)


def _axes(upto: int) -> list[str]:
    shares = [f'<path class="grid" d="M{LEFT} {_y(share / 100)}H{RIGHT}"/>'
              f'<text class="small" x="{LEFT - 8}" y="{_y(share / 100) + 4:.1f}" '
              f'text-anchor="end">{share} %</text>' for share in range(0, 101, 25)]
    seconds = [f'<text class="small" x="{_x(second, upto)}" y="{BOTTOM + 18}" '
               f'text-anchor="middle">{second}</text>' for second in range(0, upto + 1, 30)]
    middle = (LEFT + RIGHT) / 2
    return [*shares, *seconds, f'<text x="{middle}" y="{BOTTOM + 40}" text-anchor="middle">seconds '
            'since the release was bad</text>']


def _marks(marks: Sequence[Mark], upto: int) -> list[str]:
    return [f'<path class="mark" d="M{_x(mark.second, upto)} {TOP - 22}V{BOTTOM}"/>'
            f'<text class="small" x="{_x(mark.second, upto) + 5:.1f}" y="{TOP - 12}">'
            f'{escape(mark.text)}</text>' for mark in marks]


def _path(curve: Curve, upto: int) -> str:
    """A step at each second in which some were refused; it ends when all were."""
    steps = sorted(Counter(each for each in curve.refused if each <= upto).items())
    sums = accumulate(number for _, number in steps)
    end = "" if sum(number for _, number in steps) == curve.rollouts else f"H{RIGHT}"
    return f"M{LEFT} {BOTTOM}" + "".join(
        f"H{_x(second, upto)}V{_y(found / curve.rollouts)}"
        for (second, _), found in zip(steps, sums, strict=True)) + end


def _legend(curves: Sequence[Curve]) -> list[str]:
    found = [f'<text class="small" x="{LEGEND}" y="28">share of simulated rollouts refused</text>']
    for number, curve in enumerate(curves):
        y = TOP + 24 + number * STEP
        found.append(f'<path class="curve c{number}" d="M{LEGEND} {y - 4}h26"/>'
                     f'<text x="{LEGEND + 34}" y="{y}">{escape(curve.name)}</text>'
                     f'<text class="small" x="{LEGEND + 34}" y="{y + 17}">'
                     f'{escape(curve.words())}</text>')
    return found
