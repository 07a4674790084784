"""`dsd serve`: the model behind the OpenAI images API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from dsd.cli.drawing import Model
from dsd.errors import import_extra
from dsd.recipes.recipe import Recipe
from dsd.recipes.registry import first_and_named


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serves POST /v1/images/edits (multipart: image, prompt, n, size, seed), GET /v1/models and GET /health."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    model: Model
    """The two-frame model."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Serve]]:
    return first_and_named(_of)


def _of(recipe: Recipe) -> Serve:
    return Serve(model=Model(adapter=recipe.adapter))


def plan(command: Serve) -> list[str]:
    return [f"load {command.model.words()}", f"listen on http://{command.host}:{command.port} until interrupted"]


def run(command: Serve) -> None:
    for module in ("fastapi", "python_multipart", "uvicorn"):
        import_extra(module, "serve")
    import torch

    from dsd.serve.api import create_app, listen

    model, pipeline = command.model, command.model.load()

    def draw(
        references: list[Image.Image], prompts: list[str], size: tuple[int, int] | None, seed: int
    ) -> list[Image.Image]:
        height, width = size or (None, None)
        generator = [torch.Generator().manual_seed(seed + number) for number in range(len(prompts))]
        result: Any = pipeline(
            prompts, [references] * len(prompts), height=height, width=width, generator=generator,
            num_inference_steps=model.steps, text_scale=model.text_scale, image_scale=model.image_scale,
            guidance_scale=model.guidance,
        )  # fmt: skip
        return result.images

    listen(create_app(draw), command.host, command.port)
