"""The stages of the demo: each calls one part of the package and leaves its result in the demo's folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from dsd.baselines import registry
from dsd.baselines.protocol import Drawing, SubjectMethod
from dsd.baselines.setting import Setting
from dsd.curate.funnel import Funnel
from dsd.curate.pipeline import curate
from dsd.data.store import DatasetReader
from dsd.errors import UserError
from dsd.evaluate import pictures, report, tables
from dsd.evaluate.agreement import Agreement, agreement
from dsd.evaluate.measure import EvaluateConfig
from dsd.files import write_atomic
from dsd.log import console
from dsd.models import resolve
from dsd.train.trainer import train
from dsd_world.benchmark import DrawnBenchmark, Truth
from dsd_world.demo_config import DemoConfig
from dsd_world.demo_data import judged_pairs, pair_views, training_curves
from dsd_world.models.student import write_world_captions

_CAPTIONS_FILE = "captions.parquet"
_SHEET_ROWS = 12


def write_captions(config: DemoConfig, out: Path) -> None:
    """Captions of training individuals, in the layout of LAION."""
    write_world_captions(out / _CAPTIONS_FILE, config.curate)


def curate_pairs(config: DemoConfig, out: Path) -> None:
    """Phases 1 and 2."""
    curate(dataclasses.replace(config.curate, captions=str(out / _CAPTIONS_FILE)), out / "dataset")


def train_student(config: DemoConfig, out: Path) -> None:
    """Phase 3."""
    train(config.train, out / "dataset", out / "train")


def methods(config: DemoConfig, out: Path) -> list[SubjectMethod]:
    """The table's rows; a shipped student whose weights are missing is left out with a warning."""
    setting = Setting(
        name="student",
        base=config.train.base,
        drawing=Drawing(
            size=(config.curate.panel_size, config.curate.panel_size),
            max_sequence_length=config.train.max_sequence_length,
            sampling=config.sampling,
            true_guidance=config.teacher_guidance,
        ),
        weights=str(out / "train" / "adapter"),
    )
    rows = [registry.build("student", setting)]
    if config.shipped_student is not None:
        try:
            resolve(config.shipped_student)
        except UserError as error:
            console.print(f"warning: the comparison goes on without the shipped student: {error}")
        else:
            shipped = dataclasses.replace(setting, name="shipped-student", weights=config.shipped_student)
            rows.append(registry.build("student", shipped))
    rows += [registry.build(name, dataclasses.replace(setting, name=name)) for name in ("teacher", "copy")]
    return [*rows, Truth(drawn=_drawn(config))]


def draw_pictures(config: DemoConfig, out: Path) -> None:
    """Every method draws the benchmark, subject by subject."""
    benchmark = _drawn(config).build()
    for method in methods(config, out):
        pictures.draw(benchmark, method, out / "evaluation" / "pictures")


def measure(config: DemoConfig, out: Path) -> None:
    """The table, and the agreement of kept and rejected pairs."""
    benchmark, folder = _drawn(config).build(), out / "evaluation"
    measures = EvaluateConfig(
        identity_encoder=config.identity_encoder,
        agreement_encoder=config.agreement_encoder,
        likeness_encoders={"dino_i": config.identity_encoder},
    )
    ruler = measures.ruler(benchmark)
    scores = [
        ruler.measure(method.name, pictures.draw(benchmark, method, folder / "pictures"))
        for method in methods(config, out)
    ]
    tables.write(scores, folder)
    found = agreement(list(judged_pairs(out / "dataset")), ruler.identity)
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
    values = json.loads((folder / "agreement.json").read_text())
    return None if values is None else Agreement.from_dict(values)


def _drawn(config: DemoConfig) -> DrawnBenchmark:
    return DrawnBenchmark(subjects=config.subjects)


def _sheet(config: DemoConfig, out: Path) -> list[report.SheetRow]:
    """A prompt of each of the first subjects."""
    benchmark = _drawn(config).build()
    shown: dict[str, list[list[Image.Image]]] = {}
    for method in methods(config, out):
        if method.name not in ("copy", "truth"):
            shown[method.name] = pictures.draw(benchmark, method, out / "evaluation" / "pictures").pictures
    rows = []
    for number, subject in enumerate(benchmark.subjects[:_SHEET_ROWS]):
        prompt = number % len(subject.prompts)
        drawn = {name: of_method[number][prompt] for name, of_method in shown.items()}
        columns = {"reference": subject.reference, **drawn, "truth": subject.truths[prompt]}
        rows.append(report.SheetRow(prompt=subject.prompts[prompt], pictures=columns))
    return rows
