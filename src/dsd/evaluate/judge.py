"""A judge that looks at pictures: concept preservation and prompt following from 0 to 4, each asked several times.

The protocol of DreamBench++ (Peng et al., ICLR 2025, arXiv 2406.16855, section 4) through any `dsd.chat` model: the
judge is told what to look at, reasons, and gives a whole number from 0 to 4, which is divided by 4. Deviations: the
instructions are in our own words, in one turn, and the reply is a JSON object. A reply that is no such number is asked
for again by the chat layer, then dropped and counted, never replaced. The debiased variant scores a repeated picture
low, because the plain one rewards copying, as the paper of Diffusion Self-Distillation argues (arXiv 2411.18616,
section 4). It must have no part in curation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
from jaxtyping import Float
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from dsd.chat.protocol import ChatFailure, ChatModel, Reply
from dsd.chat.templates import read_template
from dsd.curate.seeds import derive_seed
from dsd.data.records import content_id
from dsd.evaluate.seen import Drawn, Known
from dsd.runs import Ledger

Aspect = Literal["concept_preservation", "concept_preservation_debiased", "prompt_following"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
REPEATS = 3
HIGHEST = 4
_FOLDER = Path(__file__).parent / "templates" / "judge"
_PLACES: dict[Aspect, set[str]] = {
    "concept_preservation": {"first", "second"},
    "concept_preservation_debiased": {"first", "second"},
    "prompt_following": {"caption", "image"},
}


class ScoreReply(BaseModel):
    """Reasons, then the score."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    analysis: Annotated[str, Field(min_length=1, max_length=4000)]
    score: Annotated[int, Field(ge=0, le=HIGHEST)]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the judge said of one picture.

    Attributes:
        aspect: what was asked.
        prompt: number of the picture's prompt.
        repeat: which time it was asked.
        score: 0 to 4; None where no usable reply came.
        reason: the judge's, or why there is no score.
    """

    aspect: Aspect
    prompt: int
    repeat: int
    score: int | None
    reason: str


class Judge:
    """Scores what was drawn of a subject, in every aspect; what was judged is kept, and not asked again.

    Args:
        model: a vision-language model.
        folder: gets a folder a judge and in it one a method, with a JSON file a subject.
        repeats: how often each question is asked, each time with another seed.
    """

    def __init__(self, model: ChatModel, folder: Path, repeats: int = REPEATS) -> None:
        self.model, self.repeats = model, repeats
        self.templates = {aspect: read_template(_FOLDER / f"{aspect}.md", _PLACES[aspect]) for aspect in ASPECTS}
        labels = [template.label for template in self.templates.values()]
        self.folder = folder / content_id("judge", model.name, model.revision, *labels, str(repeats))

    def scores(self, known: Known, drawn: Drawn) -> list[Score]:
        """Of every picture that was asked for."""
        ledger, name = Ledger(self.folder / drawn.key), known.subject.id
        found = ledger.find(name, lambda rows: [Score(**values) for values in rows])
        if found is None:
            found = self._ask(known, drawn)
            ledger.commit(name, [asdict(score) for score in found])
        return found

    def shares(self, aspect: Aspect, known: Known, drawn: Drawn) -> Float[Tensor, " k"]:
        """Of the highest score, the mean over repeats of each picture; not a number where no reply was usable."""
        scores = [s for s in self.scores(known, drawn) if s.aspect == aspect and s.score is not None]
        by_prompt = [[s.score for s in scores if s.prompt == prompt] for prompt in range(len(drawn.asked.images))]
        means = [sum(filter(None, of_one)) / len(of_one) if of_one else float("nan") for of_one in by_prompt]
        return torch.tensor(means) / HIGHEST

    def _ask(self, known: Known, drawn: Drawn) -> list[Score]:
        prompts = range(len(drawn.asked.images))
        keys: list[tuple[Aspect, int, int]] = [
            (a, prompt, repeat) for a in ASPECTS for prompt in prompts for repeat in range(self.repeats)
        ]
        requests = [
            self.templates[aspect].request(
                _shown(aspect, prompt, known, drawn),
                ScoreReply,
                seed=derive_seed(repeat, aspect, known.subject.id, prompt),
            )
            for aspect, prompt, repeat in keys
        ]
        return [
            Score(aspect=aspect, prompt=prompt, repeat=repeat, score=_score(reply), reason=_reason(reply))
            for (aspect, prompt, repeat), reply in zip(keys, self.model.reply(requests), strict=True)
        ]


def _shown(aspect: Aspect, prompt: int, known: Known, drawn: Drawn) -> Mapping[str, str | Image.Image]:
    picture = drawn.asked.images[prompt]
    if aspect == "prompt_following":
        return {"caption": known.subject.prompts[prompt], "image": picture}
    return {"first": known.subject.reference, "second": picture}


def _score(reply: Reply) -> int | None:
    return reply.score if isinstance(reply, ScoreReply) else None


def _reason(reply: Reply) -> str:
    if isinstance(reply, ScoreReply):
        return reply.analysis
    return f"{reply.reason}: {reply.detail}" if isinstance(reply, ChatFailure) else ""
