"""Transformers whose repeated blocks are compiled, and what compilation made kept for the next process."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from peft.tuners.tuners_utils import BaseTunerLayer

from dsd.errors import UserError
from dsd.files import write_atomic
from dsd.generate.around import around
from dsd.log import console

FOLDER = "DSD_CACHE"
"""The environment variable that names the folder of caches."""
OPTIONS: dict[str, Any] = {"fullgraph": True, "recompile_limit": 64}
"""All blocks count together; a kind of block needs a handful of compilations, for numbers of rows and of tokens, and as
many again after each change of its layers."""
_DIGITS = 64


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What decides whether blocks are compiled.

    Attributes:
        device: Type of the device that computes.
        has_lora: Whether there are LoRA layers that are not fused.
        is_quantised: Whether a quantiser of diffusers loaded the weights.
        is_offloaded: Whether weights are elsewhere between steps.
        is_cached: Whether attention keeps keys and values of references.
    """

    device: str
    has_lora: bool = False
    is_quantised: bool = False
    is_offloaded: bool = False
    is_cached: bool = False


def why_not(facts: Facts, asked: str) -> str | None:
    """Why blocks are not to be compiled, in a sentence; None where they are.

    Args:
        facts: Of the pipeline.
        asked: "auto", "on" or "off".
    """
    if asked == "off":
        return "Blocks are not compiled, as was asked."
    if facts.has_lora:
        return "Blocks are not compiled, for the pipeline has a LoRA that is not fused; fuse it to have them compiled."
    if facts.is_quantised:
        return "Blocks are not compiled, for the weights were quantised when they were loaded."
    if facts.is_offloaded:
        return "Blocks are not compiled, for the pipeline is offloaded; they would be compiled anew at each move."
    if facts.is_cached:
        return "Blocks are not compiled, for each keeps its own keys and values of references (the flavour cached)."
    if asked == "auto" and facts.device != "cuda":
        return 'Blocks are not compiled on a CPU, where it takes a minute and wins little; compile="on" does.'
    return None


def facts_of(pipeline: Any, device: torch.device) -> Facts:
    """What decides whether a pipeline's blocks are compiled."""
    transformer = pipeline.backbone.transformer
    offloaded = bool(getattr(pipeline, "_all_hooks", ())) or any(
        hasattr(module, "_hf_hook") or _is_group_offload_enabled(module) for module in transformer.modules()
    )
    return Facts(
        device=device.type,
        has_lora=any(isinstance(module, BaseTunerLayer) for module in transformer.modules()),
        is_quantised=getattr(transformer, "hf_quantizer", None) is not None,
        is_offloaded=offloaded,
        is_cached=pipeline.backbone.is_cached,
    )


def compile_blocks(pipeline: Any, device: torch.device, asked: str, cache: Path | None = None) -> list[str]:
    """Compiles each block where that pays; all of a kind share what is compiled.

    Shapes that change become variables at their second value, so that any number of rows and sizes need a handful of
    compilations.

    Args:
        pipeline: Of any family.
        device: Where it computes.
        asked: "auto", "on" or "off".
        cache: Folder for what is made; None for `cache_folder`.

    Returns:
        What was done, or why not, in sentences.
    """
    reason = why_not(facts_of(pipeline, device), asked)
    if reason is not None:
        return [reason]
    blocks = pipeline.backbone.blocks
    if all(block._compiled_call_impl is not None for block in blocks):
        return ["Blocks are compiled already."]
    path = (cache or cache_folder()) / f"{key(pipeline.backbone.transformer, device)}.compiled"
    said = load_cache(path)
    for block in blocks:
        block.compile(**OPTIONS)
    if device.type == "cuda":
        pipeline.vae.decoder.compile()
    kept = Kept(path)
    around(pipeline, "finish", "compiled", kept.saving)
    return [f"{len(blocks)} blocks are compiled at their first call.", said]


def cache_folder() -> Path:
    """Where caches are: ``$DSD_CACHE``, else ``dsd`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    if os.environ.get(FOLDER):
        return Path(os.environ[FOLDER])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsd"


def key(transformer: Any, device: torch.device, *more: Any) -> str:
    """Names what compiled code depends on: versions, the device, the transformer's shape and precision, and more."""
    config = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    facts = [torch.__version__, version("dsd"), name, str(transformer.dtype), type(transformer).__name__, config, *more]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def graphs_made() -> int:
    """How many graphs this process has compiled."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def load_cache(path: Path) -> str:
    """Reads what an earlier process compiled; a file that is damaged is left aside and written anew.

    Args:
        path: Of the file.

    Returns:
        What there was, in a sentence.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return f'Nothing compiled is kept yet; what the first picture compiles will be in "{path}".'
    except OSError as error:
        return f'What was compiled earlier cannot be read from "{path}" ({error.strerror}); it is compiled anew.'
    digest, artifacts = data[:_DIGITS], data[_DIGITS:]
    if (
        hashlib.sha256(artifacts).hexdigest().encode() != digest
        or torch.compiler.load_cache_artifacts(artifacts) is None
    ):
        return f'What was compiled earlier, "{path}", is damaged; it is compiled and written anew.'
    return f'What was compiled earlier is taken from "{path}".'


@dataclass
class Kept:
    """Writes what was compiled after each picture for which something was.

    Attributes:
        path: Of the file.
        graphs: How many were compiled when it was last written.
        is_writable: False after it could not be written.
    """

    path: Path
    graphs: int = 0
    is_writable: bool = True

    @contextmanager
    def saving(self) -> Iterator[None]:
        """What the end of a picture runs in."""
        yield
        self.save()

    def save(self) -> None:
        """Writes what was compiled, if anything was since the last time."""
        graphs = graphs_made()
        if graphs == self.graphs or not self.is_writable:
            return
        self.graphs = graphs
        made = torch.compiler.save_cache_artifacts()
        if made is None:
            return
        try:
            write_atomic(self.path, hashlib.sha256(made[0]).hexdigest().encode() + made[0])
        except UserError as error:
            self.is_writable = False
            console.print(f"what was compiled is not kept: {error}")
