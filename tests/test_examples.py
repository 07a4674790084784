"""The examples run as a newcomer would run them, on the embedded models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tiny

from dsd.models import resolve

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_stock_flux_draws_a_panel_and_a_sheet(tmp_path: Path) -> None:
    source = (EXAMPLES / "stock_flux.py").read_text()
    assert "import dsd" not in source and "from dsd" not in source
    run("stock_flux.py", resolve("embedded:tiny-flux"), folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stock_panel.png", "stock_sheet.png"]


def test_stock_control_draws_what_the_two_frame_pipeline_draws(tmp_path: Path) -> None:
    tiny.picture().save(tmp_path / "reference.png")
    told = run("stock_control.py", "reference.png", "a red striped cat on the left at sea", folder=tmp_path)
    assert float(told.split()[-1]) < 1e-4
