"""`dsd convert`: weights of elsewhere become an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dsd.backbones.published import BASE, SOURCE
from dsd.sampling import Sampling

if TYPE_CHECKING:
    from dsd.backbones.stock import StockBackbone

_PUBLISHED_FILES = ("transformer*/*", "pytorch_lora_weights.safetensors")
_BASE_FILES = ("model_index.json", "transformer/*")
_VAE_CONFIG = "vae/config.json"


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Makes an adapter of the published Diffusion Self-Distillation weights, or of a control LoRA.

    What it says of the adapter beside its weights is what the published model was trained and is drawn with, unless it
    is told otherwise.
    """

    source: Annotated[str, tyro.conf.Positional] = SOURCE
    """A folder or hub id in the published layout (transformer/ and pytorch_lora_weights.safetensors), such as
    the authors' own; or a control LoRA, a safetensors file for load_lora_weights of the
    base's stock control pipeline."""
    base: str = BASE
    """The model that it changes (embedded:NAME, a folder or a hub id)."""
    out: Path = Path("runs/converted")
    """The adapter's folder; an adapter that is there is replaced."""
    encodes: Literal["frames", "canvas"] = "canvas"
    """What the autoencoder sees as one picture of what is given: each frame, or the whole canvas."""
    frame: tuple[int, int] = (512, 512)
    """Height and width in pixels of one frame."""
    max_sequence_length: int = 512
    """Text tokens."""
    sampling: Sampling = Sampling(text_scale=1.0, image_scale=1.0)
    """How it is drawn with."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Convert]]:
    return {"": ("", Convert())}


def plan(command: Convert) -> list[str]:
    return [
        f"read {command.source} and compare it with {command.base}, tensor by tensor",
        f"write an adapter to {command.out}: low-rank changes, or a complete transformer where the source differs from "
        "the base in more than those can say",
    ]


def run(command: Convert) -> None:
    from dsd.backbones.adapter import METADATA_FILE, AdapterMetadata
    from dsd.backbones.published import local, lora_file, published_folder
    from dsd.backbones.registry import backbone_class, family_of, part_of
    from dsd.errors import UserError
    from dsd.files import require_apart, require_replaceable
    from dsd.limits import MOST_TEXT_TOKENS, require_frame, require_within
    from dsd.log import console, quiet_libraries
    from dsd.models import resolve, revision_or_name

    quiet_libraries()
    require_replaceable(command.out, METADATA_FILE)  # before anything is read
    for name, what in ((command.source, "the source"), (command.base, "the base's folder")):
        require_apart(command.out, Path(resolve(name)), what)
    require_frame("--frame", command.frame)
    require_within("--max-sequence-length", command.max_sequence_length, 1, MOST_TEXT_TOKENS)
    family = family_of(command.base)
    convert = part_of(family, "convert", "conversion")
    _require_frame(command, backbone_class(family))  # before the large files are fetched
    base, source = local(command.base, _BASE_FILES), local(command.source, _PUBLISHED_FILES)
    file = lora_file(source)
    if published_folder(source) is None and file is None:
        raise UserError(
            f'"{command.source}" is neither in the published layout (transformer/ and pytorch_lora_weights.safetensors)'
            " nor a LoRA in a safetensors file; give one of them, whole"
        )
    metadata = AdapterMetadata(
        family=family,
        base=command.base,
        base_revision=revision_or_name(command.base),
        rank=0,
        max_sequence_length=command.max_sequence_length,
        frame_size=command.frame,
        guidance=command.sampling.guidance,
        sampling=command.sampling,
        encodes=command.encodes,
    )
    if published_folder(source) is not None:
        done = convert.convert_published(source, base, command.out, metadata)
    else:
        assert file is not None
        done = convert.convert_lora(file, base, command.out, metadata)
    if done.different:
        console.print(
            f"note: {len(done.different)} tensor(s) differ from those of {command.base}, the first is "
            f"{done.different[0]}: the adapter holds a complete transformer",
        )
    print(command.out)


def _require_frame(command: Convert, backbone: type[StockBackbone]) -> None:
    """Refuses a frame that is no multiple of what the base's autoencoder takes, if it has one."""
    from dsd.backbones.published import local
    from dsd.weights import config_of

    base = local(command.base, (_VAE_CONFIG,))
    if (base / _VAE_CONFIG).is_file():
        backbone.check_frame(config_of(backbone.vae_class, str(base), subfolder="vae"), *command.frame)
