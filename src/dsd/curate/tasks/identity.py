"""The paper's task: the same individual in another scene (arXiv 2411.18616, section 3).

A sheet shows one subject in four scenes. Every two of its panels are judged once, and two of the same individual are a
pair in both orders; nearly the same picture twice is no pair, since it would teach copying.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path

from dsd.chat.protocol import ChatModel
from dsd.chat.templates import Templates, scene_places
from dsd.curate import judge as judging
from dsd.curate import pairs as pairing
from dsd.curate.panels import Described
from dsd.curate.schemas import GridPromptReply
from dsd.curate.tasks.task import JudgeSettings, Outcome, Task
from dsd.frames import Grid

LAYOUT = Grid(2, 2)


def judge_pairs(
    sheets: Sequence[Sequence[Described]], judge: ChatModel, templates: Templates, settings: JudgeSettings, seed: int
) -> list[Outcome]:
    """Rejects near-copies and panels without a caption, and has the other pairs judged; see `Judge`."""
    who = judging.judge_of(judge, templates, settings.chain_of_thought, settings.votes)
    unjudged: list[Outcome] = []
    waiting: list[judging.Candidate] = []
    for candidate in (candidate for panels in sheets for candidate in judging.candidates(panels)):
        pictures = candidate.first.panel.image, candidate.second.panel.image
        if judging.near_copy(*pictures, settings.near_copy_threshold):
            unjudged.append(pairing.copied(candidate, who))
        elif failure := pairing.undescribed(candidate):
            unjudged.append(pairing.without_description(candidate, failure, who))
        else:
            waiting.append(candidate)
    verdicts = judging.judge_pairs(
        waiting, judge, templates, chain_of_thought=settings.chain_of_thought, seed=seed, votes=settings.votes
    )
    if settings.min_score:
        judging.require_scores(verdicts, judge.name, settings.min_score)
    return unjudged + [
        pairing.settle(pair, verdict, who, settings.min_score) for pair, verdict in zip(waiting, verdicts, strict=True)
    ]


IDENTITY = Task(
    layout=LAYOUT,
    writer=GridPromptReply,
    templates=Path(__file__).parents[1] / "templates",
    places={
        "grid_prompt": {"caption"},
        "describe": {"image"},
        "judge": {"first", "second"},
        "judge_direct": {"first", "second"},
        "sheet": {"subject", *scene_places(LAYOUT.panels)},
    },
    candidates=comb(LAYOUT.panels, 2),
    judge=judge_pairs,
    most_frames=LAYOUT.panels,
    metrics=(
        "identity",
        "prompt_following",
        "diversity",
        "vendi",
        "copy",
        "clip_i",
        "clip_t",
        "identity/faces",
    ),
)
