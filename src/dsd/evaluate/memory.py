"""The most memory that a piece of work took."""

from __future__ import annotations

import resource
from pathlib import Path
from types import TracebackType

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MIB = 1 << 20


class Peak:
    """Measures a block: of the GPU what tensors took, else the whole process's resident memory, with all that it holds.

    Attributes:
        mib: after the block, in MiB.
    """

    mib: float = 0.0

    def __enter__(self) -> Peak:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        elif _RESET.exists():
            _RESET.write_text("5", encoding="utf-8")  # Linux starts the high-water mark anew
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mib = (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _resident_peak()) / _MIB


def _resident_peak() -> int:
    """Bytes; where the system cannot start anew, since the process began."""
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
