"""Runs a benchmark's own script in another process and kills it with SIGKILL at a given moment."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def run_killed(script: str, settings: str, folder: Path, seconds: float, *, wait_for: Path | None = None) -> bool:
    """Starts or resumes a run in a process of its own and kills it.

    Args:
        script: file that, called as ``--child SETTINGS FOLDER``, prints ``ready`` after its imports and then runs.
        settings: what is run, as JSON.
        folder: of the run.
        seconds: from ``ready`` (or from when ``wait_for`` exists) to the kill.
        wait_for: a path that must exist before the seconds count.

    Returns:
        False when the run ended before.
    """
    command = [sys.executable, script, "--child", settings, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(process.stderr.read())
        while wait_for is not None and not wait_for.exists() and process.poll() is None:
            time.sleep(0.001)
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
        if process.returncode:
            raise RuntimeError(f"the run failed with status {process.returncode}: {said}")
        return False


def file_bytes(path: Path) -> bytes | None:
    """The file's content; None when it is missing."""
    return path.read_bytes() if path.exists() else None
