"""The method on one screen: sheets of panels, and frames side by side on one canvas.

A *grid* is what the teacher draws: panels of one subject on a sheet. A *canvas* is what the student denoises: given
frames (references) and target frames side by side, exchanging information through the transformer's own attention
(Diffusion Self-Distillation, arXiv 2411.18616, section 3.3). A canvas has any number of frames; two is the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dsd.sampling import Flavour

Span = tuple[int, int]

GUTTER_REACH = 0.12  # of a panel, at either side of the expected cut, in which a gutter is looked for
CUT_REACH = 0.03  # of a panel, how far from its place the edge between two panels may lie
GUTTER_VARIATION = 6.0  # mean absolute deviation along a line of pixels, of 255, below which the line is of one colour
EDGE_RATIO = 1.5  # how much stronger than the median line-to-line change the change at a cut must be
BLANK_VARIATION = 2.0  # standard deviation, of 255, below which a panel shows nothing


class MalformedSheet(ValueError):
    """A picture that does not look like a grid of panels; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Grid:
    """The layout of a sheet: so many rows of so many panels, numbered row by row."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1 or self.panels < 2:
            raise ValueError(f"a grid needs at least two panels, got {self.rows} rows x {self.columns} columns")

    @property
    def panels(self) -> int:
        """How many panels a sheet holds."""
        return self.rows * self.columns

    def split(self, image: Image.Image, panel_size: tuple[int, int] | None = None) -> list[Image.Image]:
        """Cuts a sheet into its panels, row by row, without the gutters between them.

        A gutter is a band of one colour that crosses the whole sheet near an expected cut; a margin of the same colour
        around the sheet goes too. Without gutters panels are cut where they must meet, pixel for pixel.

        Args:
            image: The sheet, RGB.
            panel_size: (height, width) in pixels to resize panels to; by default they keep their pixels, cropped to
                the size of the smallest.

        Raises:
            MalformedSheet: Too small, a blank panel, or no edge where panels should meet.
        """
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
        if pixels.shape[0] < 8 * self.rows or pixels.shape[1] < 8 * self.columns:
            raise MalformedSheet(f"a sheet of {pixels.shape[0]}x{pixels.shape[1]} pixels is too small for {self}")
        columns = pixels.swapaxes(0, 1)
        across, down = _cuts(columns, self.columns, "column"), _cuts(pixels, self.rows, "row")
        colour = _gutter_colour((columns, across), (pixels, down))
        across, down = _spans(columns, across, colour), _spans(pixels, down, colour)
        height, width = min(b - a for a, b in down), min(b - a for a, b in across)
        panels = []
        for number in range(self.panels):
            top, left = down[number // self.columns], across[number % self.columns]
            y, x = top[0] + (top[1] - top[0] - height) // 2, left[0] + (left[1] - left[0] - width) // 2
            if pixels[y : y + height, x : x + width].std(axis=(0, 1)).max() < BLANK_VARIATION:
                raise MalformedSheet(f"panel {number + 1} of {self.panels} is blank")
            panel = image.convert("RGB").crop((x, y, x + width, y + height))
            if panel_size is not None and (height, width) != panel_size:
                panel = panel.resize((panel_size[1], panel_size[0]), Image.Resampling.LANCZOS)
            panels.append(panel)
        return panels

    def join(self, panels: Sequence[Image.Image]) -> Image.Image:
        """Lays panels of one size out as a sheet without gutters; the inverse of `split`."""
        if len(panels) != self.panels or len({panel.size for panel in panels}) != 1:
            raise ValueError(f"{self} joins {self.panels} panels of one size, got {[panel.size for panel in panels]}")
        width, height = panels[0].size
        sheet = Image.new("RGB", (self.columns * width, self.rows * height))
        for number, panel in enumerate(panels):
            sheet.paste(panel, (number % self.columns * width, number // self.columns * height))
        return sheet


@dataclass(frozen=True)
class Film:
    """Frames that are denoised together: which of them are given, and how much each counts in the loss.

    Tensors of a film have an axis of frames, ``(b, f, c, h, w)``; how a family lays them out is its own affair.

    Attributes:
        given: For each frame, whether it is a reference (True) or to be drawn (False); the last one is to be drawn.
        weights: For each frame, its weight in the loss; only ratios matter.
        flavour: How the model is shown what is given; only frames that are denoised count in the loss.
    """

    given: tuple[bool, ...]
    weights: tuple[float, ...]
    flavour: Flavour = "canvas"

    def __post_init__(self) -> None:
        if not self.given or len(self.given) != len(self.weights) or self.given[-1]:
            raise ValueError(f"a film needs one weight a frame, and its last frame is drawn, got {self}")
        if not (min(self.weights) >= 0 and 0 < sum(self.weights) < inf):  # so that it holds of NaN too
            raise ValueError(f"frame weights are positive numbers, got {self.weights}")
        if self.flavour == "cached" and (not any(self.given) or any(self._of_given(self.weights))):
            raise ValueError(f"a cached film has a given frame, and given frames weigh nothing, got {self}")

    @classmethod
    def of(cls, references: int, targets: int, reference_weight: float = 1.0, flavour: Flavour = "canvas") -> Film:
        """References, and then the frames to draw; cached references have no weight, whatever is said."""
        given = (True,) * references + (False,) * targets
        weight = 0.0 if flavour == "cached" else reference_weight
        return cls(given=given, weights=(weight,) * references + (1.0,) * targets, flavour=flavour)

    @classmethod
    def two_frame(cls, reference_weight: float = 1.0) -> Film:
        """[reference | target], the film of the paper."""
        return cls.of(1, 1, reference_weight)

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return len(self.given)

    @property
    def is_cached(self) -> bool:
        """Whether given frames are clean tokens that are not denoised."""
        return self.flavour == "cached"

    @property
    def denoised_given(self) -> tuple[bool, ...]:
        """For each frame that is denoised, whether it is given: all frames of a canvas, cached those to draw."""
        return tuple(given for given in self.given if not (given and self.is_cached))

    def denoised(self, frames: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b d c h w"]:
        """The frames that are denoised, in their order."""
        return self.targets(frames) if self.is_cached else frames

    def drawn(self, denoised: Float[Tensor, "b d c h w"]) -> Float[Tensor, "b t c h w"]:
        """Of the frames that are denoised, those that were not given."""
        return denoised if self.is_cached else self.targets(denoised)

    def targets(self, frames: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b t c h w"]:
        """The frames that were not given, in their order."""
        return frames[:, [number for number, given in enumerate(self.given) if not given]]

    def condition(
        self, references: Float[Tensor, "b r c h w"], empty: Float[Tensor, "#b c h w"]
    ) -> Float[Tensor, "b f c h w"]:
        """What the model is told: the given frames, and on a canvas `empty` in place of each frame to draw.

        Args:
            references: The given frames in their order.
            empty: The latents of a black picture of one frame's size.
        """
        if references.shape[1] != sum(self.given):
            raise ValueError(f"give the {sum(self.given)} given frames, got {references.shape[1]}")
        if self.is_cached:
            return references
        rest, count = iter(references.unbind(1)), len(references)
        return torch.stack([next(rest) if given else empty.expand(count, -1, -1, -1) for given in self.given], dim=1)

    def references(self, frames: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b r c h w"]:
        """The frames that are given, in their order."""
        return frames[:, [number for number, given in enumerate(self.given) if given]]

    def noise(
        self,
        like: Float[Tensor, "#b c h w"],
        generators: Sequence[torch.Generator] | torch.Generator | None,
        count: int,
    ) -> Float[Tensor, "b d c h w"]:
        """Standard normal noise of the frames of ``count`` films that are denoised.

        It is drawn as one picture of all frames side by side, as the stock pipelines of such a canvas draw theirs.

        Args:
            like: One frame.
            generators: One for the whole batch, or one a film; None for torch's own.
            count: Of films.
        """
        _, channels, height, width = like.shape
        frames = len(self.denoised_given)
        shape = (channels, height, frames * width)
        if isinstance(generators, Sequence):
            canvas = torch.cat([torch.randn(1, *shape, generator=one, device=one.device) for one in generators])
        else:
            device = None if generators is None else generators.device
            canvas = torch.randn(count, *shape, generator=generators, device=device)
        return rearrange(canvas, "b c h (f w) -> b f c h w", f=frames).to(like)

    def loss_weights(self, device: torch.device | str = "cpu") -> Float[Tensor, "1 d 1 1 1"]:
        """The weight of each frame that is denoised, with mean 1."""
        of_drawn = [weight for weight, given in zip(self.weights, self.given, strict=True) if not given]
        weights = torch.tensor(of_drawn if self.is_cached else self.weights, device=device)
        return (weights / weights.mean()).view(1, -1, 1, 1, 1)

    def _of_given(self, values: Sequence[float]) -> list[float]:
        return [value for value, given in zip(values, self.given, strict=True) if given]


def _cuts(lines: np.ndarray, count: int, kind: str) -> list[Span]:
    """The gutters (or, without one, the empty spans) between panels along the first axis of ``(length, across, 3)``."""
    panel = len(lines) / count
    places = [round(k * panel) for k in range(1, count)]
    if not places:
        return []
    uniform = _uniform(lines)
    change = np.abs(np.diff(lines, axis=0)).mean(axis=(1, 2))  # change[k] lies between the lines k and k + 1
    reach = max(2, round(GUTTER_REACH * panel))
    gutters = [_gutter(uniform, change, lines, place, reach) for place in places]
    return [
        gutter or _cut(change, place, max(2, round(CUT_REACH * panel)), kind)
        for gutter, place in zip(gutters, places, strict=True)
    ]


def _gutter(uniform: np.ndarray, change: np.ndarray, lines: np.ndarray, cut: int, reach: int) -> Span | None:
    """The band of one colour over a cut, with an edge at either side; other bands are the panels' own background."""
    if not (uniform[cut - 1] and uniform[cut] and _same_colour(lines, cut - 1, cut)):
        return None
    first, last = cut - 1, cut
    while first > cut - reach and uniform[first - 1] and _same_colour(lines, cut, first - 1):
        first -= 1
    while last < cut + reach - 1 and uniform[last + 1] and _same_colour(lines, cut, last + 1):
        last += 1
    has_edges = min(change[first - 1], change[last]) > 2 * EDGE_RATIO * float(np.median(change))
    return (first, last + 1) if has_edges else None


def _cut(change: np.ndarray, cut: int, reach: int, kind: str) -> Span:
    """Where panels meet without a gutter: the expected place, or the strongest edge close to it."""
    needed = EDGE_RATIO * float(np.median(change))
    if change[cut - 1] > needed:
        return cut, cut
    window = change[cut - 1 - reach : cut + reach]
    strongest = cut - reach + int(window.argmax())
    if window.max() <= 2 * needed:
        raise MalformedSheet(f"no edge between panels near {kind} {cut}")
    return strongest, strongest


def _gutter_colour(*axes: tuple[np.ndarray, list[Span]]) -> np.ndarray | None:
    for lines, cuts in axes:
        for first, end in cuts:
            if end > first:
                return lines[first:end].mean(axis=(0, 1))
    return None


def _spans(lines: np.ndarray, cuts: list[Span], colour: np.ndarray | None) -> list[Span]:
    """Where the panels lie between the cuts, inside a margin of the gutters' colour."""
    begin, end = 0, len(lines)
    if colour is not None:
        margin = _uniform(lines) & (np.abs(lines.mean(axis=1) - colour).max(axis=1) < 2 * GUTTER_VARIATION)
        reach = round(GUTTER_REACH * len(lines) / (len(cuts) + 1))
        while begin < reach and margin[begin]:
            begin += 1
        while len(lines) - end < reach and margin[end - 1]:
            end -= 1
    return [(a[1], b[0]) for a, b in zip([(0, begin), *cuts], [*cuts, (end, len(lines))], strict=True)]


def _uniform(lines: np.ndarray) -> np.ndarray:
    return np.abs(lines - np.median(lines, axis=1, keepdims=True)).mean(axis=(1, 2)) < GUTTER_VARIATION


def _same_colour(lines: np.ndarray, one: int, other: int) -> bool:
    return bool(np.abs(lines[one].mean(axis=0) - lines[other].mean(axis=0)).max() < 2 * GUTTER_VARIATION)
