"""The judge against the world's truth, on drawn pairs at equal caption words, half same and half different.

    python benchmarks/judge_accuracy.py --pairs 2000

Questions go the way of curation: its templates, its chat layer, its reply schemas. Both forms judge the same pairs.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Literal

import torch
import tyro

from dsd.chat.protocol import ChatFailure
from dsd.chat.registry import load_chat
from dsd.curate.judge import Candidate, judge_pairs
from dsd.curate.panels import Described
from dsd.curate.templates import Templates
from dsd.data.records import Description, Panel, Verdict
from dsd.evaluate.bootstrap import bootstrap
from dsd.images import to_pil
from dsd.world.recipes.vlm_data import equal_word_pairs


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        judge: a chat model's name.
        templates: of the questions.
        pairs: how many, half of them the same individual.
        other: whom the different pairs show: a ``stranger`` with the same caption words, or a ``drifted`` copy.
        first: number of the first pair of the evaluation split.
    """

    judge: str = "embedded:tiny-vlm"
    templates: str = "compact"
    pairs: int = 2000
    other: Literal["stranger", "drifted"] = "stranger"
    first: int = 0


def main(settings: Settings) -> None:
    """Prints one line of JSON a form of judging."""
    judge, templates = load_chat(settings.judge), Templates.load(settings.templates)
    drawn = equal_word_pairs(
        "evaluation", torch.arange(settings.first, settings.first + settings.pairs), settings.other
    )
    pairs = [
        Candidate(
            *(Described(Panel(grid=str(i), number=n, image=p, description=Description())) for n, p in enumerate(two))
        )
        for i, two in enumerate(zip(to_pil(drawn.first), to_pil(drawn.second), strict=True))
    ]
    for chain_of_thought in (True, False):
        started = time.perf_counter()
        verdicts = judge_pairs(pairs, judge, templates, chain_of_thought=chain_of_thought, seed=0)
        print(json.dumps(_figures(verdicts, drawn.same, chain_of_thought, time.perf_counter() - started)), flush=True)


def _figures(verdicts: list[Verdict | ChatFailure], same: list[bool], chain_of_thought: bool, seconds: float) -> dict:
    """Accuracy counts a failed reply as wrong; the rates are of the replies."""
    right = [isinstance(v, Verdict) and v.same == truth for v, truth in zip(verdicts, same, strict=True)]
    said = [(v.same, truth) for v, truth in zip(verdicts, same, strict=True) if isinstance(v, Verdict)]
    kept = [truth for decision, truth in said if decision]
    return {
        "chain_of_thought": chain_of_thought,
        "accuracy": bootstrap([float(r) for r in right]).as_dict(),
        "pairs": len(verdicts),
        "failed": len(verdicts) - len(said),
        "precision": round(sum(kept) / max(len(kept), 1), 4),
        "recall": round(sum(kept) / max(sum(truth for _, truth in said), 1), 4),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main(tyro.cli(Settings))
