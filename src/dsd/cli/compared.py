"""What commands that compare methods have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsd.evaluate.config import EvaluateConfig
from dsd.sampling import Sampling

if TYPE_CHECKING:
    from dsd.evaluate.compare import Competitor


@dataclass(frozen=True, kw_only=True)
class Compared(EvaluateConfig):
    """What the methods of a comparison are told."""

    base: str | None = None
    """The model that the students were made from, also the text-only teacher; read from the adapter when left out."""
    methods: tuple[str, ...] = ()
    """Further methods, such as dreambooth, ip-adapter or controlnet=WEIGHTS. What is trained on pairs needs its weights
    (a folder or hub id), or --pairs to be trained on first; what is fitted to each subject takes seconds for each."""
    pairs: Path | None = None
    """Dataset folder, as `dsd curate` writes it, that further methods are trained on."""
    recipe: str | None = None
    """Whose budget they are trained with."""
    faces: str | None = None
    """Face pack of InstantID."""
    steps: int | None = None
    """Denoising steps; what the first student was trained to be drawn with when left out, as the next two."""
    text_scale: float | None = None
    """True guidance by the text of methods that see a picture; 1 is off."""
    image_scale: float | None = None
    """True guidance by the picture, likewise; 1 is off."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Sampling(**self.sampled)

    @property
    def sampled(self) -> dict[str, Any]:
        """What is said of how to draw, in place of what the first student was trained to be drawn with."""
        given = {"steps": self.steps, "text_scale": self.text_scale, "image_scale": self.image_scale}
        return {name: value for name, value in given.items() if value is not None}


def methods(
    command: Compared, adapters: Sequence[str], out: Path, fits: Mapping[str, Any] | None = None
) -> list[Competitor]:
    """The students, the further methods, the text-only teacher, and the copied reference.

    Args:
        command: what it was told.
        adapters: of the students.
        out: folder for what has to be trained.
        fits: see `dsd.baselines.setting.Setting`.
    """
    from dsd.backbones.adapter import load_metadata
    from dsd.backbones.registry import family_of, part_of
    from dsd.baselines import registry
    from dsd.baselines.protocol import Drawing
    from dsd.baselines.setting import Setting
    from dsd.data.pairs import PairRows
    from dsd.devices import default_device
    from dsd.errors import UserError
    from dsd.evaluate.compare import Competitor
    from dsd.files import require_outside
    from dsd.models import resolve
    from dsd.recipes.registry import recipe

    if not adapters or len(set(adapters)) < len(adapters):
        raise UserError(f"--adapter got {list(adapters)}, but must name one student or several different ones")
    metadata = load_metadata(resolve(adapters[0]))
    base, size = command.base or metadata.base, metadata.frame_size
    require_outside(out, resolve(base), "the base's folder")
    for adapter in adapters:
        require_outside(out, resolve(adapter), "the adapter's folder")
    require_outside(out, command.pairs, "the dataset's folder")
    for method in command.methods:  # before anything is drawn
        for part in registry.entry_of(method.partition("=")[0]).parts:
            part_of(family_of(base), part)
    for adapter in adapters:
        if (given := sum(load_metadata(resolve(adapter)).film.given)) != 1:
            raise UserError(
                f'the adapter "{adapter}" was trained with {given} reference pictures, but a comparison gives each '
                "method one; give an adapter of one reference"
            )
    if size is None:
        raise UserError(f'the adapter "{adapters[0]}" does not say at what size it was trained; train it again')
    if command.pairs is not None and command.recipe is None:
        raise UserError("--pairs are given to train further methods on; give --recipe too, whose budget they take")
    setting = Setting(
        name="",
        base=base,
        drawing=Drawing(
            size=size,
            max_sequence_length=metadata.max_sequence_length,
            sampling=replace(metadata.sampling, **command.sampled),
            true_guidance=command.teacher_guidance,
        ),
        data=() if command.pairs is None else PairRows(command.pairs, out / "methods" / "rows"),
        budget=None
        if command.recipe is None
        else replace(
            recipe(command.recipe).train,
            base=base,
            max_sequence_length=metadata.max_sequence_length,
            frame_size=size,
            mixed_precision="bf16" if default_device() == "cuda" else "no",
        ),
        runs=out / "methods",
        vision=command.vision,
        faces=command.faces,
        captioner=command.captioner,
        fits=fits or {},
    )
    names = ["student"] if len(adapters) == 1 else list(adapters)
    students = [("student", name, adapter) for name, adapter in zip(names, adapters, strict=True)]
    named = [method.partition("=") for method in (*command.methods, "teacher", "copy")]
    return [
        Competitor(
            name=name,
            build=partial(registry.build, method, replace(setting, name=name, weights=weights or None)),
            trained=registry.entry_of(method).trained and not weights,
        )
        for method, name, weights in (*students, *((method, method, weights) for method, _, weights in named))
    ]
