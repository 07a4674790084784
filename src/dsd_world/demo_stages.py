"""The stages of the demo: each calls one part of the package and leaves its result in the demo's folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from dsd.baselines import registry
from dsd.baselines.protocol import Drawing
from dsd.baselines.setting import Setting
from dsd.curate.funnel import Funnel
from dsd.curate.pipeline import curate
from dsd.data.store import DatasetReader
from dsd.errors import UserError
from dsd.evaluate import compare, report, tables
from dsd.evaluate.agreement import Agreement, agreement
from dsd.evaluate.compare import Competitor
from dsd.files import write_atomic
from dsd.log import console
from dsd.models import resolve
from dsd.train.trainer import train
from dsd_world.benchmark import DrawnBenchmark, Truth, identity_encoder
from dsd_world.demo_config import DemoConfig
from dsd_world.demo_data import judged_pairs, pair_views, training_curves
from dsd_world.models.student import write_world_captions

_CAPTIONS_FILE = "captions.parquet"


def write_captions(config: DemoConfig, out: Path) -> None:
    """Captions of training individuals, in the layout of LAION."""
    write_world_captions(out / _CAPTIONS_FILE, config.curate)


def curate_pairs(config: DemoConfig, out: Path) -> None:
    """Phases 1 and 2."""
    curate(dataclasses.replace(config.curate, captions=str(out / _CAPTIONS_FILE)), out / "dataset")


def train_student(config: DemoConfig, out: Path) -> None:
    """Phase 3."""
    train(config.train, out / "dataset", out / "train")


def rows(config: DemoConfig, out: Path) -> list[Competitor]:
    """The table's rows; a shipped student whose weights are missing is left out with a warning."""
    setting = Setting(
        name="student",
        base=config.train.base,
        drawing=Drawing(
            size=(config.curate.panel_size, config.curate.panel_size),
            max_sequence_length=config.train.max_sequence_length,
            sampling=config.sampling,
            true_guidance=config.evaluate.teacher_guidance,
        ),
        weights=str(out / "train" / "adapter"),
    )
    methods = [("student", setting)]
    if config.shipped_student is not None:
        try:
            resolve(config.shipped_student)
        except UserError as error:
            console.print(f"warning: the comparison goes on without the shipped student: {error}")
        else:
            shipped = dataclasses.replace(setting, name="shipped-student", weights=config.shipped_student)
            methods.append(("student", shipped))
    plain = dataclasses.replace(setting, weights=None)
    methods += [(name, dataclasses.replace(plain, name=name)) for name in ("teacher", "copy")]
    return [
        *(Competitor(name=s.name, build=partial(registry.build, method, s)) for method, s in methods),
        Competitor(name="truth", build=partial(Truth, drawn=_drawn(config))),
    ]


def draw_pictures(config: DemoConfig, out: Path) -> None:
    """Every method draws the benchmark, subject by subject."""
    benchmark = _drawn(config).build()
    for row in rows(config, out):
        compare.drawn(row, benchmark, out / "evaluation", config.evaluate.apart)


def measure(config: DemoConfig, out: Path) -> None:
    """The table with its pictures, and the agreement of kept and rejected pairs."""
    folder = out / "evaluation"
    compared = compare.compare(config.evaluate, _drawn(config).build(), rows(config, out), folder)
    tables.write(compared.scores, folder, models=compared.models)
    shown = {name: str(place.relative_to(out)) for name, place in compared.places.items()}
    write_atomic(folder / "places.json", json.dumps(shown) + "\n")
    found = agreement(list(judged_pairs(out / "dataset")), identity_encoder())
    write_atomic(folder / "agreement.json", json.dumps(None if found is None else dataclasses.asdict(found)) + "\n")


def write_report(config: DemoConfig, out: Path, seconds: Mapping[str, float]) -> None:
    """``report/index.html`` from what the other stages left."""
    training, held_out = training_curves(out / "train" / "metrics.jsonl")
    sampling = config.sampling
    page = report.Report(
        title="Diffusion self-distillation on a laptop",
        introduction=(
            "The teacher drew sheets of one individual, a vision-language model kept the pairs that agree, and the "
            "student learned from them to draw the one in the reference under a new sentence."
        ),
        funnel=Funnel.from_dict(DatasetReader(out / "dataset").funnel()).counts(),
        pairs=list(pair_views(out / "dataset")),
        training=training,
        held_out=held_out,
        sheet=_sheet(config, out),
        scores=tables.read(out / "evaluation"),
        agreement=read_agreement(out / "evaluation"),
        seconds=seconds,
        settings={
            "teacher and base": config.train.base,
            "chat model": config.curate.chat,
            "judge": config.curate.judge,
            "training": f"{config.train.steps} steps of {config.train.batch_size} pairs",
            "drawing": f"{sampling.steps} steps, text scale {sampling.text_scale}, image scale {sampling.image_scale}",
            "subjects": f"{config.subjects} of the evaluation split, 4 prompts each",
        },
    )
    write_atomic(out / "report" / "index.html", report.render(page))


def write_summary(out: Path, seconds: Mapping[str, float]) -> None:
    """``summary.json``: funnel, training, methods and seconds."""
    training, held_out = training_curves(out / "train" / "metrics.jsonl")
    summary = {
        "funnel": DatasetReader(out / "dataset").funnel(),
        "train": {
            "steps": training[-1][0] if training else 0,
            "loss": training[-1][1] if training else None,
            "held_out_loss": held_out[-1][1] if held_out else None,
        },
        "methods": tables.by_method(tables.read(out / "evaluation")),
        "seconds": dict(seconds),
    }
    write_atomic(out / "summary.json", json.dumps(summary, indent=2) + "\n")


def read_agreement(folder: Path) -> Agreement | None:
    """What `measure` found of kept and rejected pairs."""
    values = json.loads((folder / "agreement.json").read_text(encoding="utf-8"))
    return None if values is None else Agreement.from_dict(values)


def _drawn(config: DemoConfig) -> DrawnBenchmark:
    return DrawnBenchmark(subjects=config.subjects)


def _sheet(config: DemoConfig, out: Path) -> list[report.SheetRow]:
    """A prompt of each of some subjects."""
    places = json.loads((out / "evaluation" / "places.json").read_text(encoding="utf-8"))
    return compare.sheet(
        _drawn(config).build(), {name: out / place for name, place in places.items() if name != "copy"}
    )
