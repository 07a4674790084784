"""Where a run ran: ``environment.json`` lists each distinct machine and set of libraries that it was started on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dsd.files import read_json, write_atomic

_PACKAGES = ("dsd", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "pillow")


def machine() -> str:
    """The GPU's name, or the processor's and its threads, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} threads"


def describe() -> dict[str, object]:
    """The machine and the libraries that decide a run's bits and speed."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def commit() -> str:
    """The commit of the code that runs, from the checkout that holds it; the package's version when there is none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"version {_version('dsd')}"


def record(path: Path) -> None:
    """Adds this environment to the file unless it is its last entry already.

    Raises:
        UserError: the file is damaged, or the place cannot be written to.
    """
    seen = read_json(path, _entries, "delete it; no more is lost") if path.exists() else []
    now = describe()
    if not seen or seen[-1] != now:
        write_atomic(path, json.dumps([*seen, now], indent=2) + "\n")


def _entries(content: Any) -> list[dict[str, object]]:
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise TypeError("it is no list of environments")
    return content


def _processor() -> str:
    cores = Path("/proc/cpuinfo")  # Python knows no more than x86_64 of a processor on Linux
    lines = cores.read_text(encoding="utf-8").splitlines() if cores.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
