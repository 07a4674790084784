"""Draws a given individual in a new scene: reference picture and prompt in, picture out."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ImagePipelineOutput
from diffusers.utils import logging
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dsd import flow
from dsd.backbones.adapter import AdapterMetadata
from dsd.backbones.protocol import Text
from dsd.backbones.registry import TWO_FRAME, backbone_class, drawing_of, family_of, family_of_class
from dsd.backbones.stock import StockBackbone
from dsd.config import did_you_mean
from dsd.errors import UserError
from dsd.frames import Film
from dsd.generate import callbacks, loading, references, saving, words
from dsd.generate.asked import (
    Asked,
    Generators,
    Own,
    Prompts,
    References,
    interval,
    own_of,
    pair_up,
    real,
    whole,
)
from dsd.generate.draw import Drawing, advance
from dsd.generate.shown import Shown, velocity_of
from dsd.images import FITS, MAX_PIXELS, Fit, to_pil
from dsd.limits import MOST_PICTURES
from dsd.sampling import Sampling

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline as _Stock
else:
    _Stock = object

OutputType = Literal["pil", "pt", "np", "latent"]
OUTPUT_TYPES = ("pil", "pt", "np", "latent")
DEFAULT_TEXT_TOKENS = 512
MOST_FRAMES = 1_000
"""Frames of one film that are drawn together."""

logger = logging.get_logger(__name__)


@dataclass
class TwoFrameOutput(ImagePipelineOutput):
    """What was drawn.

    Attributes:
        images: See `TwoFramePipeline.__call__`.
        notes: What was done to references to make them fit the frame, in words.
    """

    notes: list[str]


@dataclass(kw_only=True, eq=False)
class FilmDrawing(Drawing):
    """A `Drawing` of a film.

    Attributes:
        film: Its frames.
        backbone: That it was begun with.
        shown: What the model is told of the given ones.
        attention: What attention layers are told.
        notes: What was done to its references, in words.
    """

    film: Film
    backbone: StockBackbone
    shown: Shown
    attention: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    own: Own
    film: Film
    prompts: list[str]
    encoded: Text | None
    images: references.References
    size: tuple[int, int]
    sampling: Sampling


class TwoFramePipeline(_Stock):
    """A family's stock text-to-image pipeline with a reference picture: all frames are denoised together.

    `from_pretrained` gives an instance of a class that is both this and the stock pipeline, so everything that
    diffusers offers on that works here too (offload, quantisation, further LoRAs).

    A call is `begin`, `advance` until all is drawn, and `finish`; who serves many callers takes the steps himself, and
    drawings of several callers together.

    Example:
        >>> pipe = TwoFramePipeline.from_pretrained("owner/model", adapter="runs/x/adapter")
        >>> pipe("a red cat with a hat at the beach", image="cat.png").images[0].save("beach.png")
    """

    family: str
    adapter: AdapterMetadata | None = None
    most_steps: int | None = None
    """Where a call does not say how many steps to take, at most so many of those that the adapter says."""
    kept: references.Black | None = None
    """Of drawings before, for who owns the pipeline and changes nothing of its autoencoder; None encodes anew."""

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, base: str | Path, adapter: str | Path | None = None, *, fuse: bool = True, **kwargs: Any
    ) -> TwoFramePipeline:
        """Loads a text-to-image model and the adapter that made it a two-frame model.

        Args:
            base: `embedded:NAME`, a folder or a hub id.
            adapter: The folder that training wrote (or `embedded:NAME`); None when `base` is a two-frame model already,
                as `save_pretrained` writes it.
            fuse: Add the adapter to the weights. False loads it as a peft LoRA that diffusers can scale or unload, at
                the price of slower steps; quantised models need it.
            **kwargs: Passed to the stock pipeline's `from_pretrained`, such as `dtype` (float32 by default).

        Raises:
            UserError: The adapter is none, or for another family or shape.
        """
        if not isinstance(base, (str, Path)):
            raise UserError(f"base is {base!r}, but must be embedded:NAME, a folder or a hub id")
        own = pipeline_class(family_of(str(base)))
        stock: Any = super(TwoFramePipeline, own)  # whose loading knows nothing of an adapter
        pipeline, metadata = loading.loaded(
            own, stock.from_pretrained, str(base), None if adapter is None else str(adapter), fuse=fuse, **kwargs
        )
        pipeline.adapter = metadata
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> TwoFramePipeline:
        """A two-frame pipeline of another's components, which are shared.

        Args:
            pipeline: A two-frame pipeline, or a stock one whose transformer is a two-frame model's.
            **kwargs: Passed to the stock pipeline's `from_pipe`, such as components in place of its own.

        Raises:
            UserError: Its class is that of no known family.
        """
        own = pipeline_class(family_of_class(type(pipeline)))
        stock: Any = super(TwoFramePipeline, own)
        made = stock.from_pipe(pipeline, **kwargs)
        made.adapter = getattr(pipeline, "adapter", None)
        return made

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Writes the whole model as the stock pipeline does, and beside it what its adapter was trained for.

        Stock diffusers opens the folder as the family's control pipeline where it has one, else as its text-to-image
        pipeline; the card says so. A LoRA that is loaded and not fused is written into the weights.
        """
        stock: Any = super()
        with saving.with_merged_transformer(self):
            stock.save_pretrained(save_directory, *args, **kwargs)
        saving.write_beside(Path(save_directory), self)

    def to_json_string(self) -> str:
        """The config as stock diffusers reads it: of a class that it knows."""
        stock: Any = super()
        return saving.as_stock(stock.to_json_string(), self)

    @torch.no_grad()
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        prompt: Prompts = None,
        image: References = None,
        *,
        negative_prompt: Prompts = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fit: Fit = "crop",
        text_scale: float | None = None,
        image_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        num_inference_steps: int | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        max_sequence_length: int | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: callbacks.Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **own: Any,
    ) -> TwoFrameOutput | tuple[Any]:
        """Draws the individual of each picture as its prompt says.

        How to sample is, where it is left out, what the adapter was trained to be drawn with; see `dsd.sampling`.

        Args:
            prompt: One, or one a picture.
            image: The references, anything that `dsd.images.load_image` reads. Of a model with one reference: one, or
                one a prompt. Of a model with several: as many as it was trained with, or such a list for each prompt.
                None draws after words alone.
            negative_prompt: What guidance leads away from, in place of the empty prompt; one, or one a picture.
            num_frames: How many frames to draw of each film; by default what the adapter was trained at.
            height: Of the result in pixels; by default what the adapter was trained at, else the first reference's,
                rounded down to what fits.
            width: Likewise.
            fit: What is done to a reference of other proportions: "crop" cuts around its centre, "pad" adds a margin,
                "stretch" distorts it. The result's `notes` say it.
            text_scale: True guidance by the text: how far to go from "image alone" towards "image and text"; 1 is off.
                What a stock pipeline calls true guidance (`true_cfg_scale`, or `guidance_scale` of families without
                embedded guidance) is the same.
            image_scale: True guidance by the image: how far to go from nothing towards "image alone"; 1 is off.
            guidance_interval: Noise levels (lowest, highest) in [0, 1] between which both scales hold.
            num_inference_steps: Euler steps.
            sigmas: Noise levels to visit before the shift, falling from 1; the last step to 0 is added.
            guidance_scale: Embedded guidance of guidance-distilled models. Families without one call true guidance so.
            num_images_per_prompt: Pictures of each prompt; those of one prompt follow one another.
            generator: Randomness: one for the whole batch, or one a picture, and then a picture does not depend on
                what else is in the batch.
            latents: The noise to start from, (b, f, c, h, w); of a cached model f is the frames to draw alone, here and
                below.
            prompt_embeds: Encoded prompts in place of `prompt`, (b, tokens, d).
            pooled_prompt_embeds: Their pooled vectors (b, p), for families that have them.
            negative_prompt_embeds: In place of `negative_prompt`.
            negative_pooled_prompt_embeds: Their pooled vectors.
            max_sequence_length: Text tokens; by default what the adapter was trained at, else 512.
            output_type: "pil" pictures, "pt" a tensor (b, 3, h, w) in [0, 1], "np" an array (b, h, w, 3) in [0, 1], or
                "latent", the normalised latents (b, f, c, h, w) of all frames. Where several frames are drawn, a list
                of them stands for each picture, and (b, t, ...) for (b, ...).
            return_dict: False gives a tuple of the images alone.
            callback_on_step_end: Called as ``callback(pipeline, step, timestep, tensors)`` after each step; tensors
                that it returns replace those that it was given. It may set ``pipeline._interrupt`` to stop.
            callback_on_step_end_tensor_inputs: Which tensors it is given: "latents" (b, f, c, h, w), "prompt_embeds".
            **own: What only this family's stock pipeline has: `prompt_2`, `prompt_3` and their negatives,
                `true_cfg_scale`, `joint_attention_kwargs` or `attention_kwargs`.

        Returns:
            An output with `images` and `notes`.

        Raises:
            UserError: A size that does not fit the autoencoder, numbers of prompts, pictures or generators that do not
                agree, an argument without a meaning here, or a model that is not a two-frame model.
        """
        _require_output(output_type)
        tensors = self._callback_tensor_inputs
        callbacks.require(callback_on_step_end, callback_on_step_end_tensor_inputs, tensors)
        drawings = self.begin(
            Asked(
                prompt=prompt, image=image, negative_prompt=negative_prompt, num_frames=num_frames, height=height,
                width=width, fit=fit, text_scale=text_scale, image_scale=image_scale,
                guidance_interval=guidance_interval, num_inference_steps=num_inference_steps, sigmas=sigmas,
                guidance_scale=guidance_scale, num_images_per_prompt=num_images_per_prompt, generator=generator,
                latents=latents, prompt_embeds=prompt_embeds, pooled_prompt_embeds=pooled_prompt_embeds,
                negative_prompt_embeds=negative_prompt_embeds,
                negative_pooled_prompt_embeds=negative_pooled_prompt_embeds, max_sequence_length=max_sequence_length,
                own=own,
            )
        )  # fmt: skip
        steps = drawings[0].steps
        self._interrupt, self._num_timesteps = False, steps
        bars: Any = self.progress_bar
        with bars(total=steps) as bar:
            while not drawings[0].is_finished and not self._interrupt:
                step, sigma = drawings[0].step, drawings[0].sigmas[drawings[0].step]
                self._current_timestep = 1000 * sigma
                self.advance(drawings)
                if callback_on_step_end is not None:
                    given = callbacks.given(drawings, callback_on_step_end_tensor_inputs)
                    scale = self._guidance_scale
                    changed = callback_on_step_end(self, step, self._current_timestep, given)
                    callbacks.put_back(drawings, changed, tensors)
                    if self._guidance_scale != scale:
                        self._rescale(drawings)
                bar.update()
        self._current_timestep = None
        images = self.finish(drawings, output_type)
        notes = list(dict.fromkeys(note for drawing in drawings for note in drawing.notes))
        return TwoFrameOutput(images=images, notes=notes) if return_dict else (images,)

    def check(self, asked: Asked) -> tuple[int, int]:
        """Finds what is wrong with what is asked, before anything is encoded.

        Returns:
            (height, width) in pixels of what would be drawn.

        Raises:
            UserError: See `__call__`.
        """
        return self._planned(asked).size

    @torch.no_grad()
    def begin(self, asked: Asked) -> list[FilmDrawing]:
        """Reads and encodes what is asked; a drawing for each picture.

        Raises:
            UserError: See `__call__`.
        """
        plan = self._planned(asked)
        film, images, size, sampling = plan.film, plan.images, plan.size, plan.sampling
        count = whole("num_images_per_prompt", asked.num_images_per_prompt)
        if count > MOST_PICTURES:
            raise UserError(f"num_images_per_prompt is {count}, but must be at most {MOST_PICTURES:,}")
        repeated = [n for n in range(len(plan.prompts)) for _ in range(count)]
        _require_generators(asked.generator, len(repeated))
        backbone = self.backbone.held()
        text, no_text = words.read(backbone, asked, plan.own, plan.prompts, plan.encoded, self.max_text_tokens)

        more = {} if plan.own.attention is None else {"joint_attention_kwargs": dict(plan.own.attention)}
        seen = references.seen(backbone, film, images, size, asked.fit, self._encodes, self.kept, **more)
        noise = self._noise(film, seen[0].condition, asked, len(repeated))
        sigmas = self._sigmas(asked, sampling, len(film.denoised_given) * backbone.tokens_per(*size))
        return [
            FilmDrawing(
                latents=noise[place], text=text.take([n]), no_text=no_text.take([n]), sampling=sampling, sigmas=sigmas,
                sees=bool(images[n]), film=film, backbone=backbone, shown=seen[n],
                attention=plan.own.attention, notes=seen[n].notes,
            )
            for place, n in enumerate(repeated)
        ]  # fmt: skip

    @torch.no_grad()
    def advance(self, drawings: Sequence[FilmDrawing]) -> None:
        """Takes one step of each, together where sizes agree.

        Args:
            drawings: Unfinished; of any callers, at any step.
        """
        attention = drawings[0].attention
        more = {} if attention is None else {"joint_attention_kwargs": dict(attention)}
        guidance = [drawing.sampling.guidance for drawing in drawings]
        shown = [drawing.shown for drawing in drawings]
        advance(velocity_of(drawings[0].backbone, shown, guidance, **more), drawings)

    @torch.no_grad()
    def finish(self, drawings: Sequence[FilmDrawing], output_type: OutputType = "pil") -> Any:
        """What was drawn; see `__call__`.

        Args:
            drawings: Of one size.
            output_type: See `__call__`.
        """
        latents = torch.stack([drawing.latents for drawing in drawings])
        images = latents if output_type == "latent" else self._shown(drawings[0].film, latents, output_type)
        self.maybe_free_model_hooks()
        return images

    @torch.no_grad()
    def preview(self, drawing: FilmDrawing) -> Image.Image:
        """What the last frame will probably look like, after at least one step."""
        estimate = drawing.latents if drawing.estimate is None else drawing.estimate
        return to_pil(self.backbone.decode(estimate[-1:]))[0]

    @torch.no_grad()
    def condition(
        self, image: References, height: int | None = None, width: int | None = None
    ) -> Float[Tensor, "b f c h w"]:
        """What the model is told of references: their latents, and on a canvas a black frame's for the frame to draw.

        Frames are encoded one by one, as in training, or together where the adapter was trained so.

        Args:
            image: See `__call__`.
            height: Of one frame in pixels; see `__call__`.
            width: Likewise.
        """
        images = references.read(references.of_films(image, sum(self.film.given)))
        size = self._size(images, height, width)
        seen = references.seen(self.backbone, self.film, images, size, encodes=self._encodes)
        return torch.stack([one.condition for one in seen])

    @property
    def backbone(self) -> StockBackbone:
        """The pipeline's own networks as training sees them."""
        return backbone_class(self.family).from_pipeline(self)

    @property
    def film(self) -> Film:
        """The frames that the model was trained on."""
        return Film.two_frame() if self.adapter is None else self.adapter.film

    @property
    def max_text_tokens(self) -> int:
        """The text tokens that it reads where nothing else is asked."""
        return DEFAULT_TEXT_TOKENS if self.adapter is None else self.adapter.max_sequence_length

    def _planned(self, asked: Asked) -> _Plan:
        self._check()
        own = own_of(self.family, asked)
        if asked.fit not in FITS:
            raise UserError(f'fit is "{asked.fit}"; {did_you_mean(str(asked.fit), FITS)}')
        given, encoded = words.prompts_of(self.backbone, asked)
        prompts, films = pair_up(given, references.of_films(asked.image, sum(self.film.given)))
        images = references.read(films)
        size = self._size(images, asked.height, asked.width)
        return _Plan(
            own=own, film=self._film(asked.num_frames), prompts=prompts, encoded=encoded, images=images, size=size,
            sampling=self._sampling(asked, own),
        )  # fmt: skip

    def _check(self) -> None:
        if not self.backbone.takes_references:
            raise UserError(
                "this model takes no reference picture, it is a plain text-to-image model; give an adapter folder, as "
                'in TwoFramePipeline.from_pretrained(base, adapter="runs/x/adapter")'
            )
        scheduler = self.scheduler
        if type(scheduler) is not FlowMatchEulerDiscreteScheduler or scheduler.config.get("stochastic_sampling"):
            raise UserError(
                f"the pipeline's scheduler is a {type(scheduler).__name__}"
                f"{' with stochastic_sampling' if scheduler.config.get('stochastic_sampling') else ''}, but two-frame "
                "models are drawn with Euler steps; leave FlowMatchEulerDiscreteScheduler in its place"
            )

    def _film(self, num_frames: int | None) -> Film:
        if num_frames is None:
            return self.film
        if (frames := whole("num_frames", num_frames)) > MOST_FRAMES:
            raise UserError(f"num_frames is {frames}, but at most {MOST_FRAMES:,} are drawn together; give fewer")
        return Film.of(sum(self.film.given), frames, flavour=self.film.flavour)

    def _size(self, images: references.References, height: int | None, width: int | None) -> tuple[int, int]:
        reference = next((of_film[0] for of_film in images if of_film), None)
        if self.adapter is not None and self.adapter.frame_size is not None:
            default = self.adapter.frame_size
        elif height is not None and width is not None:
            default = (0, 0)
        else:
            if reference is None:
                raise UserError("this model does not say at what size it draws; give height and width")
            step = self.backbone.pixels_per_token
            default = (max(step, reference.height // step * step), max(step, reference.width // step * step))
        size = (
            default[0] if height is None else whole("height", height, 0),
            default[1] if width is None else whole("width", width, 0),
        )
        self.backbone.check_size(*size)
        if size[0] * size[1] > MAX_PIXELS:
            raise UserError(
                f"a picture of {size[0]}x{size[1]} pixels (height x width) was asked for, but at most "
                f"{MAX_PIXELS / 1_000_000:g} million are drawn; give a smaller height and width"
            )
        return size

    def _sampling(self, asked: Asked, own: Own) -> Sampling:
        """What the adapter was trained to be drawn with, but for what this call says."""
        if own.guidance_scale is not None and not self.backbone.takes_guidance:
            logger.warning("`guidance_scale` has no effect: this model has no embedded guidance; use `text_scale`.")
        steps = asked.num_inference_steps
        if asked.sigmas is not None:
            if not isinstance(asked.sigmas, (Sequence, np.ndarray, Tensor)):
                raise UserError(f"sigmas is {asked.sigmas!r}, but must be a list such as [1.0, 0.7, 0.3]")
            if steps is not None and steps != len(asked.sigmas):
                raise UserError(f"{len(asked.sigmas)} sigmas were given for {steps} steps; give one of them")
            steps = len(asked.sigmas)
        given = {
            "steps": None if steps is None else whole("num_inference_steps", steps),
            "text_scale": real("text_scale", own.text_scale),
            "image_scale": real("image_scale", asked.image_scale),
            "guidance": real("guidance_scale", own.guidance_scale),
            "guidance_interval": interval(asked.guidance_interval),
        }
        usual = Sampling() if self.adapter is None else self.adapter.sampling
        usual = replace(usual, steps=min(usual.steps, self.most_steps or usual.steps))
        sampling = replace(usual, **{name: value for name, value in given.items() if value is not None})
        self._guidance_scale = getattr(sampling, self._scale)
        self._joint_attention_kwargs = self._attention_kwargs = own.attention
        return sampling

    @property
    def _encodes(self) -> Literal["frames", "canvas"]:
        return "frames" if self.adapter is None else self.adapter.encodes

    @property
    def _scale(self) -> str:
        """Which of `Sampling` the stock pipeline calls its guidance_scale."""
        return "text_scale" if drawing_of(self.family).TRUE_GUIDANCE == "guidance_scale" else "guidance"

    def _rescale(self, drawings: Sequence[Drawing]) -> None:
        """After a callback that changed the guidance scale, as stock pipelines allow."""
        scale = real("guidance_scale", self._guidance_scale)
        if scale is None:
            raise UserError("callback_on_step_end set guidance_scale to None, but it must be a number such as 1.5")
        for drawing in drawings:
            drawing.sampling = replace(drawing.sampling, **{self._scale: scale})

    def _sigmas(self, asked: Asked, sampling: Sampling, tokens: int) -> Tensor:
        shift = self.backbone.shift(tokens, sampling.steps)
        if asked.sigmas is None:
            return flow.schedule(sampling.steps, shift)
        levels = [math.nan if sigma is None else real("sigmas", sigma) for sigma in asked.sigmas]
        sigmas = torch.tensor([*levels, 0.0], dtype=torch.float64)
        if not bool((sigmas.diff() < 0).all()) or not 0 < float(sigmas[0]) <= 1:  # so that it holds of NaN too
            raise UserError(
                f"sigmas are {list(asked.sigmas)}, but must fall from at most 1, all above 0, as in [1.0, 0.7, 0.3]"
            )
        return flow.shift_sigmas(sigmas, shift).float()

    def _noise(self, film: Film, condition: Tensor, asked: Asked, count: int) -> Tensor:
        if asked.latents is None:
            return film.noise(condition[:1], asked.generator, count)
        wanted = (count, len(film.denoised_given), *condition.shape[1:])
        if not isinstance(asked.latents, Tensor):
            raise UserError(f"latents is a {type(asked.latents).__name__}, but must be a tensor of the shape {wanted}")
        if tuple(asked.latents.shape) != wanted:
            raise UserError(
                f"latents have the shape {tuple(asked.latents.shape)}, but must be the noise of {count} films, "
                f"{wanted} (pictures, frames, channels, height, width)"
            )
        return asked.latents.to(condition)

    def _shown(self, film: Film, latents: Tensor, output_type: OutputType) -> Any:
        targets = film.drawn(latents)
        pictures = self.backbone.decode(targets.flatten(0, 1))
        count = targets.shape[1]
        if output_type == "pil":
            drawn = to_pil(pictures)
            return drawn if count == 1 else [drawn[at : at + count] for at in range(0, len(drawn), count)]
        unit = ((pictures.float() + 1) / 2).cpu()
        unit = unit if output_type == "pt" else unit.permute(0, 2, 3, 1)
        unit = unit if count == 1 else unit.unflatten(0, (-1, count))
        return unit if output_type == "pt" else unit.numpy()


@functools.cache
def pipeline_class(family: str) -> Any:
    """The class that is both `TwoFramePipeline` and the stock pipeline of a family."""
    stock = backbone_class(family).pipeline_class
    return type(f"{TWO_FRAME}{stock.__name__}", (TwoFramePipeline, stock), {"family": family})


def _require_output(output_type: str) -> None:
    if output_type not in OUTPUT_TYPES:
        raise UserError(f'output_type is "{output_type}", but must be one of {", ".join(OUTPUT_TYPES)}')


def _require_generators(generator: Any, count: int) -> None:
    for one in generator if isinstance(generator, (list, tuple)) else [generator]:
        if not isinstance(one, torch.Generator) and (one is not None or one is not generator):
            raise UserError(
                f"generator holds {one!r}, but must be a torch generator, as in torch.Generator().manual_seed(0), or a "
                "list of them"
            )
    if isinstance(generator, (list, tuple)) and len(generator) != count:
        raise UserError(f"{len(generator)} generators were given for {count} pictures; give one, or one a picture")
