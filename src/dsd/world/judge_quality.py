"""How far a judge can be trusted: its verdicts and its confidence on drawn pairs, where the world knows the truth.

Confidence is the log-odds of the verdict after the judge's own reasons. It gives the curve of true and false
acceptances, and the point on it at which tiny-vlm is set to decide.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer, GenerationConfig

from dsd.chat.local import LocalChat
from dsd.curate.judge import Candidate, questions
from dsd.curate.panels import Described
from dsd.curate.schemas import DirectVerdict, PairVerdict
from dsd.curate.templates import Templates
from dsd.data.records import Description, Panel
from dsd.images import to_pil
from dsd.world.recipes.vlm_data import Pairs

_BIASED = {True: '", "same": true}', False: '{"same": true}'}
"""The token of tiny-vlm that accepts a pair, with chain of thought and without."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a judge made of pairs.

    Attributes:
        same: its verdicts; None where it gave no usable reply.
        confidence: log-odds of "same", 0 where there is no reply.
    """

    same: list[bool | None]
    confidence: list[float]


def candidate_pairs(pairs: Pairs) -> list[Candidate]:
    """Drawn pairs as curation asks about them."""
    return [pair_of(str(i), *two) for i, two in enumerate(zip(to_pil(pairs.first), to_pil(pairs.second), strict=True))]


def pair_of(name: str, first: Image.Image, second: Image.Image) -> Candidate:
    """Two pictures as curation asks about them; ``name`` decides the question's seed."""
    panels = [
        Panel(grid=name, number=n, image=image, description=Description()) for n, image in enumerate((first, second))
    ]
    return Candidate(*(Described(panel) for panel in panels))


def judged(judge: LocalChat, templates: Templates, pairs: Sequence[Candidate], *, chain_of_thought: bool) -> Judged:
    """Asks about every pair and weighs both verdicts after the judge's own reasons."""
    asked = questions(pairs, templates, chain_of_thought=chain_of_thought, seed=0)
    said = [r if isinstance(r, PairVerdict | DirectVerdict) else None for r in judge.reply(asked)]
    usable = [i for i, reply in enumerate(said) if reply is not None]
    weights = [
        judge.log_likelihoods(
            [asked[i] for i in usable],
            [json.dumps({**reply.model_dump(), "same": verdict}) for i in usable if (reply := said[i]) is not None],
        )
        for verdict in (True, False)
    ]
    odds = {i: accept - refuse for i, accept, refuse in zip(usable, *weights, strict=True)}
    return Judged(
        same=[None if reply is None else reply.same for reply in said],
        confidence=[odds.get(i, 0.0) for i in range(len(said))],
    )


def best_threshold(confidence: Sequence[float], same: Sequence[bool]) -> float:
    """The confidence from which on accepting is right most often; of equal ones the one in the middle."""
    order = torch.tensor(confidence).argsort()
    scores, truth = torch.tensor(confidence)[order], torch.tensor(same)[order].float()
    refused_right = torch.cat([torch.zeros(1), (1 - truth).cumsum(0)])
    accepted_right = truth.sum() - torch.cat([torch.zeros(1), truth.cumsum(0)])
    right = refused_right + accepted_right
    best = (right == right.max()).nonzero().flatten()
    cut = int(best[len(best) // 2])
    edges = torch.cat([scores[:1] - 1, scores, scores[-1:] + 1])
    return float((edges[cut] + edges[cut + 1]) / 2)


def calibrate(folder: Path, pairs: Pairs) -> dict[str, float]:
    """Sets tiny-vlm's decisions to the threshold that is right most often on these pairs, in both forms.

    The threshold is written into the model's ``generation_config.json``, as a bias on the token that accepts, so every
    program that generates with the folder decides alike. Calibrating again changes nothing.

    Args:
        folder: of tiny-vlm.
        pairs: held out, so that the judge has not learnt them.

    Returns:
        The biases by form.
    """
    judge, templates = LocalChat(str(folder)), Templates.load("compact")
    asked = candidate_pairs(pairs)
    biases = {}
    for chain_of_thought, token in _BIASED.items():
        found = judged(judge, templates, asked, chain_of_thought=chain_of_thought)
        biases[token] = -best_threshold(found.confidence, pairs.same)
    config = GenerationConfig.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    config.sequence_bias = [
        [[tokenizer.convert_tokens_to_ids(token)], round(bias, 3)] for token, bias in biases.items()
    ]
    config.save_pretrained(folder)
    return {"bias_chain_of_thought": biases[_BIASED[True]], "bias_direct": biases[_BIASED[False]]}
