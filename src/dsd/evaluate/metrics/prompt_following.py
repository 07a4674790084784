"""Prompt following: is the prompt the sentence that fits best, among others of the same subject in other scenes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dsd.evaluate.encoders import PictureTextEncoder
from dsd.evaluate.metrics.protocol import Bench, Measure, Metric, needs, there
from dsd.evaluate.seen import Drawn, Known


def follows_prompt(pictures: Float[Tensor, "n d"], sentences: Float[Tensor, "n k d"]) -> Bool[Tensor, " n"]:
    """Whether each picture's own prompt scores highest.

    Args:
        pictures: normalised features.
        sentences: normalised features of the prompt (first) and its distractors.
    """
    scores = torch.einsum("nd,nkd->nk", pictures, sentences)
    return (scores[:, :1] > scores[:, 1:]).all(1)


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
