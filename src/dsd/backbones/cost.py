"""What a text-to-image model is and does, from its configs alone: built on the meta device and counted there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dsd.backbones.protocol import Text
from dsd.backbones.registry import FAMILIES, backbone_class, family_of, layers_of, model_index
from dsd.backbones.stock import StockBackbone
from dsd.errors import UserError, reason_of
from dsd.models import resolve

_META = torch.device("meta")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A text-to-image model on the meta device.

    Attributes:
        backbone: Its transformer behind the protocol, not widened; it can be counted and can compute nothing.
        text: Text encoders by their names.
        vae: The autoencoder.
    """

    backbone: StockBackbone
    text: Mapping[str, nn.Module]
    vae: nn.Module

    @property
    def text_parameters(self) -> int:
        """Of all text encoders."""
        return sum(count(encoder) for encoder in self.text.values())

    @property
    def vae_parameters(self) -> int:
        """Of the autoencoder."""
        return count(self.vae)

    @property
    def parameters(self) -> int:
        """Of the transformer."""
        return count(self.backbone.transformer)

    @property
    def text_width(self) -> int:
        """Channels of an encoded text token."""
        return self.backbone.transformer.config.joint_attention_dim

    @property
    def pooled_width(self) -> int:
        """Values of a prompt's pooled vector; 0 for families without one."""
        return self.backbone.transformer.config.get("pooled_projection_dim") or 0

    @property
    def further_text_tokens(self) -> int:
        """Text tokens that stand before those of the last encoder."""
        return self.backbone.further_text_tokens(self.text)

    def text_operations(self, tokens: int) -> float:
        """Floating-point operations to encode a prompt: two a weight and token, embeddings apart, and attention's.

        Args:
            tokens: Of the last encoder; further ones take their own number.
        """
        total = 0.0
        encoders: list[Any] = list(self.text.values())
        for place, encoder in enumerate(encoders):
            config = encoder.config
            rows = tokens if place == len(self.text) - 1 else getattr(config, "max_position_embeddings", tokens)
            tables = {id(layer.weight): layer.weight.numel() for layer in encoder.modules() if _is_table(layer)}
            layers, width = config.num_hidden_layers, config.hidden_size
            total += 2 * rows * (count(encoder) - sum(tables.values())) + 4 * layers * rows**2 * width
        return total

    @property
    def latent_values(self) -> float:
        """Values that a picture has in latent space, per pixel."""
        return self.backbone.latent_channels / self.backbone.pixels_per_latent**2

    def forward_operations(self, frame: tuple[int, int], frames: int, text_tokens: int) -> float:
        """Floating-point operations of one evaluation for one sample, as torch counts them.

        Args:
            frame: (height, width) of a frame in pixels.
            frames: How many frames.
            text_tokens: Of the prompt.
        """
        latents, text = self._inputs(frame, frames, text_tokens)
        arguments = self.backbone.arguments(latents, torch.empty(1, device=_META), text, guidance=1.0)

        def run() -> None:
            with torch.no_grad():
                self.backbone.transformer(**arguments, return_dict=False)

        return _counted(self.backbone, run)

    def prepared_operations(self, frame: tuple[int, int], frames: int, text_tokens: int) -> float:
        """Likewise, as the transformer is prepared for its flavour; of a cached one, with the reference's own pass."""
        latents, text = self._inputs(frame, frames, text_tokens)

        def run() -> None:
            with torch.no_grad():
                self._velocity(latents, text)

        return _counted(self.backbone, run)

    def training_operations(self, frame: tuple[int, int], frames: int, text_tokens: int) -> float:
        """Floating-point operations of a forward and a backward pass for one sample, as torch counts them.

        What is recomputed and which gradients are needed is counted as the transformer is: prepared for its flavour,
        with its adapter and its gradient checkpointing.

        Args:
            frame: (height, width) of a frame in pixels.
            frames: How many frames, of which the last one is drawn.
            text_tokens: Of the prompt.
        """
        latents, text = self._inputs(frame, frames, text_tokens)

        def run() -> None:
            self._velocity(latents, text).sum().backward()
            self.backbone.transformer.zero_grad()

        return _counted(self.backbone, run)

    def _velocity(self, latents: torch.Tensor, text: Text) -> torch.Tensor:
        """Of one sample, the reference's own pass with it where there is one."""
        backbone, sigma = self.backbone, torch.empty(1, device=_META)
        if backbone.is_cached:
            reference = backbone.reference(latents[:, :-1])
            return backbone.velocity(latents[:, -1:], sigma, text, guidance=1.0, reference=reference)
        return backbone.velocity(latents, sigma, text, condition=latents, guidance=1.0)

    def _inputs(self, frame: tuple[int, int], frames: int, text_tokens: int) -> tuple[torch.Tensor, Text]:
        """Latents and text of one sample."""
        backbone = self.backbone
        rows, columns = (side // backbone.pixels_per_latent for side in frame)
        latents = torch.empty(1, frames, backbone.latent_channels, rows, columns, device=_META)
        pooled = backbone.transformer.config.get("pooled_projection_dim")
        text = Text(
            torch.empty(1, text_tokens, self.text_width, device=_META),
            None if pooled is None else torch.empty(1, pooled, device=_META),
        )
        return latents, text


def shape_of(base: str) -> Shape:
    """Builds a model's components on the meta device.

    Args:
        base: `embedded:NAME`, a folder, or a hub id. Published models whose configs cannot be read without leave are
            known by their families.

    Raises:
        UserError: No configs are found, or the family is not known.
    """
    for name in FAMILIES:
        if base in (published := layers_of(name).published):
            return _shape(name, dict(published[base]))
    folder = Path(resolve(base))
    if not (folder / "model_index.json").is_file():
        known = [base for name in FAMILIES for base in layers_of(name).published]
        raise UserError(f'no configs of "{base}" here; give a local model folder or one of {", ".join(known)}')
    parts = {
        name: (entry[1], _config(folder / name / "config.json"))
        for name, entry in model_index(str(folder)).items()
        if isinstance(entry, list) and entry[0] is not None and (folder / name / "config.json").is_file()
    }
    for name in ("transformer", "vae"):
        if name not in parts:
            raise UserError(f'"{folder / name}" has no config.json; give the folder of a whole model')
    return _shape(family_of(base), parts)


def _counted(backbone: StockBackbone, run: Callable[[], None]) -> float:
    """Operations that torch counts while something runs; of neighbouring blocks that are alike one is run, or two.

    A model of dozens of blocks is counted in a fraction of the time so, and exactly: its operations are those of one
    block of each kind, and for each further one what a second of its kind adds.
    """
    whole = {name: list(backbone.transformer.get_submodule(name)) for name in backbone.layers.blocks}
    kinds = [(name, list(alike)) for name, blocks in whole.items() for _, alike in groupby(blocks, key=_kind)]

    def count_with(twice: int | None) -> int:
        for name in whole:
            kept = [b for k, (at, alike) in enumerate(kinds) if at == name for b in alike[: 2 if k == twice else 1]]
            backbone.transformer.set_submodule(name, nn.ModuleList(kept))
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    try:
        once = count_with(None)
        further = [(len(alike) - 1) * (count_with(k) - once) for k, (_, alike) in enumerate(kinds) if len(alike) > 1]
    finally:
        for name, blocks in whole.items():
            backbone.transformer.set_submodule(name, nn.ModuleList(blocks))
    return float(once + sum(further))


def _kind(block: nn.Module) -> object:
    """Equal for blocks that compute alike."""
    return type(block), [(name, value.shape, value.requires_grad) for name, value in block.named_parameters()]


def _is_table(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Embedding)


def count(module: nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in module.parameters())


def _config(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f'"{path}" cannot be read ({reason_of(error)}); give the folder of a whole model') from error


def _shape(family: str, parts: dict[str, tuple[str, dict[str, Any]]]) -> Shape:
    with _META:
        networks = {name: _built(kind, config) for name, (kind, config) in parts.items() if _is_network(kind)}
    own = backbone_class(family)
    pipeline = SimpleNamespace(
        transformer=networks["transformer"], vae=None, scheduler=SimpleNamespace(config={}), _execution_device=_META
    )
    return Shape(
        backbone=own(pipeline, networks["vae"].config),
        text={name: networks[name] for name in own.text_components if name in networks},
        vae=networks["vae"],
    )


def _is_network(kind: str) -> bool:
    return not kind.endswith(("Scheduler", "Tokenizer", "TokenizerFast", "Processor"))


def _built(kind: str, config: dict[str, Any]) -> Any:
    if hasattr(diffusers, kind):
        return getattr(diffusers, kind).from_config(config)
    network: Any = getattr(transformers, kind)
    return network(network.config_class(**config))
