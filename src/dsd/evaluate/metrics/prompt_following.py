"""Prompt following: is the prompt the sentence that fits best, among others of the same subject in other scenes."""

from __future__ import annotations

import torch
from torch import Tensor

from dsd.encoders import PictureTextEncoder
from dsd.evaluate.metrics.protocol import Bench, Measure, Metric, needs, there
from dsd.evaluate.seen import Drawn, Known
from dsd.scales import follows_prompt


def _on(bench: Bench) -> Measure:
    encoder: PictureTextEncoder = there(bench.agreement)
    sentences: dict[str, list[Tensor]] = {}
    for known in bench.known:
        options = zip(known.subject.prompts, known.subject.distractors, strict=True)
        sentences[known.subject.id] = [encoder.sentences([prompt, *others]) for prompt, others in options]

    def measure(known: Known, drawn: Drawn) -> Tensor:
        seen = drawn.asked.agreed(encoder)
        follows = [
            follows_prompt(picture[None], options[None])
            for picture, options in zip(seen, sentences[known.subject.id], strict=True)
        ]
        return torch.cat(follows).float()

    return measure


METRIC = Metric(
    title="prompt following",
    meaning="share of pictures whose own prompt fits best among distractors",
    needs=needs("agreement", "distractors"),
    on=_on,
    splits=frozenset({"groups", "parts"}),
)
