"""Line plots as SVG, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 780, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 230, 44, 52
COLORS = (
    ("#2563eb", "#60a5fa"),
    ("#dc2626", "#f87171"),
    ("#059669", "#34d399"),
    ("#6b7280", "#9ca3af"),
    ("#b45309", "#fbbf24"),
    ("#7c3aed", "#a78bfa"),
    ("#0e7490", "#22d3ee"),
    ("#be185d", "#f472b6"),
    ("#4d7c0f", "#a3e635"),
    ("#1e3a8a", "#93c5fd"),
    ("#a16207", "#fde047"),
)
"""On a light page, on a dark page."""
LABEL_STEP = 16
"""Pixels between two labels at the right edge."""


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    label: str
    points: Sequence[Point]
    color: int
    """An index of `COLORS`: the same line has the same colour in every plot."""
    dashed: bool = False


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round values that cover the range."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        steps = (1, 2, 5) if last - first <= 3 else (1,)
        return [
            step * 10.0**power
            for power in range(first, last + 1)
            for step in steps
            if low <= step * 10.0**power <= high
        ]
    raw = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def spread(wanted: list[float], low: float, high: float) -> list[float]:
    """Move labels apart, keeping their order: `wanted` is sorted."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + LABEL_STEP if placed else low))
    overflow = placed[-1] - high if placed else 0
    if overflow > 0:
        limit = high
        for i in reversed(range(len(placed))):
            placed[i] = min(placed[i], limit)
            limit = placed[i] - LABEL_STEP
    return placed


def line_plot(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    ordinal: bool = False,
    log_y: bool = False,
    bound: tuple[float, str] | None = None,
) -> str:
    """An SVG document. `ordinal` spaces the x values evenly; `bound` is a horizontal line with its label."""
    series = [line for line in series if line.points]
    xs = sorted({point.x for line in series for point in line.points})
    lows = [point.low for line in series for point in line.points] + ([bound[0]] if bound else [])
    highs = [point.high for line in series for point in line.points] + ([bound[0]] if bound else [])
    bottom = max(min(lows) / 1.3, 1e-3) if log_y else 0.0
    top = max(highs) * (1.3 if log_y else 1.08)
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at_x(x: float) -> float:
        if ordinal:
            return LEFT + plot_width * (xs.index(x) + 0.5) / len(xs)
        return LEFT + plot_width * x / (xs[-1] * 1.03)

    def at_y(y: float) -> float:
        share = (
            (math.log(max(y, bottom)) - math.log(bottom)) / (math.log(top) - math.log(bottom))
            if log_y
            else (y - bottom) / (top - bottom)
        )
        return TOP + plot_height * (1 - share)

    def text(x: float, y: float, content: str, anchor: str = "middle", extra: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(content)}</text>'

    light = "".join(f".c{i}{{stroke:{c}}}.f{i}{{fill:{c}}}" for i, (c, _) in enumerate(COLORS))
    dark = "".join(f".c{i}{{stroke:{c}}}.f{i}{{fill:{c}}}" for i, (_, c) in enumerate(COLORS))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(title)}">',
        "<style>text{font:12px system-ui,sans-serif;fill:#1f2937}.title{font-size:15px;font-weight:600}"
        ".page{fill:#ffffff}.grid{stroke:#e5e7eb}.axis{stroke:#6b7280}.bound{stroke:#6b7280;stroke-dasharray:6 4}"
        f".line{{fill:none;stroke-width:2}}.dashed{{stroke-dasharray:5 4}}{light}"
        "@media (prefers-color-scheme:dark){text{fill:#e5e7eb}.page{fill:#0d1117}.grid{stroke:#263040}"
        f".axis,.bound{{stroke:#9ca3af}}{dark}}}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
        text(LEFT, 24, title, "start", ' class="title"'),
    ]
    for y in ticks(bottom, top, log_y):
        parts.append(f'<path class="grid" d="M{LEFT} {at_y(y):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(text(LEFT - 8, at_y(y) + 4, number(y), "end"))
    for x in xs if ordinal else ticks(0, xs[-1], log=False):
        parts.append(f'<path class="axis" d="M{at_x(x):.1f} {HEIGHT - BOTTOM}v5"/>')
        parts.append(text(at_x(x), HEIGHT - BOTTOM + 20, number(x)))
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none"/>')
    parts.append(text(LEFT + plot_width / 2, HEIGHT - 12, x_label))
    middle = TOP + plot_height / 2
    parts.append(text(16, middle, y_label, extra=f' transform="rotate(-90 16 {middle:.1f})"'))
    if bound:
        parts.append(f'<path class="bound" d="M{LEFT} {at_y(bound[0]):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(text(LEFT + 6, at_y(bound[0]) - 5, bound[1], "start"))
    ends = sorted((at_y(line.points[-1].y), i) for i, line in enumerate(series))
    label_y = dict(zip((i for _, i in ends), spread([y for y, _ in ends], TOP, HEIGHT - BOTTOM), strict=True))
    for i, line in enumerate(series):
        color = line.color
        path = "L".join(f"{at_x(point.x):.1f} {at_y(point.y):.1f}" for point in line.points)
        dashed = " dashed" if line.dashed else ""
        parts.append(f'<path class="line c{color}{dashed}" d="M{path}"/>')
        for point in line.points:
            x = at_x(point.x)
            if point.high > point.low:
                parts.append(f'<path class="c{color}" d="M{x:.1f} {at_y(point.low):.1f}V{at_y(point.high):.1f}"/>')
            parts.append(f'<circle class="f{color}" cx="{x:.1f}" cy="{at_y(point.y):.1f}" r="3.2"/>')
        label_x, y = WIDTH - RIGHT + 42, label_y[i]
        parts.append(f'<path class="line c{color}{dashed}" d="M{label_x - 26} {y:.1f}h20"/>')
        parts.append(text(label_x, y + 4, line.label, "start"))
    return "\n".join([*parts, "</svg>", ""])
