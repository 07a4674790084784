"""What the methods of the tables are made of: datasets, a face pack, the benchmark; each made once and kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from dsd.baselines import registry
from dsd.baselines.faces import Faces
from dsd.baselines.protocol import Drawing, SubjectMethod
from dsd.baselines.setting import Setting
from dsd.curate.pairs import DIFFERENT
from dsd.curate.pipeline import curate
from dsd.data.pairs import PairRows
from dsd.data.records import Example
from dsd.evaluate.benchmark import Benchmark
from dsd.evaluate.compare import bench_of
from dsd.evaluate.measure import Ruler
from dsd.files import write_atomic
from dsd.train.config import TrainConfig
from dsd.train.trainer import latent_cache
from dsd_world.benchmark import DecodedTruth, DrawnBenchmark, Truth, identity_encoder
from dsd_world.captions import panel_captions
from dsd_world.drawn_pairs import drawn_pairs
from dsd_world.fits import FITS
from dsd_world.individuals import sample_individuals, sample_scenes
from dsd_world.models.student import FIRST_CAPTION, write_world_captions
from dsd_world.recipe import tiny
from dsd_world.tables.candidates import Candidate, candidates
from dsd_world.tables.config import Row, Source, TablesConfig
from dsd_world.training import train_model

_PRIORS = 32
_VISION = "embedded:tiny-vlm"


class Ingredients:
    """Makes what a row needs, or finds what an earlier start made.

    Args:
        config: of the tables.
        out: gets ``captions.parquet``, ``candidates.json``, ``data/``, ``faces/`` and ``methods/``.
    """

    def __init__(self, config: TablesConfig, out: Path) -> None:
        self.config, self.out = config, out
        self.drawn = DrawnBenchmark(subjects=config.subjects, beside_fixed=True)
        self._shared: set[Path] = set()

    @cached_property
    def benchmark(self) -> Benchmark:
        """The held-out individuals."""
        return self.drawn.build()

    @cached_property
    def ruler(self) -> Ruler:
        """The benchmark's measure."""
        return Ruler(bench_of(tiny().evaluate, self.benchmark, self.out, Faces(self.faces)))

    @cached_property
    def faces(self) -> str:
        """Folder of the face pack."""
        folder = self.out / "faces" / "model"
        if not folder.exists():
            train_model("face", steps=self.config.face_steps, run=self.out / "faces")
        return str(folder)

    def method(self, row: Row, seed: int, budget: TrainConfig) -> SubjectMethod:
        """The method of a row, trained where it has to be.

        Args:
            row: of a table.
            seed: of the training.
            budget: of it, before the row's changes.
        """
        if row.method == "truth":
            return Truth(drawn=self.drawn)
        if row.method == "truth-decoded":
            return DecodedTruth(drawn=self.drawn, base=budget.base)
        return registry.build(row.method, self._setting(row, seed, budget))

    def make_shared(self) -> None:
        """Makes what all rows are measured with, so that processes find it and do not make it at the same time."""
        _ = self.faces

    def share(self, row: Row, budget: TrainConfig) -> None:
        """Makes what a row has in common with others: the pairs and their latents, the face pack.

        Args:
            row: of a table.
            budget: of its training.
        """
        if not self._trained(row):
            return
        setting = self._setting(row, budget.seed, budget)
        training = setting.training()
        if training.latents not in self._shared:
            latent_cache(budget, training.pairs, training.latents, torch.device(setting.device))
            self._shared.add(training.latents)

    def _setting(self, row: Row, seed: int, budget: TrainConfig) -> Setting:
        budget = dataclasses.replace(budget, seed=seed, **row.changes)  # pyright: ignore[reportArgumentType]
        return Setting(
            name=self.key(row, budget),
            base=budget.base,
            drawing=self._drawing(row, budget),
            data=self.pairs(row.source, row.pairs) if self._trained(row) else (),
            budget=budget,
            runs=self.out / "methods",
            faces=self.faces if row.method == "instantid" else None,
            vision=_VISION,
            captioner=_VISION,
            fits=FITS,
            prior_prompts=prior_prompts(),
            seed=seed,
        )

    def _drawing(self, row: Row, budget: TrainConfig) -> Drawing:
        config = self.config
        sampling = replace(config.sampling, steps=row.steps or config.sampling.steps)
        if row.scales is not None:
            sampling = replace(sampling, text_scale=row.scales[0], image_scale=row.scales[1])
        return Drawing(
            size=(config.curate.panel_size, config.curate.panel_size),
            max_sequence_length=budget.max_sequence_length,
            sampling=sampling,
            true_guidance=config.teacher_guidance,
        )

    def key(self, row: Row, budget: TrainConfig) -> str:
        """Names what is drawn with by all that decides it but the seed: rows that share it share its training."""
        if not self._trained(row):
            return row.method
        changes = "".join(
            f"-{name}={value if isinstance(value, str) else f'{value:g}'}" for name, value in row.changes.items()
        )
        return f"{row.method}-{row.source}-{row.pairs or 'all'}x{budget.steps}{changes}"

    def drawn_key(self, row: Row, budget: TrainConfig) -> str:
        """Names what is drawn by all that decides it but the seed."""
        sampling, guided = self._drawing(row, budget).sampling, f"{self.config.teacher_guidance:g}"
        return f"{self.key(row, budget)}-{sampling.steps}-{sampling.text_scale:g}-{sampling.image_scale:g}-{guided}"

    def pairs(self, source: Source, limit: int | None) -> Sequence[Example]:
        """The pairs of a source, at most ``limit`` of them."""
        cache = self.out / "data" / "rows"
        if source == "drawn":
            return drawn_pairs(limit or self.config.ablation_pairs, FIRST_CAPTION)
        if source in ("oracle", "alike"):
            ids = self._same if source == "oracle" else self._most_alike(limit)
            return PairRows(self.dataset("judged"), cache, refused=DIFFERENT, only=ids, limit=limit)
        refused = DIFFERENT if source == "unjudged" else None
        return PairRows(self.dataset(source), cache, refused=refused, limit=limit)

    def dataset(self, source: Source) -> Path:
        """The folder of a curated dataset."""
        config = self.config.curate
        changes = {
            "direct": {"chain_of_thought": False, "units": self.config.ablation_units},
            "fixed": {
                "themes": self.config.themes,
                "subjects": self.config.fixed_subjects,
                "units": self.config.ablation_units,
            },
        }
        name = source if source in changes else "judged"
        folder, captions = self.out / "data" / name, self.out / "captions.parquet"
        if not captions.exists():
            write_world_captions(captions, config, FIRST_CAPTION)
        if not (folder / "manifest.json").exists():
            curate(dataclasses.replace(config, captions=str(captions), **changes.get(name, {})), folder)
        return folder

    @staticmethod
    def _trained(row: Row) -> bool:
        entry = registry.METHODS.get(row.method)
        return entry is not None and entry.trained

    @cached_property
    def candidates(self) -> list[Candidate]:
        """What the judge met, with identities by tiny-dino."""
        path = self.out / "candidates.json"
        if not path.exists():
            found = candidates(self.dataset("judged"), identity_encoder())
            write_atomic(path, json.dumps([dataclasses.asdict(candidate) for candidate in found]) + "\n")
            return found
        return [Candidate(**{**row, "ids": tuple(row["ids"])}) for row in json.loads(path.read_text(encoding="utf-8"))]

    @property
    def _same(self) -> set[str]:
        """Ids of candidates whose two panels tiny-dino finds the same."""
        return {name for candidate in self.candidates if candidate.same for name in candidate.ids}

    def _most_alike(self, limit: int | None) -> set[str]:
        """Ids of the candidates whose two panels tiny-dino finds the most alike."""
        ranked = sorted(self.candidates, key=lambda candidate: -candidate.identity)
        return set([name for candidate in ranked for name in candidate.ids][:limit])


def prior_prompts() -> tuple[str, ...]:
    """For prior preservation: captions of individuals of all kinds, for a model of one world has one class."""
    index = torch.arange(_PRIORS)
    return tuple(panel_captions(sample_individuals("training", index), sample_scenes("training", index)))
