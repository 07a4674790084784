"""tiny-vlm's threshold: how sure it has to be to call two panels the same."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, GenerationConfig

from dsd.chat.local import LocalChat
from dsd.chat.protocol import Decision
from dsd.curate.judge import questions
from dsd.curate.tasks.identity import IDENTITY
from dsd_world.examined_pairs import Pairs
from dsd_world.judge_quality import candidate_pairs

_BIASED = {True: '", "same": true}', False: '{"same": true}'}
"""The token of tiny-vlm that accepts a pair, with chain of thought and without."""
_LEAST = 1e-7
"""How far a probability in float32 can be told from 0 and 1."""


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


def _odds(probability: float | None) -> float:
    """The log-odds of a decision; even where none are known."""
    inside = min(max(0.5 if probability is None else probability, _LEAST), 1 - _LEAST)
    return log(inside / (1 - inside))


def calibrate(folder: Path, pairs: Pairs) -> dict[str, float]:
    """Sets tiny-vlm's decisions to the threshold that is right most often on these pairs, in both forms.

    The threshold is written into the model's ``generation_config.json``, as a bias on the token that accepts, so every
    program that generates with the folder decides alike, and its probability of "same" is one half at the threshold.
    Calibrating again changes nothing.

    Args:
        folder: of tiny-vlm.
        pairs: held out, so that the judge has not learnt them.

    Returns:
        The biases by form.
    """
    judge, templates = LocalChat(str(folder)), IDENTITY.load_templates("compact")
    asked = candidate_pairs(pairs)
    config = GenerationConfig.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    numbers = {token: tokenizer.convert_tokens_to_ids(token) for token in _BIASED.values()}
    before = {number: bias for (number,), bias in config.sequence_bias or ()}
    biases = {}
    for chain_of_thought, token in _BIASED.items():
        replies = judge.reply(questions(asked, templates, chain_of_thought=chain_of_thought, seed=0))
        odds = [_odds(cast(Decision, reply).probability) if isinstance(reply, Decision) else 0.0 for reply in replies]
        biases[token] = before.get(numbers[token], 0.0) - best_threshold(odds, pairs.same)
    config.sequence_bias = [[[numbers[token]], round(bias, 3)] for token, bias in biases.items()]
    config.save_pretrained(folder)
    return {"bias_chain_of_thought": biases[_BIASED[True]], "bias_direct": biases[_BIASED[False]]}
