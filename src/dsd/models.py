"""Names of models: embedded ones, folders, and hub ids."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from dsd.config import did_you_mean
from dsd.errors import UserError
from dsd.files import sha256_of
from dsd.plugins import added, folder_of

_PREFIX = "embedded:"


def embedded_folder(name: str) -> Path:
    """Returns where a package keeps (or will keep) an embedded model.

    Args:
        name: An entry point of the group ``dsd.models``, without the prefix.

    Raises:
        UserError: No embedded model has this name.
    """
    models = added("models")
    if name not in models:
        raise UserError(f'there is no embedded model "{name}"; {did_you_mean(name, models)}')
    return folder_of(models[name]) / name


def resolve(name: str) -> str:
    """Returns what to hand to `from_pretrained`.

    Args:
        name: `embedded:NAME` for a model of the package; a folder or a hub id passes unchanged.

    Returns:
        A folder of the package, or `name` itself.

    Raises:
        UserError: An unknown embedded name, or one whose weights are not installed.
    """
    if not name.startswith(_PREFIX):
        return name
    folder = embedded_folder(name.removeprefix(_PREFIX))
    if not folder.is_dir():
        raise UserError(f'the weights of "{name}" are missing from {folder}; install the package again')
    return str(folder)


def revision_of(path: str | Path) -> str:
    """Returns 12 hexadecimal digits that name the content of a local model folder (or file).

    File names relative to the folder and file bytes count; where the folder lies does not. Hidden files and
    model cards (`*.md`) are left out.

    Raises:
        UserError: There is no such folder or file, or it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f'no model folder "{path}"; give a folder that exists')
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix()
        if any(part.startswith(".") for part in name.split("/") if part != ".") or file.suffix == ".md":
            continue
        try:
            digest.update(f"{name}\0{sha256_of(file)}\n".encode())
        except OSError as error:
            raise UserError(f'"{file}" cannot be read ({error.strerror}); give a folder that you may read') from error
    return digest.hexdigest()[:12]


def is_revision(text: str) -> bool:
    """Whether a text is a content hash as `revision_of` gives or a commit of the hub, and not the name of a model."""
    return re.fullmatch(r"[0-9a-f]{12}|[0-9a-f]{40}", text) is not None


def revision_or_name(name: str) -> str:
    """What names the content of a model: a content hash of a folder; of a hub's model the commit of the snapshot that
    is here, which is the one that is loaded, or the id itself while none is."""
    path = Path(resolve(name))
    return revision_of(path) if path.exists() else _snapshot(name) or name


def _snapshot(name: str) -> str | None:
    """The commit of a hub's model that is in the cache."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("model_index.json", "config.json"):
        try:
            found = try_to_load_from_cache(name, file)
        except ValueError:  # no hub id
            return None
        if isinstance(found, str):
            parts = Path(found).parts
            return parts[parts.index("snapshots") + 1]
    return None
