"""From drawn pictures to the table: every metric of every method with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from dsd.baselines.protocol import SubjectMethod
from dsd.evaluate import pictures
from dsd.evaluate.benchmark import Benchmark
from dsd.evaluate.bootstrap import Estimate, bootstrap
from dsd.evaluate.encoders import ImageEncoder, PictureTextEncoder
from dsd.evaluate.metrics.following import follows_prompt
from dsd.evaluate.metrics.identity import IdentityScale
from dsd.evaluate.metrics.likeness import copy_score, diversity, likeness
from dsd.evaluate.pictures import Drawn

QUALITIES = ("identity", "prompt_following", "diversity", "copy")
"""What the pictures themselves decide."""
METRICS = (*QUALITIES, "seconds_per_image", "prepare_seconds")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A row of the table before averaging: for each metric one value a subject."""

    name: str
    values: Mapping[str, list[float]]

    def estimate(self, metric: str) -> Estimate:
        """Mean over subjects with its interval."""
        return bootstrap(self.values[metric])


@dataclass(kw_only=True)
class Ruler:
    """A benchmark with its encoders and all that is measured once for every method.

    Attributes:
        benchmark: the subjects.
        identity: tells individuals apart.
        agreement: tells whether words fit a picture.
    """

    benchmark: Benchmark
    identity: ImageEncoder
    agreement: PictureTextEncoder
    scale: IdentityScale = field(init=False)
    references: Tensor = field(init=False)
    reference_levels: list[Tensor] = field(init=False)
    truth_likeness: Tensor = field(init=False)
    sentences: Tensor = field(init=False)

    def __post_init__(self) -> None:
        subjects = self.benchmark.subjects
        self.references = self.identity.pooled([s.reference for s in subjects])
        self.scale = IdentityScale.of(
            self.references,
            self._pooled([s.same for s in subjects]),
            self._pooled([s.strangers for s in subjects]),
        )
        self.reference_levels = self.identity.levels([s.reference for s in subjects])
        self.truth_likeness = self._to_reference([s.truths for s in subjects])
        options = [(prompt, *others) for s in subjects for prompt, others in zip(s.prompts, s.distractors, strict=True)]
        flat = self.agreement.sentences([sentence for option in options for sentence in option])
        self.sentences = flat.view(len(options), len(options[0]), -1)

    def measure(self, name: str, drawn: Drawn) -> Scores:
        """Scores a method's pictures."""
        prompts = len(self.benchmark.subjects[0].prompts)
        asked = [drawn_pictures[:prompts] for drawn_pictures in drawn.pictures]
        repeats = [[p[0], *p[prompts:]] for p in drawn.pictures]
        flat = [picture for row in asked for picture in row]
        follows = follows_prompt(self.agreement.pictures(flat), self.sentences).float().view(len(asked), prompts)
        columns = {
            "identity": self.scale(self.references, self._pooled(asked)).mean(1),
            "prompt_following": follows.mean(1),
            "diversity": diversity(self._levels(repeats)),
            "copy": copy_score(self._to_reference(asked), self.truth_likeness).mean(1),
            "seconds_per_image": torch.tensor(drawn.seconds),
            "prepare_seconds": torch.tensor(drawn.prepare_seconds),
        }
        return Scores(name=name, values={metric: columns[metric].tolist() for metric in METRICS})

    def _pooled(self, rows: Sequence[Sequence[Image.Image]]) -> Tensor:
        return self.identity.pooled([p for row in rows for p in row]).unflatten(0, (len(rows), -1))

    def _levels(self, rows: Sequence[Sequence[Image.Image]]) -> list[Tensor]:
        flat = self.identity.levels([p for row in rows for p in row])
        return [level.unflatten(0, (len(rows), -1)) for level in flat]

    def _to_reference(self, rows: Sequence[Sequence[Image.Image]]) -> Tensor:
        count = len(rows[0])
        flat = self.identity.levels([p for row in rows for p in row])
        references = [level.repeat_interleave(count, 0) for level in self.reference_levels]
        return likeness(flat, references).view(len(rows), count)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What measures.

    Attributes:
        identity_encoder: a vision model.
        agreement_encoder: a CLIP-like pair.
    """

    identity_encoder: str = "embedded:tiny-dino"
    agreement_encoder: str = "embedded:tiny-clip"


def evaluate(config: EvaluateConfig, benchmark: Benchmark, methods: Sequence[SubjectMethod], out: Path) -> list[Scores]:
    """Has every method draw the benchmark and measures the pictures. Run again to go on after an interruption.

    Args:
        config: the encoders.
        benchmark: held-out subjects.
        methods: the table's rows.
        out: gets ``pictures/``.
    """
    drawn = {method.name: pictures.draw(benchmark, method, out / "pictures") for method in methods}
    ruler = Ruler(
        benchmark=benchmark,
        identity=ImageEncoder(config.identity_encoder),
        agreement=PictureTextEncoder(config.agreement_encoder),
    )
    return [ruler.measure(name, of_method) for name, of_method in drawn.items()]
