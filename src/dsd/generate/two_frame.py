"""Draws a given individual in a new scene: reference picture and prompt in, picture out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from diffusers import ImagePipelineOutput
from diffusers.utils import logging
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from dsd.backbones.adapter import (
    FULL_FOLDER,
    METADATA_FILE,
    WEIGHTS_FILE,
    AdapterMetadata,
    apply_adapter,
    is_full,
    load_adapter,
    load_metadata,
    require_family,
    warn_of_another_base,
)
from dsd.backbones.protocol import Text
from dsd.backbones.registry import TWO_FRAME, backbone_class, family_of
from dsd.backbones.stock import StockBackbone
from dsd.config import to_json
from dsd.errors import UserError
from dsd.files import write_atomic
from dsd.frames import Film
from dsd.generate.draw import draw, shown
from dsd.images import ImageSource, load_image, to_pil, to_tensor
from dsd.models import resolve
from dsd.sampling import Sampling
from dsd.weights import load, load_pipeline

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline as _Stock
else:
    _Stock = object

Item = TypeVar("Item")
Generators = torch.Generator | Sequence[torch.Generator] | None
OutputType = Literal["pil", "pt", "np", "latent"]
OUTPUT_TYPES = ("pil", "pt", "np", "latent")
DEFAULT_TEXT_TOKENS = 512

logger = logging.get_logger(__name__)


class TwoFramePipeline(_Stock):
    """A family's stock text-to-image pipeline with a reference picture: all frames are denoised together.

    `from_pretrained` gives an instance of a class that is both this and the stock pipeline, so everything that
    diffusers offers on that works here too (offload, quantisation, further LoRAs).

    Example:
        >>> pipe = TwoFramePipeline.from_pretrained("owner/model", adapter="runs/x/adapter")
        >>> pipe("a red cat with a hat at the beach", image="cat.png").images[0].save("beach.png")
    """

    family: str
    adapter: AdapterMetadata | None = None

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, base: str, adapter: str | Path | None = None, *, fuse: bool = True, **kwargs: Any
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
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", torch.float32))  # the second goes in diffusers 1.0
        family = family_of(base)
        own, backbone = pipeline_class(family), backbone_class(family)
        folder = None if adapter is None else resolve(str(adapter))
        metadata = None if folder is None else load_metadata(folder)
        if folder is not None and metadata is not None:
            require_family(metadata, family, folder)
            warn_of_another_base(metadata, base, folder)
            if is_full(folder):
                kwargs["transformer"] = load(backbone.transformer_class(), folder, subfolder=FULL_FOLDER, dtype=dtype)
        stock: Any = super(TwoFramePipeline, own)  # whose loading knows nothing of an adapter
        pipeline = load_pipeline(own, resolve(base), stock.from_pretrained, dtype=dtype, **kwargs)
        if folder is not None and not is_full(folder):
            if fuse:
                apply_adapter(backbone.from_pipeline(pipeline), folder)
            else:
                load_adapter(folder)  # refuses what diffusers would take
                backbone.from_pipeline(pipeline).widen()
                pipeline.load_lora_weights(folder, weight_name=WEIGHTS_FILE)
        if metadata is None and (Path(resolve(base)) / METADATA_FILE).is_file():
            metadata = load_metadata(resolve(base))
        pipeline.adapter = metadata
        return pipeline

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Writes the whole model as the stock pipeline does, and beside it what its adapter was trained for."""
        super().save_pretrained(save_directory, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if self.adapter is not None:
            write_atomic(Path(save_directory) / METADATA_FILE, to_json(self.adapter))

    @torch.no_grad()
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        prompt: str | Sequence[str],
        image: ImageSource | Sequence[ImageSource] | Sequence[Sequence[ImageSource]],
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        text_scale: float | None = None,
        image_scale: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        max_sequence_length: int | None = None,
        output_type: OutputType = "pil",
    ) -> ImagePipelineOutput:
        """Draws the individual of each picture as its prompt says.

        How to sample is, where it is left out, what the adapter was trained to be drawn with; see `dsd.sampling`.

        Args:
            prompt: One, or one a picture.
            image: The references, anything that `dsd.images.load_image` reads. Of a model with one reference: one, or
                one a prompt. Of a model with several: as many as it was trained with, or such a list for each prompt.
            num_frames: How many frames to draw of each film; by default what the adapter was trained at.
            height: Of the result in pixels; by default what the adapter was trained at, else the first reference's,
                rounded down to what fits. References of other proportions are cropped around their centre.
            width: Likewise.
            text_scale: True guidance by the text: how far to go from "image alone" towards "image and text"; 1 is off.
            image_scale: True guidance by the image: how far to go from nothing towards "image alone"; 1 is off.
            num_inference_steps: Euler steps.
            guidance_scale: Embedded guidance of guidance-distilled models.
            generator: Randomness: one for the whole batch, or one a picture, and then a picture does not depend on
                what else is in the batch.
            max_sequence_length: Text tokens; by default what the adapter was trained at, else 512.
            output_type: "pil" pictures, "pt" a tensor (b, 3, h, w) in [0, 1], "np" an array (b, h, w, 3) in [0, 1], or
                "latent", the normalised latents (b, f, c, h, w) of all frames. Where several frames are drawn, a list
                of them stands for each picture, and (b, t, ...) for (b, ...).

        Returns:
            An output with `images`.

        Raises:
            UserError: A size that does not fit the autoencoder, numbers of prompts, pictures or generators that do not
                agree, or a model that is not a two-frame model.
        """
        self._check(output_type)
        film = self._film(num_frames)
        prompts, references = _pair_up(_listed(prompt), self._of_films(image))
        images = [[load_image(reference) for reference in of_film] for of_film in references]
        size = self._size(images[0][0] if images[0] else None, height, width)
        sampling = self._sampling(num_inference_steps, text_scale, image_scale, guidance_scale)

        condition = self._condition(film, images, size)
        noise = self._noise(film, condition, generator)
        latents = self._sample(noise, condition, prompts, max_sequence_length, size, sampling)

        result = latents if output_type == "latent" else self._finish(film, latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=result)  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def condition(
        self,
        image: ImageSource | Sequence[ImageSource] | Sequence[Sequence[ImageSource]],
        height: int | None = None,
        width: int | None = None,
    ) -> Float[Tensor, "b f c h w"]:
        """What the model is told of references: their latents, and a black frame's in place of the frame to draw.

        Frames are encoded one by one, as in training.

        Args:
            image: See `__call__`.
            height: Of one frame in pixels; see `__call__`.
            width: Likewise.
        """
        images = [[load_image(reference) for reference in of_film] for of_film in self._of_films(image)]
        return self._condition(self.film, images, self._size(images[0][0], height, width))

    @property
    def backbone(self) -> StockBackbone:
        """The pipeline's own networks as training sees them."""
        return backbone_class(self.family).from_pipeline(self)

    @property
    def film(self) -> Film:
        """The frames that the model was trained on."""
        return Film.two_frame() if self.adapter is None else self.adapter.film

    def _check(self, output_type: str) -> None:
        if not self.backbone.is_widened:
            raise UserError(
                "this model takes no reference picture, it is a plain text-to-image model; give an adapter folder, as "
                'in TwoFramePipeline.from_pretrained(base, adapter="runs/x/adapter")'
            )
        if output_type not in OUTPUT_TYPES:
            raise UserError(f'output_type is "{output_type}", but must be one of {", ".join(OUTPUT_TYPES)}')

    def _film(self, num_frames: int | None) -> Film:
        if num_frames is None:
            return self.film
        if num_frames < 1:
            raise UserError(f"num_frames is {num_frames}, but at least 1 frame has to be drawn")
        return Film.of(sum(self.film.given), num_frames)

    def _of_films(self, image: Any) -> list[list[Any]]:
        """The references of each film."""
        count, given = sum(self.film.given), _listed(image)
        if given and isinstance(given[0], (list, tuple)):
            films = [list(of_film) for of_film in given]
        else:
            films = [[one] for one in given] if count == 1 else [given]
        for of_film in films:
            if len(of_film) != count:
                raise UserError(
                    f"{len(of_film)} reference pictures were given for one result, but this model was trained with "
                    f"{count}; give {count}"
                )
        return films

    def _size(self, reference: Image.Image | None, height: int | None, width: int | None) -> tuple[int, int]:
        if self.adapter is not None and self.adapter.frame_size is not None:
            default = self.adapter.frame_size
        else:
            if reference is None:
                raise UserError("this model does not say at what size it draws; give height and width")
            step = self.backbone.pixels_per_token
            default = (max(step, reference.height // step * step), max(step, reference.width // step * step))
        size = (default[0] if height is None else height, default[1] if width is None else width)
        self.backbone.check_size(*size)
        return size

    def _sampling(
        self, steps: int | None, text_scale: float | None, image_scale: float | None, guidance: float | None
    ) -> Sampling:
        """What the adapter was trained to be drawn with, but for what this call says."""
        if guidance is not None and not self.backbone.takes_guidance:
            logger.warning("`guidance_scale` has no effect: this model has no embedded guidance; use `text_scale`.")
        given = {"steps": steps, "text_scale": text_scale, "image_scale": image_scale, "guidance": guidance}
        usual = Sampling() if self.adapter is None else self.adapter.sampling
        sampling = replace(usual, **{name: value for name, value in given.items() if value is not None})
        self._guidance_scale = sampling.guidance
        return sampling

    def _condition(self, film: Film, images: Sequence[Sequence[Image.Image]], size: tuple[int, int]) -> Tensor:
        """The condition [references | black], frames encoded one by one."""
        flat = [image for of_film in images for image in of_film]
        fitting = [ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS) for image in flat]
        empty = self.backbone.encode(torch.full((1, 3, *size), -1.0))
        if not fitting:
            return film.condition(empty.new_empty(len(images), 0, *empty.shape[1:]), empty)
        references = self.backbone.encode(to_tensor(fitting)).unflatten(0, (len(images), -1))
        return film.condition(references, empty)

    def _noise(self, film: Film, condition: Tensor, generator: Generators) -> Tensor:
        if isinstance(generator, Sequence) and len(generator) != len(condition):
            raise UserError(
                f"{len(generator)} generators were given for {len(condition)} pictures; give one, or one a picture"
            )
        return film.noise(condition[:, 0], generator, len(condition))

    def _sample(
        self,
        noise: Tensor,
        condition: Tensor,
        prompts: Sequence[str],
        max_sequence_length: int | None,
        size: tuple[int, int],
        sampling: Sampling,
    ) -> Tensor:
        backbone = self.backbone
        trained = DEFAULT_TEXT_TOKENS if self.adapter is None else self.adapter.max_sequence_length
        encoded = backbone.encode_text([*prompts, ""], trained if max_sequence_length is None else max_sequence_length)
        guidance = sampling.guidance if backbone.takes_guidance else None

        def velocity(latents: Tensor, sigma: Tensor, text: Text, keep: Tensor) -> Tensor:
            return backbone.velocity(latents, sigma, text, shown(condition, keep), guidance)

        shift = backbone.shift(noise.shape[1] * backbone.tokens_per(*size), sampling.steps)
        bars: Any = self.progress_bar
        with bars(total=sampling.steps) as bar:
            return draw(
                velocity, noise, encoded.take(slice(-1)), encoded.take(slice(-1, None)), sampling, shift,
                callback=lambda step, latents: bar.update(),
            )  # fmt: skip

    def _finish(self, film: Film, latents: Tensor, output_type: OutputType) -> Any:
        targets = film.targets(latents)
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


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _pair_up(prompts: list[str], images: list[Item]) -> tuple[list[str], list[Item]]:
    count = max(len(prompts), len(images))
    if not prompts or not images or {len(prompts), len(images)} - {1, count}:
        raise UserError(
            f"{len(prompts)} prompts and {len(images)} reference pictures were given; give as many of both, or one of "
            "either"
        )
    return prompts * (count // len(prompts)), images * (count // len(images))
