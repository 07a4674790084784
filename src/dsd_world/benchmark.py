"""The benchmark of the drawn world: individuals that no model has seen, prompts, and the truth the world knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from dsd.backbones.registry import load_backbone
from dsd.baselines.protocol import Request
from dsd.encoders import ImageEncoder, PictureTextEncoder
from dsd.evaluate.benchmark import Benchmark, Subject
from dsd.images import to_pil, to_tensor
from dsd.models import resolve, revision_of
from dsd_world.captions import scene_phrase, scene_phrases, subject_phrases
from dsd_world.draw import draw_panels
from dsd_world.fixed import groups_beside
from dsd_world.individuals import (
    KINDS,
    MOODS,
    PLACES,
    POSITIONS,
    Individuals,
    Scenes,
    Split,
    sample_individuals,
    sample_scenes,
    strangers,
)

PROMPTS = 4
"""Prompts a subject; none is at the reference's place, and no two are at the same one."""
DISTRACTORS = 7
_DECODED_AT_ONCE = 32
_ANCHORS = 4  # further pictures of the individual, and as many strangers, that anchor the identity scale
_SLOTS = 64  # scene numbers of a subject: the reference, the anchors, and then one a picture
_FIRST_SAME, _FIRST_STRANGER, _FIRST_PROMPT = 1, 1 + _ANCHORS, 1 + 2 * _ANCHORS


def identity_encoder() -> ImageEncoder:
    """tiny-dino."""
    return ImageEncoder("embedded:tiny-dino")


def agreement_encoder() -> PictureTextEncoder:
    """tiny-clip."""
    return PictureTextEncoder("embedded:tiny-clip")


@dataclass(frozen=True, kw_only=True)
class DrawnBenchmark:
    """Individuals number ``first`` on of a split.

    Attributes:
        split: whose individuals; only ``evaluation`` is held out from everything.
        subjects: how many.
        first: number of the first one.
        repeats: pictures under each first prompt, for diversity.
        beside_fixed: whether those whom the fixed prompts of `dsd_world.fixed` lack are also measured apart.
    """

    split: Split = "evaluation"
    subjects: int = 64
    first: int = 0
    repeats: int = 2
    beside_fixed: bool = False

    @property
    def name(self) -> str:
        """Says which subjects these are."""
        return f"world-{self.split}-{self.first}-{self.subjects}-{self.repeats}"

    @property
    def index(self) -> Int[Tensor, " n"]:
        """Numbers of the individuals."""
        return torch.arange(self.first, self.first + self.subjects)

    def individuals(self) -> Individuals:
        """Who they are."""
        return sample_individuals(self.split, self.index)

    def prompt_scenes(self, prompt: int, repeat: int = 0) -> Scenes:
        """The scene that each subject's prompt asks for; what words do not tell is drawn anew for each repeat."""
        asked = sample_scenes(self.split, self.index * _SLOTS + _FIRST_PROMPT + prompt)
        reference = sample_scenes(self.split, self.index * _SLOTS)
        free = sample_scenes(self.split, self.index * _SLOTS + _FIRST_PROMPT + prompt + PROMPTS * repeat)
        step = 1 + (self.index + 2 * prompt) % (len(PLACES) - 1)
        place = (reference.place + step) % len(PLACES)
        return dataclasses.replace(free, place=place, position=asked.position, mood=asked.mood)

    def build(self) -> Benchmark:
        """Draws everything; the same settings give the same benchmark."""
        who = self.individuals()
        others = [strangers(who, self.split, self.index * _ANCHORS + k) for k in range(_ANCHORS)]
        references = self._pictures(who, 0)
        same = [self._pictures(who, _FIRST_SAME + k) for k in range(_ANCHORS)]
        strange = [self._pictures(other, _FIRST_STRANGER + k) for k, other in enumerate(others)]
        scenes = [self.prompt_scenes(prompt) for prompt in range(PROMPTS)]
        truths = [to_pil(draw_panels(who, scene)) for scene in scenes]
        at_first = sample_scenes(self.split, self.index * _SLOTS).position
        moved = torch.stack([scene.position != at_first for scene in scenes], 1)
        beside = groups_beside(who) if self.beside_fixed else [()] * self.subjects
        words, phrases = subject_phrases(who), [scene_phrases(who, scene) for scene in scenes]
        subjects = [
            Subject(
                id=f"{self.split}-{self.first + n:04d}",
                subject=words[n],
                reference=references[n],
                prompts=tuple(f"a {words[n]} {phrase[n]}" for phrase in phrases),
                distractors=tuple(
                    tuple(f"a {words[n]} {other}" for other in distractor_phrases(who, scene, n)) for scene in scenes
                ),
                truths=tuple(truth[n] for truth in truths),
                same=tuple(pictures[n] for pictures in same),
                strangers=tuple(pictures[n] for pictures in strange),
                groups=(("objects" if bool(who.is_object[n]) else "characters"), *beside[n]),
                parts={"moved": tuple(moved[n].tolist()), "unmoved": tuple((~moved[n]).tolist())},
            )
            for n in range(self.subjects)
        ]
        return Benchmark(name=self.name, subjects=tuple(subjects), repeats=self.repeats)

    def _pictures(self, who: Individuals, slot: int) -> list[Image.Image]:
        return to_pil(draw_panels(who, sample_scenes(self.split, self.index * _SLOTS + slot)))


def shows_mood(who: Individuals) -> Bool[Tensor, " n"]:
    """Whose mood can be seen: those with a mouth, which objects and birds have not."""
    return ~who.is_object & (who.kind != KINDS.index("bird"))


def distractor_phrases(who: Individuals, scenes: Scenes, row: int) -> list[str]:
    """Seven scenes that differ in one thing from the scene of a row: in the place, the position or the mood.

    Subjects with a mouth get three other places, the two other positions and the two other moods; the others five other
    places and the two positions.
    """
    place, position, mood = int(scenes.place[row]), int(scenes.position[row]), int(scenes.mood[row])
    said_mood = None if bool(who.is_object[row]) else mood
    moods = [] if not bool(shows_mood(who)[row]) else [(mood + k) % len(MOODS) for k in range(1, len(MOODS))]
    positions = [(position + k) % len(POSITIONS) for k in range(1, len(POSITIONS))]
    places = [(place + 1 + (row + 3 * k) % (len(PLACES) - 1)) % len(PLACES) for k in range(len(PLACES) - 1)]
    return [
        *(scene_phrase(p, position, said_mood) for p in places[: DISTRACTORS - len(positions) - len(moods)]),
        *(scene_phrase(place, p, said_mood) for p in positions),
        *(scene_phrase(place, position, m) for m in moods),
    ]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The world's own drawing: the true individual in the asked scene. The ceiling of every column.

    Attributes:
        drawn: the benchmark that it knows the individuals of.
        name: the row's name.
        fingerprint: see `SubjectMethod`.
        subjects_at_once: see `SubjectMethod`.
    """

    drawn: DrawnBenchmark
    name: str = "truth"
    fingerprint: str = "1"
    subjects_at_once: int = 64

    def prepare(self, requests: Sequence[Request]) -> None:
        """Needs nothing."""

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        """Draws each request's individual in its prompt's scene; another seed changes what the words leave open."""
        rows = [int(request.subject_id.rsplit("-", 1)[1]) - self.drawn.first for request in requests]
        who = self.drawn.individuals().take(torch.tensor(rows))
        picked = [
            self.drawn.prompt_scenes(request.prompt_index, request.repeat).take(torch.tensor([row]))
            for request, row in zip(requests, rows, strict=True)
        ]
        scenes = Scenes(**{f.name: torch.cat([getattr(s, f.name) for s in picked]) for f in dataclasses.fields(Scenes)})
        return to_pil(draw_panels(who, scenes))


@dataclass(kw_only=True)
class DecodedTruth:
    """The truth encoded and decoded by a model's autoencoder: the best that a model that draws latents can look.

    Attributes:
        drawn: the benchmark that it knows the individuals of.
        base: whose autoencoder.
        name: the row's name.
        subjects_at_once: see `SubjectMethod`.
    """

    drawn: DrawnBenchmark
    base: str
    name: str = "truth-decoded"
    subjects_at_once: int = 64

    @property
    def fingerprint(self) -> str:
        """See `SubjectMethod`."""
        return revision_of(Path(resolve(self.base)) / "vae")

    def prepare(self, requests: Sequence[Request]) -> None:
        """Needs nothing."""

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        """The truth of each request, through the autoencoder."""
        backbone = load_backbone(self.base, transformer=False, text=False)
        pictures = to_tensor(Truth(drawn=self.drawn).generate(requests))
        return [p for part in pictures.split(_DECODED_AT_ONCE) for p in to_pil(backbone.decode(backbone.encode(part)))]
