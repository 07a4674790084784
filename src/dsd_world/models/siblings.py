"""Where a recipe finds the models that it builds on: in the run beside its own, else in the package."""

from __future__ import annotations

from pathlib import Path

from dsd.errors import UserError
from dsd.log import console
from dsd.models import resolve

_EMBEDDED = {"autoencoder": ("tiny-flux", "vae"), "teacher": ("tiny-flux", ""), "vlm": ("tiny-vlm", "")}


def beside(run: Path, name: str) -> Path | None:
    """The finished model of the run beside this one, if there is one."""
    folder = run.parent / name / "model"
    if not folder.exists():
        return None
    console.print(f"with the {name} of {folder}", soft_wrap=True, markup=False)
    return folder


def trained(run: Path, name: str) -> Path:
    """The folder of a finished model.

    Args:
        run: folder of the run that asks.
        name: ``autoencoder``, ``teacher`` or ``vlm``.

    Raises:
        UserError: neither the run beside nor the package has it.
    """
    found = beside(run, name)
    if found is not None:
        return found
    model, part = _EMBEDDED[name]
    folder = Path(resolve(f"embedded:{model}")) / part
    if not folder.exists():
        raise UserError(
            f'no {name} in "{run.parent / name / "model"}" or in the package: run `dsd world train {name}` first'
        )
    return folder
