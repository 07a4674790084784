"""From drawn pictures to the table: every metric of every method with its interval."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dsd.baselines.faces import Faces
from dsd.baselines.protocol import SubjectMethod
from dsd.devices import default_device
from dsd.evaluate import pictures
from dsd.evaluate.benchmark import Benchmark
from dsd.evaluate.bootstrap import Estimate, bootstrap_runs
from dsd.evaluate.encoders import ImageEncoder, PictureTextEncoder
from dsd.evaluate.metrics import cosine
from dsd.evaluate.metrics.following import follows_prompt
from dsd.evaluate.metrics.identity import IdentityScale
from dsd.evaluate.metrics.likeness import copy_score, diversity, likeness, vendi
from dsd.evaluate.pictures import Drawn

QUALITIES = ("identity", "prompt_following", "diversity", "vendi", "copy", "clip_i", "clip_t")
"""What the pictures themselves decide."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A row of the table before averaging.

    Attributes:
        name: of the row.
        runs: for each training of the method, for each metric one value a subject; a training may lack metrics that
            others have.
        seeds: of the trainings.
    """

    name: str
    runs: Sequence[Mapping[str, list[float]]]
    seeds: Sequence[int] = (0,)

    @property
    def metrics(self) -> list[str]:
        """The row's columns."""
        return list(dict.fromkeys(metric for run in self.runs for metric in run))

    @property
    def values(self) -> dict[str, list[float]]:
        """For each metric one value a subject: the mean over trainings."""
        return {metric: np.mean(self.by_run(metric), axis=0).tolist() for metric in self.metrics}

    def by_run(self, metric: str) -> list[list[float]]:
        """For each training that has the metric one value a subject."""
        return [list(run[metric]) for run in self.runs if metric in run]

    def seeds_of(self, metric: str) -> list[int]:
        """Of the trainings that have the metric."""
        return [seed for run, seed in zip(self.runs, self.seeds, strict=True) if metric in run]

    def estimate(self, metric: str) -> Estimate:
        """Mean over subjects and trainings with its interval."""
        return bootstrap_runs(self.by_run(metric))

    @classmethod
    def together(cls, rows: Sequence[Scores]) -> Scores:
        """One row of several trainings of a method."""
        return cls(
            name=rows[0].name,
            runs=[run for row in rows for run in row.runs],
            seeds=[s for row in rows for s in row.seeds],
        )


@dataclass(kw_only=True)
class Ruler:
    """A benchmark with its encoders and all that is measured once for every method.

    Attributes:
        benchmark: the subjects.
        identity: tells individuals apart.
        agreement: tells whether words fit a picture.
        faces: finds faces, whose identity is then measured apart by the same encoder on aligned crops; None for none.
        likeness: further encoders by the name of their column: the mean cosine with the reference, as DINO-I.
    """

    benchmark: Benchmark
    identity: ImageEncoder
    agreement: PictureTextEncoder
    faces: Faces | None = None
    likeness: Mapping[str, ImageEncoder] = field(default_factory=dict)
    scale: IdentityScale = field(init=False)
    references: Tensor = field(init=False)
    reference_levels: list[Tensor] = field(init=False)
    truth_likeness: Tensor = field(init=False)
    sentences: Tensor = field(init=False)
    reference_features: Tensor = field(init=False)

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
        self.reference_features = self.agreement.pictures([s.reference for s in subjects])

    def measure(self, name: str, drawn: Drawn) -> Scores:
        """Scores the pictures of one training of a method."""
        prompts = len(self.benchmark.subjects[0].prompts)
        asked = [drawn_pictures[:prompts] for drawn_pictures in drawn.pictures]
        repeats = [[p[0], *p[prompts:]] for p in drawn.pictures]
        seen = self.agreement.pictures([picture for row in asked for picture in row])
        who = self._pooled(asked)
        follows = follows_prompt(seen, self.sentences).float().view(len(asked), prompts)
        seen, levels = seen.unflatten(0, (len(asked), -1)), self._levels(repeats)
        by_picture = {"identity": self.scale(self.references, who), "prompt_following": follows}
        columns = {
            **{name: values.mean(1) for name, values in by_picture.items()},
            "diversity": diversity(levels),
            "vendi": vendi(levels),
            "copy": copy_score(self._to_reference(asked), self.truth_likeness).mean(1),
            **self._likenesses(asked),
            "clip_i": cosine.with_reference(self.reference_features, seen),
            "clip_t": cosine.with_prompts(seen, self.sentences[:, 0].unflatten(0, (len(asked), prompts))),
            **{name: torch.tensor(values) for name, values in drawn.costs.columns().items()},
        }
        columns |= self._by_group({name: columns[name] for name in by_picture}) | self._by_place(by_picture)
        columns |= {} if self._face_scale is None else {"identity/faces": self._face_identity(asked)}
        return Scores(name=name, runs=[{metric: column.tolist() for metric, column in columns.items()}])

    def _by_group(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same columns over the subjects of each group alone."""
        groups_of = [subject.groups for subject in self.benchmark.subjects]
        names = sorted({group for groups in groups_of for group in groups})
        masks = {group: torch.tensor([group in groups for groups in groups_of]) for group in names}
        return {f"{name}/{group}": column[mask] for group, mask in masks.items() for name, column in columns.items()}

    def _by_place(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same pictures in two parts: where the subject has moved, and where it stands as in the reference.

        A part holds the subjects that have such pictures.
        """
        subjects = self.benchmark.subjects
        if not all(subject.moved for subject in subjects):
            return {}
        moved = torch.tensor([subject.moved for subject in subjects])
        parts = {"moved": moved, "unmoved": ~moved}
        return {
            f"{name}/{part}": ((values * mask).sum(1) / mask.sum(1))[mask.any(1)]
            for part, mask in parts.items()
            if mask.any()
            for name, values in columns.items()
        }

    @functools.cached_property
    def _face_scale(self) -> tuple[IdentityScale, Tensor, Tensor] | None:
        """The scale of faces, which references have one, and the features of those."""
        if self.faces is None:
            return None
        subjects = self.benchmark.subjects
        present, references = self._faces_of([[s.reference] for s in subjects])
        has_face = present[:, 0]
        if not has_face.any():
            return None
        same, strangers = (self._faces_of([getattr(s, name) for s in subjects])[1] for name in ("same", "strangers"))
        scale = IdentityScale.of(references[has_face, 0], same[has_face], strangers[has_face])
        return scale, has_face, references[has_face, 0]

    def _face_identity(self, asked: Sequence[Sequence[Image.Image]]) -> Tensor:
        """Identity of the faces of subjects whose reference has one; a picture without a face is a stranger's."""
        assert self._face_scale is not None
        scale, has_face, references = self._face_scale
        present, features = self._faces_of(asked)
        found = scale(references, features[has_face])
        return torch.where(present[has_face], found, torch.zeros_like(found)).mean(1)

    def _faces_of(self, rows: Sequence[Sequence[Image.Image]]) -> tuple[Tensor, Tensor]:
        """For each picture whether it has a face, and the features of the face's crop."""
        assert self.faces is not None
        present, crops = self.faces.crops([picture for row in rows for picture in row])
        return present.view(len(rows), -1), self.identity.pooled(crops).unflatten(0, (len(rows), -1))

    def _likenesses(self, asked: Sequence[Sequence[Image.Image]]) -> dict[str, Tensor]:
        """Mean cosine of pictures with their reference, for each of the further encoders."""
        columns = {}
        for name, encoder in self.likeness.items():
            references = encoder.pooled([subject.reference for subject in self.benchmark.subjects])
            seen = encoder.pooled([picture for row in asked for picture in row]).unflatten(0, (len(asked), -1))
            columns[name] = cosine.with_reference(references, seen)
        return columns

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
        agreement_encoder: a CLIP-like pair, for prompt following, CLIP-I and CLIP-T.
        likeness_encoders: vision models by the column that they give, such as ``dinov2_i`` of facebook/dinov2-base.
    """

    identity_encoder: str
    agreement_encoder: str
    likeness_encoders: Mapping[str, str] = field(default_factory=dict)

    def ruler(self, benchmark: Benchmark, faces: Faces | None = None) -> Ruler:
        """Loads the encoders for a benchmark, on a GPU when there is one."""
        device = default_device()
        return Ruler(
            benchmark=benchmark,
            identity=ImageEncoder(self.identity_encoder, device),
            agreement=PictureTextEncoder(self.agreement_encoder, device),
            faces=faces,
            likeness={column: ImageEncoder(name, device) for column, name in self.likeness_encoders.items()},
        )


def evaluate(config: EvaluateConfig, benchmark: Benchmark, methods: Iterable[SubjectMethod], out: Path) -> list[Scores]:
    """Has every method draw the benchmark and measures the pictures. Run again to go on after an interruption.

    Args:
        config: the encoders.
        benchmark: held-out subjects.
        methods: the table's rows; each is done with before the next one is asked for.
        out: gets ``pictures/``.
    """
    drawn = {method.name: pictures.draw(benchmark, method, out / "pictures") for method in methods}
    ruler = config.ruler(benchmark)
    return [ruler.measure(name, of_method) for name, of_method in drawn.items()]
