"""Drawing faster without changing what is drawn: applied to a pipeline from outside, whatever its family.

What is here was measured to win, or follows from what a GPU does. Left out are one product for the modulations of all
blocks, and one for queries, keys and values: they won nothing on a CPU and save a GPU no arithmetic and no reading of
weights, and the latter keeps those weights twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dsd.attention import DRAWS, right_attention
from dsd.errors import UserError
from dsd.generate import autoencoder, compiled, fast, layers, step_cache
from dsd.generate.around import around

if TYPE_CHECKING:
    from dsd.generate.two_frame import TwoFramePipeline

Level = Literal["lossless", "fast", "turbo"]
"""What may be lost for speed: nothing; a little precision of the weights; and steps that change little, too."""
Compile = Literal["auto", "on", "off"]
"""Whether blocks are compiled: on a GPU, wherever, or nowhere."""


def speed_up(
    pipeline: TwoFramePipeline,
    level: Level = "lossless",
    *,
    compile: Compile = "auto",
    cache: Path | None = None,
) -> list[str]:
    """Makes a pipeline draw faster; again, it changes nothing.

    Args:
        pipeline: Of any family, where it is to stay: on its device, in its precision, with its adapters.
        level: "lossless" changes no picture beyond rounding; "fast" also keeps weights in fewer bits; "turbo" also
            reuses what changes little from step to step.
        compile: Whether to compile the transformer's blocks; "auto" does on a GPU.
        cache: Folder for what compilation made, for the next process; see `dsd.generate.compiled.cache_folder`.

    Returns:
        What was done, and what was not and why, in sentences.

    Raises:
        UserError: An unknown level or choice.
    """
    for name, given, known in (("level", level, Level), ("compile", compile, Compile)):
        if given not in get_args(known):
            raise UserError(f'{name} is "{given}", but must be one of {", ".join(get_args(known))}')
    device = pipeline.backbone.device
    step_cache.remove(pipeline)
    backbone = pipeline.backbone
    done = layers.hasten(backbone.transformer, backbone.layers.rotary) + autoencoder.hasten(pipeline, device)
    if device.type == "cuda":
        around(pipeline, "advance", "attention", lambda: right_attention(device, DRAWS))
        done.append("Attention runs in the kernels that this GPU gets right.")
    refused = fast.refusal(pipeline) if level == "turbo" else None
    if level != "lossless" and refused is None:
        fast.quantise(pipeline)
        done.append("The linear layers of the transformer's blocks multiply in float8.")
    elif refused is not None:
        done.append("Nothing is in float8, for this device does not multiply it.")
    done += compiled.compile_blocks(pipeline, device, compile, cache)
    if level == "turbo":
        step_cache.apply(pipeline)
        done.append("Blocks after the first are left out of steps that change little, and fewer steps are taken.")
    return done
