"""What curation makes, each with an id that its content decides and the ids of what it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

from PIL import Image


def content_id(kind: str, *parts: object) -> str:
    """Sixteen hexadecimal digits decided by the parts alone; pictures count by their pixels."""
    plain = [_pixels_of(part) if isinstance(part, Image.Image) else part for part in parts]
    text = json.dumps([kind, *plain], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def joined(captions: Sequence[str]) -> str:
    """One text of captions, one a frame."""
    return " | ".join(caption.strip() for caption in captions)


def _pixels_of(image: Image.Image) -> str:
    return f"{image.mode} {image.size} {hashlib.sha256(image.tobytes()).hexdigest()}"


@dataclass(frozen=True, kw_only=True)
class Model:
    """Who made a record.

    Attributes:
        name: as it was asked for.
        revision: names the weights (or the server) behind the name.
        template: the version of the prompt, such as ``compact/judge 1``; empty for a teacher.
    """

    name: str
    revision: str
    template: str = ""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A line of inspiration."""

    text: str

    @property
    def id(self) -> str:
        return content_id("caption", self.text)


@dataclass(frozen=True, kw_only=True)
class GridPrompt:
    """One subject and its scenes, row by row, as a chat model wrote them after a caption (an id)."""

    caption: str
    subject: str
    scenes: tuple[str, ...]
    text: str
    writer: Model

    @property
    def id(self) -> str:
        return content_id("grid prompt", self.caption, self.subject, self.scenes, self.text)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A sheet that the teacher drew after a grid prompt (an id)."""

    prompt: str
    image: Image.Image
    seed: int
    teacher: Model

    @cached_property
    def id(self) -> str:
        return content_id("grid", self.prompt, self.image, self.seed)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a model said of a panel; empty words when it could not be had.

    Attributes:
        subject: coarse words.
        details: fine words.
        caption: a sentence to train on.
    """

    subject: str = ""
    details: str = ""
    caption: str = ""


def panel_id(grid: str, number: int) -> str:
    """The id of a panel by its sheet's and its place there."""
    return content_id("panel", grid, number)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a sheet (an id).

    Attributes:
        number: place on the sheet, row by row, from 0.
        description: in the words of the describing model.
    """

    grid: str
    number: int
    image: Image.Image
    description: Description

    @property
    def id(self) -> str:
        return panel_id(self.grid, self.number)


@dataclass(frozen=True, kw_only=True)
class Votes:
    """How often a judge was asked about two panels, by what it said.

    Attributes:
        same: votes for the same individual.
        other: votes against.
        failed: replies that could not be used.
    """

    same: int
    other: int
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's decision on two panels, with its reasons; a direct verdict takes the panels' own descriptions
    and compares nothing.

    Attributes:
        common_subject: what both panels show.
        first_details, second_details: of each.
        comparison: of the details, point by point.
        same: the decision; of several votes, that of the majority.
        score: how sure the judge is that they are the same, in [0, 1]: the probability that it gave "same", over
            several votes the mean, in which a vote without a probability counts what it said; None of a single vote
            without one.
        agreement: share of usable votes that said what the majority said, in [0.5, 1]; None of a single vote.
        votes: what they said; None where they were not counted.
    """

    common_subject: str
    first_details: str
    second_details: str
    comparison: str
    same: bool
    score: float | None = None
    agreement: float | None = None
    votes: Votes | None = None


class Example(Protocol):
    """What training needs of an example: N frames, of which M are given, under a caption."""

    @property
    def id(self) -> str:
        """Decided by the content."""
        ...

    @property
    def grid(self) -> str:
        """What it was made of: examples of one are held out together."""
        ...

    @property
    def references(self) -> Sequence[Image.Image]:
        """The frames that are given."""
        ...

    @property
    def targets(self) -> Sequence[Image.Image]:
        """The frames to draw."""
        ...

    @property
    def caption(self) -> str:
        """Of the frames to draw."""
        ...


class TwoFrames:
    """An `Example` of one reference and one target."""

    reference: Image.Image
    target: Image.Image
    target_caption: str

    @property
    def references(self) -> tuple[Image.Image]:
        """The frame that is given."""
        return (self.reference,)

    @property
    def targets(self) -> tuple[Image.Image]:
        """The frame to draw."""
        return (self.target,)

    @property
    def caption(self) -> str:
        """The target's."""
        return self.target_caption


@dataclass(frozen=True, kw_only=True)
class Pair(TwoFrames):
    """Two panels of one sheet in an order: a reference, and a target to draw after its caption.

    Attributes:
        id: decided by both panels and their order.
        grid, reference_panel, target_panel: ids.
        subject: what both have in common.
        first_details, second_details: the judge's words on the reference and on the target; empty without a verdict.
        comparison: what the judge found same and other; empty without its chain of thought.
        judge: who judged.
        score, agreement, votes: of its `Verdict`; None without one, and in datasets of before they were kept.
    """

    id: str
    grid: str
    reference_panel: str
    target_panel: str
    reference: Image.Image
    target: Image.Image
    reference_caption: str
    target_caption: str
    subject: str
    first_details: str
    second_details: str
    comparison: str
    judge: Model
    score: float | None = None
    agreement: float | None = None
    votes: Votes | None = None


_BOTH = (
    ("reference", "target"),
    ("reference_panel", "target_panel"),
    ("reference_caption", "target_caption"),
    ("first_details", "second_details"),
)
_OTHER = dict(_BOTH) | {two: one for one, two in _BOTH}
"""What takes the place of what when a pair is in the other order."""


def pair_id(reference_panel: str, target_panel: str) -> str:
    """The id of a pair of panels in an order."""
    return content_id("pair", reference_panel, target_panel)


def other_order(pair: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, or columns, that are others when a pair is in the other order."""
    fields = {name: pair[other] for name, other in _OTHER.items()}
    return fields | {"id": pair_id(fields["reference_panel"], fields["target_panel"])}


def turned(pair: Pair) -> Pair:
    """The same two panels in the other order."""
    return replace(pair, **other_order({name: getattr(pair, name) for name in _OTHER}))


@dataclass(frozen=True, kw_only=True)
class PanelFilm:
    """Panels of one sheet of which every two were kept: an `Example` of some that are given, and the others to draw.

    Attributes:
        id: decided by the panels, their order and which of them are given.
        grid, reference_panels, target_panels: ids.
        subject: what the first two have in common.
        judge: who judged; the pairs have its words.
    """

    id: str
    grid: str
    reference_panels: tuple[str, ...]
    target_panels: tuple[str, ...]
    references: tuple[Image.Image, ...]
    targets: tuple[Image.Image, ...]
    reference_captions: tuple[str, ...]
    target_captions: tuple[str, ...]
    subject: str
    judge: Model

    @property
    def caption(self) -> str:
        """The targets', one after the other."""
        return joined(self.target_captions)


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A candidate that was not kept; the pair is given in one order only.

    Attributes:
        outcome: ``rejected`` by a rule or the judge, or ``failed`` for want of an answer.
        reason: a few fixed words, to count by.
        words: what the model said that could not be used; empty when everything was parsed.
    """

    pair: Pair
    outcome: Literal["rejected", "failed"]
    reason: str
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Everything of one caption: a row of the grids.

    Attributes:
        caption: the text that inspired it.
        prompt: None when no grid prompt could be had.
        grid: None when nothing was drawn.
        descriptions: a panel, row by row; none when the sheet was refused.
        reason: why there are no panels, else empty.
    """

    caption: Caption
    prompt: GridPrompt | None
    grid: Grid | None
    descriptions: tuple[Description, ...] = ()
    reason: str = ""
