"""`dsd export`: an adapter in a form that other programs read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dsd.recipes.registry import first_and_named

if TYPE_CHECKING:
    from dsd.backbones.adapter import AdapterMetadata


@dataclass(frozen=True, kw_only=True)
class Export:
    """Writes an adapter in a form that stock diffusers or ComfyUI read."""

    adapter: str
    """Adapter folder, as training writes it."""
    base: str | None = None
    """The model it was trained on; read from the adapter when left out."""
    form: Literal["transformer", "control-lora", "comfyui", "comfyui-lora"] = "transformer"
    """transformer: a folder for from_pretrained of the stock transformer; control-lora: one safetensors file for
    load_lora_weights of its control pipeline, where diffusers has one; comfyui: the transformer as one safetensors file
    in its authors' names, for ComfyUI's Load Diffusion Model; comfyui-lora: one for its LoRA loader. The last two are
    for families that ComfyUI draws so."""
    out: Path = Path("runs/export")
    """Folder to write; an earlier export that is there is replaced."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Export]]:
    return first_and_named(lambda recipe: Export(adapter=recipe.adapter))


def plan(command: Export) -> list[str]:
    if command.form == "control-lora":
        return [f"copy the control-LoRA of {command.adapter} to {command.out / LORA_FILE}"]
    if command.form == "comfyui-lora":
        return [f"write the low-rank changes of {command.adapter} to {command.out}, with the keys of ComfyUI"]
    base = command.base or "the base that it names"
    names = ", under the names that ComfyUI loads" if command.form == "comfyui" else ""
    return [f"add {command.adapter} to the weights of {base} and write the widened transformer to {command.out}{names}"]


LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for first."""
NOTE = "export.json"
"""Says what was exported; a folder without it is no export, and never replaced."""


@dataclass(frozen=True)
class _Trained:
    """An adapter, and the base that it is exported with."""

    folder: Path
    metadata: AdapterMetadata
    base: str


def run(command: Export) -> None:
    from dsd.backbones.adapter import load_metadata, require_family
    from dsd.backbones.registry import family_of
    from dsd.errors import UserError
    from dsd.files import atomic_folder, require_apart, require_replaceable
    from dsd.log import quiet_libraries
    from dsd.models import resolve

    quiet_libraries()
    folder = Path(resolve(command.adapter))
    metadata = load_metadata(folder)
    if metadata.film.is_cached:
        raise UserError(
            f'the adapter "{folder}" is of the flavour cached, which neither stock diffusers nor ComfyUI can show a '
            "reference to; draw with dsd, or train one with train.flavour canvas"
        )
    require_apart(command.out, folder, "the adapter's folder")
    require_replaceable(command.out, NOTE)  # before anything is read
    require_apart(command.out, Path(resolve(command.base) if command.base else metadata.base), "the base's folder")
    if command.base is not None:
        require_family(metadata, family_of(command.base), folder)
    trained = _Trained(folder, metadata, command.base or metadata.base)
    write = _FORMS[command.form](trained)
    with atomic_folder(command.out, known_by=NOTE) as out:
        write(out)
        (out / NOTE).write_text(_note(command, trained), encoding="utf-8")
    print(command.out)


def _transformer(trained: _Trained) -> Callable[[Path], Any]:
    return _merged(trained).save_pretrained


def _control_lora(trained: _Trained) -> Callable[[Path], Any]:
    from dsd.backbones.adapter import WEIGHTS_FILE
    from dsd.backbones.registry import backbone_class
    from dsd.errors import UserError

    _updates(trained)  # a damaged one is not handed on
    if backbone_class(trained.metadata.family).control_pipeline is None:
        raise UserError(
            f'diffusers has no control pipeline for models of the family "{trained.metadata.family}", so nothing would '
            "read the control-LoRA; give --form transformer"
        )
    return lambda out: shutil.copyfile(trained.folder / WEIGHTS_FILE, out / LORA_FILE)


def _comfyui(trained: _Trained) -> Callable[[Path], Any]:
    from safetensors.torch import save_file

    from dsd.backbones.registry import part_of

    comfy = part_of(trained.metadata.family, "comfy", "layout of ComfyUI")
    tensors = comfy.model_tensors(dict(_merged(trained).state_dict()))
    return lambda out: save_file({name: one.contiguous() for name, one in tensors.items()}, out / comfy.MODEL_FILE)


def _comfyui_lora(trained: _Trained) -> Callable[[Path], Any]:
    from safetensors.torch import save_file

    from dsd.backbones.registry import part_of

    comfy = part_of(trained.metadata.family, "comfy", "layout of ComfyUI")
    tensors = comfy.lora_tensors(_updates(trained))
    return lambda out: save_file({name: one.contiguous() for name, one in tensors.items()}, out / comfy.LORA_FILE)


_FORMS = {
    "transformer": _transformer,
    "control-lora": _control_lora,
    "comfyui": _comfyui,
    "comfyui-lora": _comfyui_lora,
}
"""Forms, each with what reads an adapter and gives what writes it to a folder."""


def _merged(trained: _Trained) -> Any:
    """The base's transformer with the adapter in its weights, in the precision in which the base is stored."""
    from dsd.backbones.adapter import apply_adapter, warn_of_another_base
    from dsd.backbones.published import local
    from dsd.backbones.registry import load_backbone
    from dsd.backbones.stored import precision_of

    warn_of_another_base(trained.metadata, trained.base, trained.folder)
    precision = precision_of(local(trained.base, ["transformer/*"]) / "transformer")
    backbone = load_backbone(trained.base, dtype=precision, text=False, vae=False)
    apply_adapter(backbone, trained.folder)
    return backbone.transformer


def _updates(trained: _Trained) -> Any:
    """The low-rank changes of an adapter that has them."""
    from dsd.backbones.adapter import is_full, load_adapter
    from dsd.errors import UserError

    if is_full(trained.folder):
        raise UserError(f'"{trained.folder}" is a full fine-tune and has no LoRA; give --form transformer')
    return load_adapter(trained.folder)[0]


def _note(command: Export, trained: _Trained) -> str:
    """What was exported, and all that a program needs to know to draw with it."""
    from dsd.config import to_json
    from dsd.models import revision_of

    note = {
        "adapter": command.adapter,
        "revision": revision_of(trained.folder),
        "base": trained.base,
        "form": command.form,
        "trained": json.loads(to_json(trained.metadata)),
    }
    return json.dumps(note, indent=2, ensure_ascii=False) + "\n"
