"""`dsd evaluate main | ablations | flavours | budget`: tables of the drawn world. To resume, run the command again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsd import runs
from dsd.config import to_json
from dsd.errors import UserError
from dsd.evaluate import compare, report, tables
from dsd.evaluate.claims import PAPER, Claim, Finding
from dsd.evaluate.scores import Scores
from dsd.files import make_folder, write_atomic
from dsd.log import console
from dsd.models import embedded_folder, revision_of
from dsd.train.config import TrainConfig
from dsd_world.benchmark import identity_encoder
from dsd_world.fixed import OTHER_KINDS, OTHER_PATTERNS
from dsd_world.tables import error_budget, side_by_side
from dsd_world.tables.config import Row, TablesConfig, ablation_rows, budget_rows, flavour_rows, main_rows
from dsd_world.tables.ingredients import Ingredients
from dsd_world.tables.measured import Measured, find, measure, with_costs

_USED = ("tiny-flux", "tiny-vlm", "tiny-dino", "tiny-clip")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table before it is measured.

    Attributes:
        title: of its page.
        introduction: a sentence on it.
        rows: made from the config.
        budget: of its trainings.
        seeds: of them.
        claims: to test.
        more: measures what is no row, and gives its sections of the page and its part of the Markdown.
        costs: whether seconds and memory are columns.
    """

    title: str
    introduction: str
    rows: Callable[[TablesConfig], list[Row]]
    budget: Callable[[TablesConfig], TrainConfig]
    seeds: Callable[[TablesConfig], tuple[int, ...]]
    claims: Sequence[Claim]
    more: Callable[[Ingredients, Path], tuple[list[report.Section], str]] | None = None
    costs: bool = False


def _than_full(text: str, row: str, metric: str) -> Claim:
    return Claim(text=text, method=row, against="full", metric=metric, less=True)


def _loses(text: str, row: str, before: str) -> Claim:
    return Claim(text=text, method=row, against=before, metric="identity", less=True)


_FIXED = "no captions, no language model"
ABLATIONS = (
    _than_full("without the judge: less identity", "no judge", "identity"),
    _than_full("without chain of thought: less identity", "no chain of thought", "identity"),
    _than_full("without captions and language model: less identity of other kinds", _FIXED, f"identity/{OTHER_KINDS}"),
    _than_full(
        "without captions and language model: less identity of other patterns", _FIXED, f"identity/{OTHER_PATTERNS}"
    ),
    _than_full(
        "without captions and language model: other kinds follow their prompts less",
        _FIXED, f"prompt_following/{OTHER_KINDS}",
    ),
    _than_full("without the reference frame's loss: less identity", "reference weight 0", "identity"),
    _than_full("with the reference frame weighing 0.3: less identity", "reference weight 0.3", "identity"),
    _than_full("ControlNet's architecture: less identity", "ControlNet", "identity"),
    _than_full("ControlNet's architecture: less prompt following", "ControlNet", "prompt_following"),
    _than_full("IP-Adapter's architecture: less identity", "IP-Adapter", "identity"),
    _than_full("a quarter of the pairs: less identity", "a quarter of the pairs", "identity"),
    _than_full("a sixteenth of the pairs: less identity", "a sixteenth of the pairs", "identity"),
)  # fmt: skip
"""What the paper's section 4.3 finds, and what the design of the method rests on."""
FLAVOURS = (
    Claim(text="cached: less identity", method="cached", against="canvas", metric="identity", less=True),
    Claim(
        text="cached: less prompt following", method="cached", against="canvas", metric="prompt_following", less=True
    ),
    Claim(text="cached: fewer seconds", method="cached", against="canvas", metric="seconds_per_image", less=True),
)
"""What a cached reference costs and wins."""
BUDGET = (
    _loses("the autoencoder loses identity", "truth through the autoencoder", "truth"),
    _loses(
        "training and sampling lose identity", "pairs that the world draws", "truth through the autoencoder"
    ),
    _loses(
        "the teacher's drift and crops lose identity",
        "the teacher's, judged by tiny-dino", "pairs that the world draws",
    ),
    Claim(
        text="a judge that keeps the most alike gains identity",
        method="the teacher's, the most alike by tiny-dino", against="the teacher's, judged by tiny-vlm",
        metric="identity",
    ),
    _loses(
        "the judge's errors lose identity",
        "the teacher's, judged by tiny-vlm", "the teacher's, judged by tiny-dino",
    ),
    _loses(
        "no judge loses more", "the teacher's, not judged", "the teacher's, judged by tiny-vlm",
    ),
    Claim(
        text="more denoising steps gain identity",
        method="drawn in four times the steps", against="the teacher's, judged by tiny-vlm", metric="identity",
    ),
)  # fmt: skip


def _stages_and_judge(ingredients: Ingredients, folder: Path) -> tuple[list[report.Section], str]:
    config = ingredients.config
    encoder = identity_encoder()
    found = error_budget.stages(ingredients.candidates, encoder, config.ablation_train.base, config.sheets)
    met = error_budget.verdicts_on(ingredients.candidates)
    examined = error_budget.examine_judge(config.curate, config.judge_pairs)
    seed = config.curate.seed
    return error_budget.write(found, met, examined, folder, seed), error_budget.as_markdown(found, met, examined, seed)


TABLES = {
    "main": Table(
        title="Main table",
        introduction="The student beside the paper's baselines, all on one backbone, one set of pairs and one budget.",
        rows=main_rows,
        budget=lambda config: config.train,
        seeds=lambda config: config.seeds,
        claims=PAPER,
        costs=True,
    ),
    "ablations": Table(
        title="Ablations",
        introduction="Students and other architectures on equally many pairs and steps.",
        rows=ablation_rows,
        budget=lambda config: config.ablation_train,
        seeds=lambda config: config.ablation_seeds,
        claims=ABLATIONS,
    ),
    "flavours": Table(
        title="Flavours",
        introduction="The reference denoised beside the target, as in the paper, or cached as keys and values.",
        rows=flavour_rows,
        budget=lambda config: config.ablation_train,
        seeds=lambda config: config.ablation_seeds,
        claims=FLAVOURS,
        costs=True,
    ),
    "budget": Table(
        title="Error budget",
        introduction="How much identity each stage loses, from what the world can do to what the student does.",
        rows=budget_rows,
        budget=lambda config: config.ablation_train,
        seeds=lambda config: config.ablation_seeds,
        claims=BUDGET,
        more=_stages_and_judge,
    ),
}


def make_table(
    name: str, config: TablesConfig, out: Path, workers: int = 1, *, so_far: bool = False
) -> tuple[list[Scores], list[Finding]]:
    """Trains, draws and measures all rows of a table, or what of it an earlier start left undone.

    Args:
        name: of `TABLES`.
        config: settings; the same for every table of a folder.
        out: gets the ingredients, ``pictures/``, and in a folder of the table's name JSON, CSV, Markdown and a page.
        workers: processes that train and draw.
        so_far: train and draw nothing: the table is made of the trainings that an earlier start has finished.

    Returns:
        The rows, and what became of the claims.

    Raises:
        UserError: the folder holds tables of other settings or models, or so far nothing of a row.
    """
    models = {name: revision_of(embedded_folder(name)) for name in _USED}
    runs.claim(out, config, models, "tables", exactly=True)
    table, ingredients = TABLES[name], Ingredients(config, out)
    rows = table.rows(config)
    found: dict[str, list[Measured]] = {row.name: [] for row in rows}
    jobs = [  # a whole table of the first seed comes first
        (row, seed) for n, seed in enumerate(table.seeds(config)) for row in rows if n == 0 or row.varies
    ]
    if workers > 1 and not so_far:
        side_by_side.make(ingredients, jobs, table.budget(config), workers)
    for row, seed in jobs:
        console.print(f"{name}: {row.name}, seed {seed}", markup=False)
        one = (find if so_far else measure)(ingredients, row, seed, table.budget(config))
        if one is not None:
            found[row.name].append(one)
    if missing := [row for row, of_row in found.items() if not of_row]:
        raise UserError(
            f'"{out}" has no finished training of {", ".join(missing)}; run `dsd evaluate {name}` until it has'
        )
    scores = [Scores.together([one.scores for one in of_row]) for of_row in found.values()]
    if table.costs:
        scores = [
            with_costs(ingredients, row, of_row, table.budget(config), so_far=so_far)
            for row, of_row in zip(rows, scores, strict=True)
        ]
    folder = make_folder(out / name)
    sections, words = table.more(ingredients, folder) if table.more is not None else ([], "")
    findings = tables.write(scores, folder, name, table.claims, models)
    if words:
        write_atomic(folder / "more.md", words)
    page = report.Report(
        title=table.title,
        introduction=table.introduction,
        sheet=compare.sheet(ingredients.benchmark, {name: of_row[0].place for name, of_row in found.items()}),
        scores=scores,
        findings=findings,
        sections=sections,
        settings=_settings(name, config, rows) | {"weights": json.dumps(models)},
    )
    write_atomic(folder / "index.html", report.render(page))
    return scores, findings


def _settings(name: str, config: TablesConfig, rows: Sequence[Row]) -> dict[str, str]:
    values: dict[str, Any] = json.loads(to_json(config))
    return {"table": name, "rows": ", ".join(row.name for row in rows), **{k: json.dumps(v) for k, v in values.items()}}
