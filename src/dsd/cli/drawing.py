"""The settings that `dsd generate` and `dsd serve` share, and the loading of their model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dsd.sampling import Sampling

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
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the transformer's blocks are compiled, which the first picture pays for; "auto" does on a GPU."""
    memory: Literal["auto", "none", "model", "8bit", "4bit", "group", "sequential"] = "auto"
    """How the model is kept where it does not fit: a component, a layer or a few at a time, or in fewer bits; "auto"
    goes by what is free on the device."""

    def __post_init__(self) -> None:
        Sampling(**self.sampled)

    @property
    def sampled(self) -> dict[str, Any]:
        """What is said of how to draw, in place of what the adapter was trained to be drawn with."""
        given = {name: getattr(self, name) for name in ("steps", "text_scale", "image_scale", "guidance")}
        return {name: value for name, value in given.items() if value is not None}

    def words(self) -> str:
        base = "the base that it names" if self.base is None else self.base
        said = ", ".join(f"{name.removesuffix('_scale')} {value:g}" for name, value in self.sampled.items())
        return f"{self.adapter} on {base}" + (f" with {said}" if said else ", drawing as it was trained to")

    def base_name(self) -> str:
        """The text-to-image model, as given or as the adapter names it.

        Raises:
            UserError: The adapter is none.
        """
        from dsd.backbones.adapter import load_metadata
        from dsd.models import resolve

        return load_metadata(resolve(self.adapter)).base if self.base is None else self.base

    def load(self) -> TwoFramePipeline:
        """Loads the pipeline, on a GPU in bfloat16 where there is one."""
        from dsd.devices import default_device, inference_dtype
        from dsd.generate.memory import place
        from dsd.generate.rehearsal import rehearse
        from dsd.generate.speed import speed_up
        from dsd.generate.two_frame import TwoFramePipeline
        from dsd.log import console, quiet_libraries

        quiet_libraries()
        device = default_device()
        base = self.base_name()
        pipeline = TwoFramePipeline.from_pretrained(base, adapter=self.adapter, dtype=inference_dtype(device))
        pipeline.set_progress_bar_config(disable=True)
        plan = place(pipeline, device, self.memory)
        rehearse(pipeline, base)
        done = speed_up(pipeline, self.speed, compile=self.compile)
        usual = (self.speed, self.compile, self.memory) == ("lossless", "auto", "auto")
        for sentence in () if usual and device == "cpu" else (plan.sentence, *done):
            console.print(sentence)
        return pipeline
