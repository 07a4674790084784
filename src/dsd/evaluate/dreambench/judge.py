"""The judge of DreamBench++: concept preservation and prompt following from 0 to 4, three times, and their product.

The benchmark's protocol (Peng et al., arXiv 2406.16855, section 4) through any `dsd.chat` model: the judge is told what
to look at, reasons, and gives a whole number from 0 to 4, which is divided by 4. Deviations: the instructions are in
our own words, in one turn, and the reply is a JSON object. A reply that is no such number is asked for again by the
chat layer, then dropped and counted, never replaced. The debiased variant scores a repeated picture low, because the
plain one rewards copying, as the paper of Diffusion Self-Distillation argues (arXiv 2411.18616, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dsd.chat.protocol import ChatFailure, ChatModel, ChatRequest, Reply
from dsd.curate.seeds import derive_seed
from dsd.curate.templates import Template, read_template
from dsd.evaluate.bootstrap import Estimate, bootstrap, bootstrap_product
from dsd.evaluate.dreambench.samples import PROMPT_KINDS, PROMPTS, Collection, SampleFolder
from dsd.images import load_image
from dsd.runs import Ledger

Aspect = Literal["concept_preservation", "concept_preservation_debiased", "prompt_following"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
REPEATS = 3
HIGHEST = 4
_FOLDER = Path(__file__).parent / "templates"
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
        collection: id of the subject.
        category: of `dsd.evaluate.dreambench.samples.CATEGORIES`.
        prompt: number of the prompt.
        repeat: which time it was asked.
        score: 0 to 4; None where no usable reply came.
        reason: the judge's, or why there is no score.
    """

    aspect: Aspect
    collection: str
    category: str
    prompt: int
    repeat: int
    score: int | None
    reason: str

    @property
    def share(self) -> float:
        """Of the highest score, where there is a usable reply."""
        assert self.score is not None
        return self.score / HIGHEST

    @property
    def kind(self) -> str:
        """What its aspect is broken down by: the category, or for prompt following the kind of prompt."""
        if self.aspect != "prompt_following":
            return self.category
        return next(kind for kind, prompts in PROMPT_KINDS.items() if self.prompt in prompts)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What one aspect came to.

    Attributes:
        mean: of scores / 4, averaged within each repeat and then over repeats, with an interval over collections.
        by_kind: the same for each category, or kind of prompt.
        deviation: standard deviation of the repeats' means.
        judged: questions with a usable reply.
        dropped: questions without one.
    """

    mean: Estimate
    by_kind: dict[str, float]
    deviation: float
    judged: int
    dropped: int


def judge_samples(
    collections: Sequence[Collection], samples: SampleFolder, judge: ChatModel, out: Path, *, repeats: int = REPEATS
) -> list[Score]:
    """Has every picture judged in every aspect; a collection whose scores lie in ``out`` is not judged again.

    Args:
        collections: that were drawn.
        samples: of one method.
        judge: a vision-language model that has no part in curation or training.
        out: gets a JSON file a collection.
        repeats: how often each question is asked, each time with another seed.
    """
    templates: dict[Aspect, Template] = {
        aspect: read_template(_FOLDER / f"{aspect}.md", _PLACES[aspect]) for aspect in ASPECTS
    }
    scores: list[Score] = []
    ledger = Ledger(out)
    for collection in collections:
        found = ledger.find(collection.id, lambda rows: [Score(**values) for values in rows])
        if found is None:
            found = _judge_collection(collection, samples, judge, templates, repeats)
            ledger.commit(collection.id, [asdict(score) for score in found])
        scores += found
    return scores


def summarise(scores: Sequence[Score], aspect: Aspect) -> Summary | None:
    """Aggregates one aspect as the benchmark does; None where no reply was usable."""
    asked = [score for score in scores if score.aspect == aspect]
    usable = [score for score in asked if score.score is not None]
    if not usable:
        return None
    means = _means_of_repeats(usable)
    interval = bootstrap([score.share for score in usable], groups=[score.collection for score in usable])
    kinds = sorted({score.kind for score in usable})
    return Summary(
        mean=Estimate(float(np.mean(means)), interval.low, interval.high),
        by_kind={kind: float(np.mean(_means_of_repeats([s for s in usable if s.kind == kind]))) for kind in kinds},
        deviation=float(np.std(means)),
        judged=len(usable),
        dropped=len(asked) - len(usable),
    )


def product(scores: Sequence[Score]) -> Estimate | None:
    """The benchmark's one number: the means of concept preservation and of prompt following, multiplied.

    None where one of them has no usable reply. The interval is over collections.
    """
    preservation, following = summarise(scores, "concept_preservation"), summarise(scores, "prompt_following")
    if preservation is None or following is None:
        return None
    first, second = (
        [score for score in scores if score.aspect == aspect and score.score is not None]
        for aspect in ("concept_preservation", "prompt_following")
    )
    interval = bootstrap_product(
        [score.share for score in first],
        [score.share for score in second],
        groups=([score.collection for score in first], [score.collection for score in second]),
    )
    return Estimate(preservation.mean.mean * following.mean.mean, interval.low, interval.high)


def _judge_collection(
    collection: Collection,
    samples: SampleFolder,
    judge: ChatModel,
    templates: dict[Aspect, Template],
    repeats: int,
) -> list[Score]:
    reference = load_image(collection.reference)
    keys: list[tuple[Aspect, int, int]] = [
        (a, prompt, repeat) for a in ASPECTS for prompt in range(PROMPTS) for repeat in range(repeats)
    ]
    pictures = [load_image(samples.target(collection, prompt)) for prompt in range(PROMPTS)]
    requests = []
    for aspect, prompt, repeat in keys:
        places = {"first": reference, "second": pictures[prompt]}
        if aspect == "prompt_following":
            places = {"caption": collection.prompts[prompt], "image": pictures[prompt]}
        requests.append(
            ChatRequest(
                messages=(templates[aspect].message(places),),
                schema=ScoreReply,
                seed=derive_seed(repeat, aspect, collection.id, prompt),
                max_tokens=templates[aspect].max_tokens,
            )
        )
    replies = judge.reply(requests)
    return [
        Score(
            aspect=aspect, collection=collection.id, category=collection.category, prompt=prompt, repeat=repeat,
            score=_score(reply), reason=_reason(reply),
        )
        for (aspect, prompt, repeat), reply in zip(keys, replies, strict=True)
    ]  # fmt: skip


def _score(reply: Reply) -> int | None:
    return reply.score if isinstance(reply, ScoreReply) else None


def _reason(reply: Reply) -> str:
    if isinstance(reply, ScoreReply):
        return reply.analysis
    return f"{reply.reason}: {reply.detail}" if isinstance(reply, ChatFailure) else ""


def _means_of_repeats(usable: Sequence[Score]) -> list[float]:
    repeats = sorted({score.repeat for score in usable})
    return [float(np.mean([score.share for score in usable if score.repeat == repeat])) for repeat in repeats]
