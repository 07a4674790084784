"""The judge against the world's truth, and against tiny-dino on a teacher's sheets.

    python benchmarks/judge_accuracy.py --pairs 2000 --parts 400 --sheets 128 --captions 256

Drawn pairs have equal caption words, half of them the same individual. Questions go the way of curation: its
templates, its chat layer, its reply schemas. Every form
(`dsd_world.judge_quality.FORMS`) judges the same pairs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import torch
import tyro

from dsd.baselines.protocol import Request
from dsd.baselines.text_only import TextOnly
from dsd.chat.local import LocalChat
from dsd.curate.judge import Candidate
from dsd.curate.labelled import pair_of
from dsd.curate.panels import cut, describe
from dsd.curate.tasks.identity import IDENTITY, LAYOUT
from dsd.data.records import Grid, Model
from dsd.evaluate.bootstrap import bootstrap, bootstrap_auc
from dsd.images import to_pil
from dsd_world.benchmark import identity_encoder
from dsd_world.captions import panel_captions
from dsd_world.details import PARTS
from dsd_world.draw import draw_panels
from dsd_world.examined_pairs import equal_word_pairs, one_part_pairs
from dsd_world.individuals import sample_individuals, sample_scenes
from dsd_world.judge_quality import FORMS, Judged, candidate_pairs, examine, judged
from dsd_world.recipe import DRAWING, tiny
from dsd_world.sheets import describe_sheets
from dsd_world.teacher_quality import CONSISTENT, pair_scale, panel_agreement, teacher_sheets
from dsd_world.words import told_words

_NOBODY = Model(name="", revision="")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured; a count of 0 leaves a part out.

    Attributes:
        judge: a chat model that runs in this process.
        templates: of the questions.
        pairs: drawn pairs at equal caption words, half of them the same individual.
        other: whom the different pairs show: a ``stranger`` with the same caption words, or a ``drifted`` copy.
        first: number of the first pair of the evaluation split.
        parts: individuals for each kind of difference, where one part alone is a stranger's.
        sheets: of a teacher, judged against tiny-dino's verdict.
        captions: panels that the judge describes, drawn by the world and after the same captions by the teacher: what
            students are told of their pictures.
        teacher: who draws them.
    """

    judge: str = "embedded:tiny-vlm"
    templates: str = "compact"
    pairs: int = 2000
    other: Literal["stranger", "drifted"] = "stranger"
    first: int = 0
    parts: int = 0
    sheets: int = 0
    captions: int = 0
    teacher: str = "embedded:tiny-flux"


class Examination:
    """A judge and its templates."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.judge, self.templates = LocalChat(settings.judge), IDENTITY.load_templates(settings.templates)

    def asked(self, pairs: Sequence[Candidate]) -> dict[str, tuple[Judged, float]]:
        """Verdicts and seconds of all forms."""
        found = {}
        for form in FORMS:
            started = time.perf_counter()
            verdicts = judged(
                self.judge, self.templates, pairs, chain_of_thought=form.chain_of_thought, votes=form.votes
            )
            found[form.name] = (verdicts, time.perf_counter() - started)
        return found

    def drawn(self) -> None:
        """A line a form; then a line a kind of difference."""
        settings = self.settings
        index = torch.arange(settings.first, settings.first + settings.pairs)
        drawn = equal_word_pairs("evaluation", index, settings.other)
        forms = self.asked(candidate_pairs(drawn))
        for name, (verdicts, seconds) in forms.items():
            found = examine(name, verdicts, drawn.same)
            _print({**found.as_dict(), "other": settings.other, "seconds": round(seconds)})
        true = {
            name: [c for c, same in zip(verdicts.confidence, drawn.same, strict=True) if same]
            for name, (verdicts, _) in forms.items()
        }
        for part in PARTS if settings.parts else ():
            differing = one_part_pairs("evaluation", torch.arange(settings.parts), part)
            figures: dict[str, Any] = {"only": part, "pairs": len(differing.same)}
            for name, (verdicts, _) in self.asked(candidate_pairs(differing)).items():
                noticed = bootstrap([float(v is False) for v in verdicts.same]).as_dict()
                area = bootstrap_auc(true[name], verdicts.confidence).as_dict()
                figures[name] = {"noticed": noticed, "auc": area}
            _print(figures)

    def sheets(self) -> None:
        """A line a form: pairs of panels that a teacher drew; the truth is tiny-dino's verdict."""
        config = replace(tiny().curate, teacher=self.settings.teacher)
        _, _, _, captions = describe_sheets("evaluation", torch.arange(self.settings.sheets))
        grids = teacher_sheets(config, captions)
        panels = [found for grid in grids if isinstance(found := cut(grid, config.panel_size, LAYOUT), list)]
        encoder = identity_encoder()
        same = panel_agreement(panels, encoder, pair_scale(encoder)) >= CONSISTENT
        pairs = [pair_of(str(i), a, b) for i, sheet in enumerate(panels) for a, b in combinations(sheet, 2)]
        groups = [str(i) for i, sheet in enumerate(panels) for _ in combinations(sheet, 2)]
        for name, (verdicts, _) in self.asked(pairs).items():
            found = examine(name, verdicts, same.flatten().tolist(), groups)
            share = round(same.float().mean().item(), 4)
            _print({**found.as_dict(), "sheets": len(panels), "same_by_tiny_dino": share})

    def captions(self) -> None:
        """A line for the world's panels and one for the teacher's: the share of right words, by kind."""
        index = torch.arange(self.settings.captions)
        who, scenes = sample_individuals("evaluation", index), sample_scenes("evaluation", index)
        true, world = panel_captions(who, scenes), to_pil(draw_panels(who, scenes))
        requests = [
            Request(subject_id=str(i), subject="", reference=picture, prompt=caption, prompt_index=0, seed=i)
            for i, (caption, picture) in enumerate(zip(true, world, strict=True))
        ]
        drawn = TextOnly.load(self.settings.teacher, DRAWING).generate(requests)
        for name, panels in (("world", world), ("teacher", drawn)):
            numbered = [(Grid(prompt="", image=p, seed=0, teacher=_NOBODY), i, p) for i, p in enumerate(panels)]
            described = describe(numbered, self.judge, self.templates, seed=0)
            told = told_words([one.panel.description.caption for one in described], true)
            words = {kind: {**bootstrap(right).as_dict(), "n": len(right)} for kind, right in told.items()}
            _print({"captions": len(panels), "panels": name, "words": words})


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main(settings: Settings) -> None:
    """Prints lines of JSON."""
    examination = Examination(settings)
    if settings.pairs:
        examination.drawn()
    if settings.sheets:
        examination.sheets()
    if settings.captions:
        examination.captions()


if __name__ == "__main__":
    main(tyro.cli(Settings))
