"""`dsd export`: an adapter in a form that other programs read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dsd.recipes.registry import first_and_named


@dataclass(frozen=True, kw_only=True)
class Export:
    """Merges an adapter into a plain diffusers transformer, or copies it as a control-LoRA."""

    adapter: str
    """Adapter folder, as training writes it."""
    base: str | None = None
    """The model it was trained on; read from the adapter when left out."""
    form: Literal["transformer", "control-lora"] = "transformer"
    """transformer: a folder for from_pretrained of the stock transformer; control-lora: one safetensors file for
    load_lora_weights of its control pipeline, where diffusers has one."""
    out: Path = Path("runs/export")
    """Folder to write; an earlier export that is there is replaced."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Export]]:
    return first_and_named(lambda recipe: Export(adapter=recipe.adapter))


def plan(command: Export) -> list[str]:
    if command.form == "control-lora":
        return [f"copy the control-LoRA of {command.adapter} to {command.out / LORA_FILE}"]
    base = command.base or "the base that it names"
    return [f"add {command.adapter} to the weights of {base} and write the widened transformer to {command.out}"]


LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for first."""
NOTE = "export.json"
"""Says what was exported; a folder without it is no export, and never replaced."""


def run(command: Export) -> None:
    from dsd.backbones.adapter import (
        WEIGHTS_FILE,
        apply_adapter,
        is_full,
        load_adapter,
        load_metadata,
        warn_of_another_base,
    )
    from dsd.backbones.registry import backbone_class, load_backbone
    from dsd.errors import UserError
    from dsd.files import atomic_folder, require_replaceable
    from dsd.log import quiet_libraries
    from dsd.models import resolve

    quiet_libraries()
    folder = Path(resolve(command.adapter))
    metadata = load_metadata(folder)
    _require_apart(command.out, folder)
    require_replaceable(command.out, NOTE)  # before anything is read
    base = command.base or metadata.base
    if command.form == "control-lora":
        if is_full(folder):
            raise UserError(f'"{folder}" is a full fine-tune and has no LoRA; give --form transformer')
        load_adapter(folder)  # a damaged one is not handed on
        if backbone_class(metadata.family).control_pipeline is None:
            raise UserError(
                f'diffusers has no control pipeline for models of the family "{metadata.family}", so nothing would '
                "read the control-LoRA; give --form transformer"
            )
        with atomic_folder(command.out, known_by=NOTE) as out:
            (out / LORA_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes())
            (out / NOTE).write_text(_note(command, folder, base), encoding="utf-8")
    else:
        warn_of_another_base(metadata, base, folder)
        backbone = load_backbone(base, text=False, vae=False)
        apply_adapter(backbone, folder)
        with atomic_folder(command.out, known_by=NOTE) as out:
            backbone.transformer.save_pretrained(out)  # pyright: ignore[reportCallIssue]
            (out / NOTE).write_text(_note(command, folder, base), encoding="utf-8")
    print(command.out)


def _note(command: Export, folder: Path, base: str) -> str:
    from dsd.models import revision_of

    note = {"adapter": command.adapter, "revision": revision_of(folder), "base": base, "form": command.form}
    return json.dumps(note, indent=2, ensure_ascii=False) + "\n"


def _require_apart(out: Path, adapter: Path) -> None:
    """Refuses to write over an adapter, into it or around it."""
    from dsd.errors import UserError

    wanted, given = out.resolve(), adapter.resolve()
    if wanted.is_relative_to(given) or given.is_relative_to(wanted):
        raise UserError(f'--out "{out}" is, contains or lies in the adapter\'s folder "{adapter}"; give a folder apart')
