"""Grid prompts to sheets: a plain text-to-image model draws all panels of a sheet in one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.utils import logging

from dsd.curate.config import CurateConfig
from dsd.curate.seeds import derive_seed
from dsd.curate.tasks.registry import task_of
from dsd.data.records import Grid, GridPrompt, Model
from dsd.devices import default_device, inference_dtype
from dsd.errors import UserError
from dsd.generate.text_to_image import TextToImage
from dsd.log import console
from dsd.models import resolve, revision_of


class Teacher:
    """Draws sheets with a plain text-to-image model.

    Args:
        config: names the model and how it draws.
        device: where it runs; by default a GPU when there is one.

    Raises:
        UserError: the model cannot be found or is of no known family, or the panel size does not suit it.
    """

    def __init__(self, config: CurateConfig, device: str | None = None) -> None:
        self._config, self._layout = config, task_of(config.task).layout
        path = resolve(config.teacher)
        device = device or default_device()
        self._model = TextToImage.load(config.teacher, device=device, dtype=inference_dtype(device))
        step = self._model.backbone.pixels_per_token
        if config.panel_size % step:
            raise UserError(f'panel_size is {config.panel_size}, but "{config.teacher}" needs a multiple of {step}')
        revision = revision_of(path) if Path(path).exists() else config.teacher
        self.model = Model(name=config.teacher, revision=revision)

    def draw(self, prompts: Sequence[GridPrompt], seed: int) -> list[Grid]:
        """Draws a sheet after each prompt.

        Args:
            prompts: of one unit.
            seed: of the unit; each sheet's noise depends on it and on the prompt.
        """
        self._warn_of_long_texts(prompts)
        size = self._config.teacher_batch
        return [grid for at in range(0, len(prompts), size) for grid in self._batch(prompts[at : at + size], seed)]

    def _batch(self, prompts: Sequence[GridPrompt], seed: int) -> list[Grid]:
        config = self._config
        seeds = [derive_seed(seed, "sheet", prompt.id) for prompt in prompts]
        with _quiet():
            images = self._model.draw(
                [prompt.text for prompt in prompts],
                size=(self._layout.rows * config.panel_size, self._layout.columns * config.panel_size),
                steps=config.steps,
                true_guidance=config.true_guidance,
                guidance=config.guidance,
                max_sequence_length=config.sheet_text_tokens,
                generators=[torch.Generator().manual_seed(s) for s in seeds],
            )
        return [
            Grid(prompt=prompt.id, image=image, seed=s, teacher=self.model)
            for prompt, image, s in zip(prompts, images, seeds, strict=True)
        ]

    def _warn_of_long_texts(self, prompts: Sequence[GridPrompt]) -> None:
        """The scenes at the end of a text that is cut are not drawn; the pipeline would cut it in silence."""
        limit = self._config.sheet_text_tokens
        lengths = [self._model.text_length(prompt.text) for prompt in prompts]
        longer = sum(length > limit for length in lengths)
        if longer:
            console.print(
                f"warning: {longer} of {len(lengths)} sheet texts are longer than sheet_text_tokens = {limit} "
                f"(up to {max(lengths)}) and were cut",
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' note, for every sheet, that CLIP reads no more than 77 tokens; T5 reads the whole text."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
