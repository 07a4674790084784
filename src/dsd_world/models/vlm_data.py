"""What tiny-vlm learns from: drawn pairs with their true words, and conversations as token rows.

Pairs come in families of four panels, so that the tower sees each panel once for several pairs: two panels of one
individual and two of another one whom, mostly, no caption tells apart from the first.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlavaProcessor

from dsd_world.captions import panel_captions, subject_phrases
from dsd_world.details import (
    FIELDS_OF_PARTS,
    FREQUENCIES,
    NEXT_PARTS,
    NOTHING,
    OTHER,
    PARTS,
    SAME,
    comparison_phrase,
    detail_parts,
    detail_phrase,
    detail_phrases,
    differences,
)
from dsd_world.individuals import (
    ACCESSORIES,
    COLORS,
    KINDS,
    PATTERNS,
    Individuals,
    Scenes,
    Split,
    blend,
    color_word,
    drifted,
    sample_individuals,
    sample_scenes,
    strangers,
    uniforms,
)
from dsd_world.models.vlm_model import PICTURE, SCAFFOLDING

FAMILY = 4
SAME_PAIRS, OTHER_PAIRS = ((0, 1), (3, 2)), ((0, 2), (3, 1))
_OTHER_STREAM, _TOLERANCE_STREAM, _MIXED_STREAM = 21, 22, 24
_STRANGER_SHARE, _DRIFTED_SHARE, _ONE_WORD_SHARE, _MIXED_SHARE = 0.3, 0.25, 0.1, 0.25
_TOLERANCE = 0.06
IGNORED = -100


def _one_word_changed(who: Individuals, u: Float[Tensor, "n 4"]) -> Individuals:
    """The same individuals but for the colour, the pattern or (characters) the accessory."""
    turn = (1 + (u[:, 1] * (len(COLORS) - 1)).long()) / len(COLORS)
    pattern = (who.pattern + 1 + (u[:, 1] * (len(PATTERNS) - 1)).long()) % len(PATTERNS)
    accessory = (who.accessory + 1 + (u[:, 1] * (len(ACCESSORIES) - 1)).long()) % len(ACCESSORIES)
    what = torch.where(who.is_object, (u[:, 0] * 2).long(), (u[:, 0] * 3).long())
    return dataclasses.replace(
        who,
        hue=torch.where(what == 0, (who.hue + turn) % 1, who.hue),
        pattern=torch.where(what == 1, pattern, who.pattern),
        accessory=torch.where(what == 2, accessory, who.accessory),
    )


def _mixed(one: Individuals, other: Individuals, u: Float[Tensor, "n 8"]) -> Individuals:
    """Individuals whose parts come from the one or the other by coin, at least one from the other."""
    swapped = u[:, : len(PARTS)] < 0.5
    swapped |= torch.arange(len(PARTS), device=u.device) == (u[:, -1:] * len(PARTS)).long()
    changes = {
        name: torch.where(swapped[:, part], getattr(other, name), getattr(one, name))
        for part, names in enumerate(FIELDS_OF_PARTS)
        for name in names
    }
    return dataclasses.replace(one, **changes)


def within_tolerance(who: Individuals, u: Float[Tensor, "n 10"]) -> Individuals:
    """The same individuals as an imperfect hand draws them again: measures moved by a few per cent of their range."""
    shift = _TOLERANCE * (2 * u - 1)
    hue = (who.hue + 0.4 * shift[:, 0]) % 1
    return dataclasses.replace(
        who,
        hue=torch.where(color_word(hue) == who.color, hue, who.hue),
        second_hue=(who.second_hue + 0.4 * shift[:, 1]) % 1,
        eye_hue=(who.eye_hue + 0.4 * shift[:, 2]) % 1,
        accessory_hue=(who.accessory_hue + 0.4 * shift[:, 3]) % 1,
        width=who.width + 0.3 * shift[:, 4],
        ears=who.ears + 0.6 * shift[:, 5],
        eye_size=who.eye_size + 0.45 * shift[:, 6],
        frequency=who.frequency + 2.5 * shift[:, 7],
        second_saturation=who.second_saturation + 0.55 * shift[:, 8],
        second_value=(who.second_value + 0.4 * shift[:, 9]).clamp(max=1),
    )


def families(split: Split, index: Int[Tensor, " n"]) -> tuple[Individuals, Scenes]:
    """The panels of families number ``index``: rows ``0, 1`` of each four show one individual, ``2, 3`` another one.

    In half of the families the second panel of an individual is drawn `within_tolerance`. The other one is a
    stranger with the same words, a drifted copy, a copy with one word changed, a mixture with the stranger, or
    anybody.

    Returns:
        Individuals and scenes of ``4 n`` panels.
    """
    number = {"training": 1, "validation": 2, "evaluation": 3}[split]
    u = uniforms(number, _OTHER_STREAM, index, 5)
    one = sample_individuals(split, index)
    shares = torch.tensor((_STRANGER_SHARE, _DRIFTED_SHARE, _ONE_WORD_SHARE, _MIXED_SHARE), device=u.device)
    kinds = torch.bucketize(u[:, 0].contiguous(), shares.cumsum(0))
    stranger = strangers(one, split, index)
    mixed = _mixed(one, stranger, uniforms(number, _MIXED_STREAM, index, len(PARTS) + 1))
    choices = (stranger, drifted(one, split, index), _one_word_changed(one, u[:, 1:]), mixed)
    other = blend([(kinds == i, c) for i, c in enumerate(choices)], sample_individuals(split, index + (1 << 40)))
    both = Individuals(
        **{
            f.name: torch.stack([getattr(one, f.name), getattr(other, f.name)], 1).repeat_interleave(2, 1).flatten()
            for f in dataclasses.fields(Individuals)
        }
    )
    panels = (index[:, None] * FAMILY + torch.arange(FAMILY, device=index.device)).flatten()
    moved = (panels % 2 == 1) & (u[:, 4].repeat_interleave(FAMILY) < 0.5)
    shaken = within_tolerance(both, uniforms(number, _TOLERANCE_STREAM, panels, 10))
    return blend([(moved, shaken)], both), sample_scenes(split, panels)


def description(individuals: Individuals, scenes: Scenes) -> list[str]:
    """The true reply to "describe" for each panel."""
    columns = zip(
        subject_phrases(individuals), detail_phrases(individuals), panel_captions(individuals, scenes), strict=True
    )
    return [json.dumps({"subject": s, "details": d, "caption": c}) for s, d, c in columns]


def _common_subject(first: Individuals, second: Individuals) -> list[str]:
    """All the words of both when they are the same, else the kind, else ``nothing``."""
    rows = zip(subject_phrases(first), subject_phrases(second), first.kind.tolist(), second.kind.tolist(), strict=True)
    return [a if a == b else KINDS[k] if k == other else "nothing" for a, b, k, other in rows]


def misread(who: Individuals, u: Float[Tensor, "n 10"]) -> Individuals:
    """The individuals as a describer with imperfect eyes sees them: every measure off by some of its range."""
    noise = (2 * u - 1) * (u.roll(1, 1) + 0.3)  # mostly small, sometimes large
    return dataclasses.replace(
        who,
        hue=(who.hue + 0.07 * noise[:, 0]) % 1,
        second_hue=(who.second_hue + 0.1 * noise[:, 1]) % 1,
        eye_hue=(who.eye_hue + 0.2 * noise[:, 2]) % 1,
        accessory_hue=(who.accessory_hue + 0.1 * noise[:, 3]) % 1,
        width=who.width + 0.12 * noise[:, 4],
        ears=who.ears + 0.25 * noise[:, 5],
        eye_size=who.eye_size + 0.25 * noise[:, 6],
        frequency=who.frequency + noise[:, 7],
        angle=(who.angle + 0.5 * noise[:, 8]) % torch.pi,
    )


def verdicts(
    first: Individuals, second: Individuals, same: list[bool], seen: tuple[Individuals, Individuals] | None = None
) -> list[str]:
    """The reply to "judge" for each pair: details, then what is same and other, then the decision.

    Args:
        first, second: the true individuals.
        same: the true decisions.
        seen: whom the words describe instead of the true ones.
    """
    parts = [detail_parts(who) for who in seen or (first, second)]
    others = differences(first, second).tolist()
    columns = zip(_common_subject(first, second), *parts, others, same, strict=True)
    return [
        json.dumps(
            {
                "common_subject": subject,
                "first_details": detail_phrase(a),
                "second_details": detail_phrase(b),
                "comparison": comparison_phrase(a, b, other),
                "same": decision,
            }
        )
        for subject, a, b, other, decision in columns
    ]


def direct_verdicts(same: list[bool]) -> list[str]:
    """The true reply to "judge directly" for each pair."""
    return [json.dumps({"same": s}) for s in same]


@dataclass(frozen=True, kw_only=True)
class Conversations:
    """Token rows, padded on the right.

    Attributes:
        ids: ``(n, length)``.
        labels: ``(n, length)``, the id to predict *from* each place, `IGNORED` outside the reply.
        images: ``(n, k)`` numbers of the panels that the placeholders stand for.
    """

    ids: Int[Tensor, "n length"]
    labels: Int[Tensor, "n length"]
    images: Int[Tensor, "n k"]


class Writer:
    """Renders conversations to `Conversations` with a processor's own chat template."""

    def __init__(self, processor: LlavaProcessor) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.verdict_ids = self._ids([s for s in SCAFFOLDING if '"same": ' in s])
        self.scaffolding_ids = self._ids([*SCAFFOLDING, *NEXT_PARTS, self.tokenizer.eos_token])
        self.first_details_id, self.second_details_id, self.comparison_id = self._ids(
            ['", "first_details": "in', '", "second_details": "in', '", "comparison": "colour']
        ).tolist()
        self.point_ids = self._ids([SAME, OTHER])
        self.opposite = torch.arange(len(self.tokenizer))
        self.opposite[self.point_ids] = self.point_ids.flip(0)
        self._nothing_id, self._and_id = self._encoded(NOTHING)[0], self._encoded(" and")[0]
        self._frequency_ids = {self._encoded(f", {word}")[0] for word in FREQUENCIES}
        self._placeholders = processor.image_token * ((64 // processor.patch_size) ** 2)  # pyright: ignore[reportOperatorIssue]

    def _ids(self, tokens: Sequence[str]) -> Tensor:
        return torch.tensor([self.tokenizer.convert_tokens_to_ids(t) for t in tokens])

    def _encoded(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def said_before(self, labels: Int[Tensor, " length"]) -> dict[int, int]:
        """For each word of details that a verdict's comparison says again: its place, and the place it comes from."""
        row = labels.tolist()
        first, second, comparison = (
            row.index(i) for i in (self.first_details_id, self.second_details_id, self.comparison_id)
        )
        words = [
            iter([place for place in range(start + 1, end) if row[place] != self._and_id])
            for start, end in ((first, second), (second, comparison))
        ]
        found, place = {}, comparison + 1
        for part in PARTS:
            for source in words:
                if row[place] == self._nothing_id:
                    place += 1
                    continue
                for _ in range(self._words(part, row[place])):
                    found[place] = next(source)
                    place += 1
            place += 2  # same or other, and the name of the next part
        return found

    def _words(self, part: str, token: int) -> int:
        """How many tokens the words for a part take, of which this is the first."""
        return 2 if part in ("eyes", "accessory") or token in self._frequency_ids else 1

    def scrambled(self, ids: Int[Tensor, "n length"], generator: torch.Generator) -> Int[Tensor, "n length"]:
        """The rows with every ``: same`` and ``: other`` of a comparison thrown anew, so none tells of the next."""
        return torch.where(torch.rand(ids.shape, generator=generator) < 0.5, self.opposite[ids], ids)

    def prompt(self, messages: list[dict]) -> str:
        """The text that the model continues, placeholders already expanded."""
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text.replace(PICTURE + self.processor.image_token, PICTURE + self._placeholders)

    def write(self, prompts: Sequence[str], replies: Sequence[str], images: Tensor) -> Conversations:
        """Rows of prompt, reply and end."""
        questions = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        answers = self.tokenizer([r + self.tokenizer.eos_token for r in replies], add_special_tokens=False)["input_ids"]
        length = max(len(q) + len(a) for q, a in zip(questions, answers, strict=True)) - 1
        ids = torch.full((len(questions), length + 1), self.tokenizer.pad_token_id)
        labels = torch.full((len(questions), length), IGNORED)
        for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            ids[row, : len(question) + len(answer)] = torch.tensor(question + answer)
            labels[row, len(question) - 1 : len(question) + len(answer) - 1] = torch.tensor(answer)
        return Conversations(ids=ids[:, :length], labels=labels, images=images)


def without_second_details(talk: Conversations, rows: Sequence[bool], writer: Writer) -> Conversations:
    """The same rows, where some do not learn the second details.

    Of a pair that is the same, the second details are best guessed by repeating the first; a judge that learns this
    sees no difference any more.
    """
    begun = (talk.labels == writer.second_details_id).cumsum(1) > 0
    ended = (talk.labels == writer.comparison_id).cumsum(1) > 0
    skipped = begun & ~ended & torch.tensor(list(rows))[:, None]
    return Conversations(ids=talk.ids, labels=talk.labels.masked_fill(skipped, IGNORED), images=talk.images)


def from_token_on(talk: Conversations, token: int) -> Conversations:
    """The same rows, learning only what follows a token of the reply."""
    reached = (talk.labels == token).cumsum(1) > 0
    return Conversations(ids=talk.ids, labels=torch.where(reached, talk.labels, IGNORED), images=talk.images)
