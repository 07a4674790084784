"""Where weights of elsewhere are: the published layout of Diffusion Self-Distillation, LoRA files, the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dsd.errors import UserError, reason_of
from dsd.models import require_reachable, resolve

SOURCE, BASE = "primecai/dsd_model", "black-forest-labs/FLUX.1-dev"
"""The weights that the authors published, and what they change."""
LORA_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls a LoRA file; the published layout has one beside the transformer's folder."""
_TRANSFORMERS = ("transformer", "transformers")  # as the hub has it, and as its instructions say
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def published_folder(folder: Path | str) -> Path | None:
    """The transformer's folder where one is in the published layout; None for others."""
    if not (Path(folder) / LORA_FILE).is_file():
        return None
    transformers = (Path(folder) / name for name in _TRANSFORMERS)
    return next((path for path in transformers if path.is_dir()), None)


def lora_file(path: Path | str) -> Path | None:
    """The LoRA file that is meant by its own path, or by that of its folder; None where there is none."""
    files = (Path(path), Path(path) / LORA_FILE)
    return next((file for file in files if file.is_file() and file.suffix == ".safetensors"), None)


def no_adapter(folder: Path | str, wanted: str) -> str:
    """Says what was given in place of an adapter folder, and what to do.

    Args:
        folder: What was given.
        wanted: The file that an adapter folder has.
    """
    command = f"`dsd convert {folder} --out FOLDER`"
    refusal = f'"{folder}" is no adapter folder'
    if published_folder(folder) is not None:
        return f"{refusal} but weights in the published layout; make an adapter of them with {command}, and give that"
    if lora_file(folder) is not None:
        return f"{refusal} but a LoRA; if it is a control LoRA, make an adapter of it with {command}, and give that"
    if not Path(folder).exists() and _HUB_ID.fullmatch(str(folder)):
        return (
            f"{refusal} (there is no such folder here); give the folder that training wrote or, for weights of the "
            f"hub in the published layout, make an adapter of them with {command}, and give that"
        )
    return f"{refusal} (it has no {wanted}); give the folder that training wrote"


def local(name: str, files: Sequence[str]) -> Path:
    """A folder or file that is here; of a hub id, its snapshot with some files, fetched where they are not here yet.

    Args:
        name: `embedded:NAME`, a folder, a file or a hub id.
        files: Patterns of the files that are needed of a hub's model.

    Raises:
        UserError: There is no such folder, and the hub does not give it.
    """
    path = Path(resolve(name))
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(name):
        raise UserError(f'there is no "{name}"; give a folder, a file or a hub id such as owner/name')
    require_reachable(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f'"{name}" is no folder here and the hub does not give it ({reason_of(error)}); give a folder, or log in '
            "where it is gated"
        ) from error
