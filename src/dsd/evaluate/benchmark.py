"""What methods are measured on: held-out subjects with prompts and with what bounds the scores."""

from __future__ import annotations

from dataclasses import dataclass

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
        distractors: for each prompt, sentences of the same subject in other scenes, none of which fits.
        truths: for each prompt, the true individual in the prompt's scene.
        same: further pictures of the true individual; their mean similarity to the reference is 1 on the scale.
        strangers: pictures of others of the same description; their mean similarity to the reference is 0.
        groups: of subjects that are also measured apart, such as ``characters``; a subject may be of several.
        moved: for each prompt, whether the subject stands elsewhere than in the reference; such pictures are then
            measured apart, because methods that align the reference in space do worse on them. Empty for unknown.
    """

    id: str
    subject: str
    reference: Image.Image
    prompts: tuple[str, ...]
    distractors: tuple[tuple[str, ...], ...]
    truths: tuple[Image.Image, ...]
    same: tuple[Image.Image, ...]
    strangers: tuple[Image.Image, ...]
    groups: tuple[str, ...] = ()
    moved: tuple[bool, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Subjects, and how many pictures are asked of each.

    Attributes:
        name: changes whenever the benchmark's content does.
        subjects: at least two; intervals resample them.
        repeats: pictures under each subject's first prompt, with seeds of their own, for diversity.
    """

    name: str
    subjects: tuple[Subject, ...]
    repeats: int = 2

    def __post_init__(self) -> None:
        if len(self.subjects) < 2 or self.repeats < 2:
            raise UserError(
                f"a benchmark needs at least 2 subjects and 2 repeats, got {len(self.subjects)} and {self.repeats}"
            )

    def requests(self, number: int) -> list[Request]:
        """What is asked for subject ``number``: every prompt once, then the repeats of the first prompt."""
        subject = self.subjects[number]
        wanted = [(prompt, 0) for prompt in range(len(subject.prompts))] + [(0, r) for r in range(1, self.repeats)]
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
