"""The settings that `dsd generate` and `dsd serve` share, and the loading of their model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from dsd.config import require_seeds

if TYPE_CHECKING:
    from dsd.generate.two_frame import TwoFramePipeline


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which two-frame model draws, and how."""

    base: str | None = None
    """The text-to-image model (embedded:NAME, a folder or a hub id); read from the adapter when left out."""
    adapter: str
    """Adapter folder, as training writes it."""
    steps: int | None = None
    """Denoising steps; what the adapter was trained to be drawn with when left out, as the next three."""
    text_scale: float | None = None
    """True guidance by the text; 1 is off."""
    image_scale: float | None = None
    """True guidance by the picture; 1 is off."""
    guidance: float | None = None
    """Embedded guidance of guidance-distilled models."""
    speed: Literal["lossless", "fast", "turbo"] = "lossless"
    """What may be lost for speed: nothing; precision of the weights; also steps that change little."""

    def words(self) -> str:
        base = "the base that it names" if self.base is None else self.base
        given = {"steps": self.steps, "text": self.text_scale, "image": self.image_scale, "guidance": self.guidance}
        said = ", ".join(f"{name} {value:g}" for name, value in given.items() if value is not None)
        return f"{self.adapter} on {base}" + (f" with {said}" if said else ", drawing as it was trained to")

    def load(self) -> TwoFramePipeline:
        """Loads the pipeline, on a GPU in bfloat16 where there is one."""
        from dsd.backbones.adapter import load_metadata
        from dsd.devices import default_device, inference_dtype
        from dsd.generate.speed import speed_up
        from dsd.generate.two_frame import TwoFramePipeline
        from dsd.log import quiet_libraries
        from dsd.models import resolve

        quiet_libraries()
        base = self.base or load_metadata(resolve(self.adapter)).base
        device = default_device()
        pipeline = TwoFramePipeline.from_pretrained(base, adapter=self.adapter, dtype=inference_dtype(device))
        pipeline.set_progress_bar_config(disable=True)
        speed_up(pipeline.to(device), self.speed)
        return pipeline

    def draw(
        self,
        pipeline: TwoFramePipeline,
        references: Sequence[Image.Image],
        prompts: Sequence[str],
        seeds: Sequence[int],
        size: tuple[int | None, int | None] = (None, None),
        frames: int | None = None,
    ) -> list[list[Image.Image]]:
        """Draws the frames of a film for each prompt and seed; a film does not depend on the others.

        Args:
            pipeline: As `load` returned it.
            references: Who is to be drawn, as many as the model was trained with.
            prompts: One a film.
            seeds: One a film.
            size: (height, width) of a frame in pixels; None leaves it to the model.
            frames: To draw of each film; None leaves it to the model.
        """
        import torch

        for seed in seeds:
            require_seeds("seed", seed)
        result: Any = pipeline(
            list(prompts),
            [list(references)] * len(prompts),
            num_frames=frames,
            height=size[0],
            width=size[1],
            text_scale=self.text_scale,
            image_scale=self.image_scale,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        )
        return [drawn if isinstance(drawn, list) else [drawn] for drawn in result.images]
