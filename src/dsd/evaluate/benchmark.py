"""What methods are measured on: held-out subjects with prompts and with what bounds the scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

from dsd.baselines.protocol import Request
from dsd.errors import UserError

_SEEDS_A_SUBJECT = 1000


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One held-out individual.

    Attributes:
        id: unique in the benchmark, and a file name.
        subject: what it is in words.
        reference: the one picture that methods are given.
        prompts: sentences to draw it under.
        distractors: for each prompt, sentences of the same subject in other scenes, none of which fits. These and the
            next three may be unknown, and what needs them is then not measured.
        truths: for each prompt, the true individual in the prompt's scene.
        same: further pictures of the true individual; their mean similarity to the reference is 1 on the scale.
        strangers: pictures of others of the same description; their mean similarity to the reference is 0.
        groups: of subjects that are also measured apart, such as ``characters``; a subject may be of several.
        parts: of the prompts that are also measured apart, with for each prompt whether it is of the part; such as
            ``moved``, where the subject stands elsewhere than in the reference, because methods that align the
            reference in space do worse there.
    """

    id: str
    subject: str
    reference: Image.Image
    prompts: tuple[str, ...]
    distractors: tuple[tuple[str, ...], ...] = ()
    truths: tuple[Image.Image, ...] = ()
    same: tuple[Image.Image, ...] = ()
    strangers: tuple[Image.Image, ...] = ()
    groups: tuple[str, ...] = ()
    parts: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Subjects, and how many pictures are asked of each.

    Attributes:
        name: changes whenever the benchmark's content does.
        subjects: at least two; intervals resample them.
        repeats: pictures under each prompt that is repeated, with seeds of their own, for diversity.
        repeated: how many prompts of each subject, from the first on, are.
    """

    name: str
    subjects: tuple[Subject, ...]
    repeats: int = 2
    repeated: int = 1

    def __post_init__(self) -> None:
        if len(self.subjects) < 2:
            raise UserError(f"a benchmark needs at least 2 subjects for its intervals, got {len(self.subjects)}")
        if self.repeats < 1:
            raise UserError(f"a benchmark needs at least 1 picture for each prompt, got {self.repeats}")

    def requests(self, number: int) -> list[Request]:
        """What is asked for subject ``number``: every prompt once, then the repeats of those that are repeated."""
        subject = self.subjects[number]
        wanted = [(prompt, 0) for prompt in range(len(subject.prompts))]
        wanted += [(prompt, again) for prompt in self.of_repeated(subject) for again in range(1, self.repeats)]
        return [
            Request(
                subject_id=subject.id,
                subject=subject.subject,
                reference=subject.reference,
                prompt=subject.prompts[prompt],
                prompt_index=prompt,
                seed=number * _SEEDS_A_SUBJECT + prompt * self.repeats + repeat,
                repeat=repeat,
            )
            for prompt, repeat in wanted
        ]

    def of_repeated(self, subject: Subject) -> range:
        """The numbers of the prompts that are repeated."""
        return range(min(self.repeated, len(subject.prompts)))
