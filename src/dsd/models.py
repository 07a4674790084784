"""Names of models: embedded ones, folders, and hub ids."""

from __future__ import annotations

import hashlib
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from dsd.config import did_you_mean
from dsd.errors import UserError, cut, reason_of
from dsd.files import sha256_of
from dsd.plugins import added, folder_of

_PREFIX = "embedded:"
_HUB_SECONDS = 10


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
        UserError: An unknown embedded name, one whose weights are not installed, or a folder that may not be read.
    """
    if not name.startswith(_PREFIX):
        try:
            Path(name).exists()
        except OSError as error:
            raise UserError(
                f'"{cut(name)}" cannot be read ({error.strerror}); give a folder that you may read, or a hub id'
            ) from error
        return name
    folder = embedded_folder(name.removeprefix(_PREFIX))
    if not folder.is_dir():
        raise UserError(f'the weights of "{name}" are missing from {folder}; install the package again')
    return str(folder)


def require_reachable(name: str) -> None:
    """Makes sure that a hub's model can be had, before its library tries each file six times, half a minute each.

    Args:
        name: What `resolve` gave; nothing is asked of the network for what is here.

    Raises:
        UserError: It is not here, was not fetched before, and the hub does not answer.
    """
    from huggingface_hub import constants

    if Path(name).exists() or constants.HF_HUB_OFFLINE or _snapshot(name) is not None:
        return
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=_HUB_SECONDS).close()
    except urllib.error.HTTPError:  # it answers
        return
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):  # the hub's library may know other certificates
            return
        raise UserError(
            f'"{cut(name)}" is no folder here, and the hub cannot be reached ({cut(reason_of(Exception(reason)))}); '
            "give a folder, or try again with a network"
        ) from error


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
