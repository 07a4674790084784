"""Where pairs lose identity before any training, and how far the judge can be trusted to find out which did.

Identity of two panels is measured by tiny-dino, which has no part in curation or training, on a scale from a stranger
of the same caption (0) to the same individual (1).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from dsd.backbones.registry import load_backbone
from dsd.chat.local import LocalChat
from dsd.curate.config import CurateConfig
from dsd.curate.tasks.identity import IDENTITY, LAYOUT
from dsd.encoders import ImageEncoder
from dsd.evaluate import plots
from dsd.evaluate.bootstrap import Estimate, bootstrap
from dsd.evaluate.report import Section
from dsd.evaluate.tables import markdown
from dsd.files import write_atomic
from dsd.frames import MalformedSheet
from dsd.images import to_pil
from dsd_world.examined_pairs import equal_word_pairs
from dsd_world.judge_quality import FORMS, Examined, candidate_pairs, examine, judged
from dsd_world.sheets import draw_sheets
from dsd_world.tables.candidates import Candidate
from dsd_world.teacher_quality import pair_scale, panel_agreement

_DECODED_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number with what it rests on.

    Attributes:
        name: of a stage of making pairs, whose mean identity it is; or of a share.
        value: over pairs, interval over sheets.
        n: pairs.
    """

    name: str
    value: Estimate
    n: int

    @classmethod
    def of(cls, name: str, rows: Sequence[tuple[float, str]]) -> Figure:
        """The mean of (value, sheet) rows."""
        values, groups = [value for value, _ in rows], [group for _, group in rows]
        return cls(name=name, value=bootstrap(values, groups=groups), n=len(rows))


def stages(met: Sequence[Candidate], encoder: ImageEncoder, base: str, sheets: int) -> list[Figure]:
    """Identity of pairs from sheets that the world draws to pairs that the judge kept.

    Args:
        met: by the judge, with identities by the encoder.
        encoder: of identity.
        base: whose autoencoder the teacher draws through.
        sheets: that the world draws, none of them drifting.
    """
    scale = pair_scale(encoder)
    images = draw_sheets("evaluation", torch.arange(sheets), drift=0.0).images
    backbone = load_backbone(base, transformer=False, text=False)
    decoded = [backbone.decode(backbone.encode(part)) for part in images.split(_DECODED_AT_ONCE)]
    found = []
    for name, drawn in (
        ("sheets that the world draws, cropped", to_pil(images)),
        ("through the autoencoder, cropped", [picture for part in decoded for picture in to_pil(part)]),
    ):
        cut = [panels for sheet in drawn if (panels := _cut(sheet)) is not None]
        agreement = panel_agreement(cut, encoder, scale)
        found.append(Figure.of(name, [(x, str(n)) for n, row in enumerate(agreement.tolist()) for x in row]))
    for name, some in (
        ("the teacher's sheets, cropped", list(met)),
        ("kept by tiny-vlm", [candidate for candidate in met if candidate.kept]),
        ("kept by tiny-dino", [candidate for candidate in met if candidate.same]),
    ):
        if some:
            found.append(Figure.of(name, [(c.identity, c.grid) for c in some]))
    return found


def verdicts_on(met: Sequence[Candidate]) -> list[Figure]:
    """The judge's false accepts and rejects on what it really met, where tiny-dino's verdict is taken for the truth.

    Returns:
        Share of candidates that are the same, of those that are not and were kept, and of those that are and were not;
        with intervals over sheets.
    """
    asked = {
        "candidates that are the same": [(float(c.same), c.grid) for c in met],
        "of those that are not, kept": [(float(c.kept), c.grid) for c in met if not c.same],
        "of those that are, refused": [(float(not c.kept), c.grid) for c in met if c.same],
    }
    return [Figure.of(name, rows) for name, rows in asked.items() if rows]


def examine_judge(config: CurateConfig, pairs: int) -> list[Examined]:
    """Precision and recall on drawn pairs at equal captions, half of them the same individual, in all forms.

    Args:
        config: names the judge and its templates.
        pairs: of the evaluation split.
    """
    drawn = equal_word_pairs("evaluation", torch.arange(pairs))
    judge, templates = LocalChat(config.judge), IDENTITY.load_templates(config.templates)
    asked = candidate_pairs(drawn)
    return [
        examine(
            form.name,
            judged(judge, templates, asked, chain_of_thought=form.chain_of_thought, votes=form.votes),
            drawn.same,
        )
        for form in FORMS
    ]


def write(
    found: Sequence[Figure], met: Sequence[Figure], examined: Sequence[Examined], folder: Path, seed: int
) -> list[Section]:
    """Writes ``stages.json`` and ``judge.json``, and gives their sections of the page.

    Args:
        found: from `stages`.
        met: from `verdicts_on`.
        examined: from `examine_judge`.
        folder: to write to.
        seed: of the curation.
    """
    rows = [{"stage": f.name, "metric": "identity", **_as_dict(f, seed)} for f in found]
    write_atomic(folder / "stages.json", json.dumps(rows, indent=2) + "\n")
    forms = [{**e.as_dict(), "curve": e.curve} for e in examined]
    shares = {f.name: _as_dict(f, seed) for f in met}
    write_atomic(folder / "judge.json", json.dumps({"forms": forms, "candidates": shares}, indent=2) + "\n")
    points = [
        f"<p>{e.form}: accuracy {e.accuracy}, precision {e.precision or 'undefined'}, "
        f"recall {e.recall or 'undefined'}, area under the ROC curve {e.auc}, comparisons that contradict the "
        f"descriptions above them {e.misquoting or 'none'}, {e.tokens:.0f} tokens a pair, "
        f"{e.n} pairs, {e.failed} without a usable reply.</p>"
        for e in examined
    ]
    lines = "".join(f"<p>{f.name}: {f.value}, {f.n} pairs.</p>" for f in met)
    return [
        Section(
            title="Identity of pairs, stage by stage",
            words="0 is a stranger of the same caption, 1 the same individual drawn twice; intervals over sheets.",
            body=plots.intervals({f.name: f.value for f in found}, bounds=(0.0, 1.0)),
        ),
        Section(
            title="The judge on drawn pairs at equal captions",
            words="Precision over recall as the threshold on its confidence falls.",
            body=plots.precision_recall({e.form: e.curve for e in examined}) + "".join(points),
        ),
        Section(
            title="The judge on what it met", words="Against tiny-dino's verdict, intervals over sheets.", body=lines
        ),
    ]


def as_markdown(found: Sequence[Figure], met: Sequence[Figure], examined: Sequence[Examined], seed: int) -> str:
    """Three small tables; arguments as in `write`."""
    forms = [
        [
            e.form,
            *(str(x or "undefined") for x in (e.accuracy, e.precision, e.recall, e.auc)),
            str(e.misquoting or "-"),
            f"{e.tokens:.0f}",
            *map(str, (e.n, e.failed, seed)),
        ]
        for e in examined
    ]
    tables = [
        markdown(["pairs", "identity", "n", "seeds"], _cells(found, seed)),
        markdown(
            ["judge", "accuracy", "precision", "recall", "ROC area", "misquoting", "tokens", "n", "no reply", "seeds"],
            forms,
        ),
        markdown(["the judge on what it met, by tiny-dino", "share", "n", "seeds"], _cells(met, seed)),
    ]
    return "\n".join(tables)


def _cells(figures: Sequence[Figure], seed: int) -> list[list[str]]:
    return [[f.name, str(f.value), str(f.n), str(seed)] for f in figures]


def _as_dict(figure: Figure, seed: int) -> dict[str, object]:
    return {**figure.value.as_dict(), "n": figure.n, "seeds": [seed]}


def _cut(sheet: Image.Image) -> list[Image.Image] | None:
    try:
        return LAYOUT.split(sheet)
    except MalformedSheet:
        return None
