"""Small charts as inline SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsd.evaluate.bootstrap import Estimate

_WIDTH, _LEFT, _RIGHT = 720, 48, 16


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers within the range."""
        span = self.high - self.low or 1.0
        raw = span / count
        step = 10 ** math.floor(math.log10(raw))
        step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def curve(points: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]] = ()) -> str:
    """A line over steps, with dots for held-out values."""
    if not points:
        return "<p>No training metrics were logged.</p>"
    height, values = 240, [value for _, value in [*points, *held_out]]
    x = _Axis(0, max(step for step, _ in points), _LEFT, _WIDTH - _RIGHT)
    y = _Axis(min(0.0, min(values)), max(values), height - 28, 12)
    parts = [_horizontal(y, tick) for tick in y.ticks()]
    parts += [f'<text x="{x(t):.1f}" y="{height - 8}" text-anchor="middle">{t:g}</text>' for t in x.ticks(6)]
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    parts.append(f'<polyline class="line" points="{path}"/>')
    parts += [f'<circle class="held" cx="{x(s):.1f}" cy="{y(v):.1f}" r="3.5"/>' for s, v in held_out]
    return _svg(height, parts, "training curve")


def intervals(rows: Mapping[str, Estimate], bounds: Sequence[float] = ()) -> str:
    """Means with intervals, one a row; dashed lines at ``bounds``."""
    height = 34 * len(rows) + 36
    values = [v for e in rows.values() for v in (e.low, e.high)] + list(bounds)
    margin = 0.05 * (max(values) - min(values) or 1.0)
    left = max(170, 20 + 7.5 * max(map(len, rows)))
    x = _Axis(min(values) - margin, max(values) + margin, left, _WIDTH - _RIGHT)
    parts = [f'<line class="bound" x1="{x(b):.1f}" x2="{x(b):.1f}" y1="6" y2="{height - 26}"/>' for b in bounds]
    parts += [f'<text x="{x(t):.1f}" y="{height - 8}" text-anchor="middle">{t:g}</text>' for t in x.ticks(8)]
    for number, (name, estimate) in enumerate(rows.items()):
        middle = 20 + 34 * number
        parts.append(f'<text x="{left - 10:.0f}" y="{middle + 4}" text-anchor="end">{html.escape(name)}</text>')
        parts.append(
            f'<line class="line" x1="{x(estimate.low):.1f}" x2="{x(estimate.high):.1f}" y1="{middle}" y2="{middle}"/>'
            f'<circle class="held" cx="{x(estimate.mean):.1f}" cy="{middle}" r="5"/>'
            f"<title>{html.escape(f'{name}: {estimate}')}</title>"
        )
    return _svg(height, parts, "means with 95 % intervals")


def precision_recall(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines of (recall, precision) by name, the first one whole and the others dashed."""
    height = 260
    lowest = min(precision for points in curves.values() for _, precision in points)
    x, y = _Axis(0.0, 1.0, _LEFT, _WIDTH - _RIGHT), _Axis(min(0.5, lowest), 1.0, height - 28, 12)
    parts = [_horizontal(y, tick) for tick in y.ticks()]
    parts += [f'<text x="{x(t):.1f}" y="{height - 8}" text-anchor="middle">{t:g}</text>' for t in x.ticks()]
    for number, (name, points) in enumerate(curves.items()):
        path = " ".join(f"{x(recall):.1f},{y(precision):.1f}" for recall, precision in points)
        dashes = f' stroke-dasharray="{2 + 4 * number} 4"' if number else ""
        parts.append(f'<polyline class="line" points="{path}"{dashes}><title>{html.escape(name)}</title></polyline>')
        place = height - 44 - 18 * number
        parts.append(f'<line class="line" x1="{_LEFT + 12}" x2="{_LEFT + 44}" y1="{place}" y2="{place}"{dashes}/>')
        parts.append(f'<text x="{_LEFT + 52}" y="{place + 4}">{html.escape(name)}</text>')
    return _svg(height, parts, "precision over recall")


def two_histograms(
    kept: Sequence[float],
    rejected: Sequence[float],
    bins: int = 24,
    label: str = "identity agreement of kept and rejected pairs",
) -> str:
    """Kept values upwards and rejected values downwards, each as shares of their own."""
    height, middle = 240, 112
    low, high = min([*kept, *rejected]), max([*kept, *rejected])
    x = _Axis(low, high, _LEFT, _WIDTH - _RIGHT)
    shares = [_shares(values, low, high, bins) for values in (kept, rejected)]
    top = max(max(share) for share in shares) or 1.0
    width = (_WIDTH - _RIGHT - _LEFT) / bins
    parts = []
    for name, share, sign in (("kept", shares[0], -1), ("rejected", shares[1], 1)):
        for number, value in enumerate(share):
            size = value / top * 92
            y = middle - size if sign < 0 else middle
            parts.append(
                f'<rect class="{name}" x="{_LEFT + number * width + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" '
                f'height="{size:.1f}" fill-opacity="0.75"/>'
            )
    parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{middle}" y2="{middle}"/>')
    parts += [f'<text x="{x(t):.1f}" y="{height - 8}" text-anchor="middle">{t:g}</text>' for t in x.ticks(8)]
    parts += [f'<text x="{_LEFT}" y="14">kept</text>', f'<text x="{_LEFT}" y="{height - 26}">rejected</text>']
    return _svg(height, parts, label)


def _shares(values: Sequence[float], low: float, high: float, bins: int) -> list[float]:
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / ((high - low) or 1.0) * bins))] += 1
    return [count / len(values) for count in counts]


def _horizontal(y: _Axis, value: float) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
    )


def _svg(height: int, parts: Sequence[str], label: str) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">{body}</svg>'
