"""The examples run as a newcomer would run them, on the embedded models."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import tiny

from dsd.backbones.registry import load_backbone
from dsd.curate.captions import CaptionFile
from dsd.generate.jobs import Job, of_table
from dsd.generate.prompting import unread
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


def test_the_example_tables_can_be_drawn_and_are_read_whole() -> None:
    backbone = load_backbone("embedded:tiny-flux", transformer=False, vae=False)
    for table in EXAMPLES.glob("pictures/**/prompts.jsonl"):
        for job in of_table(table, Job()):
            assert isinstance(job, Job)
            job.check()
            assert not unread(backbone, job.prompt, 16).sentence()


def test_the_example_captions_are_enough_for_the_first_recipe() -> None:
    assert len(list(CaptionFile(str(EXAMPLES / "captions.txt"), 192))) == 192


def test_commands_in_the_readmes_name_files_that_are_there() -> None:
    root = EXAMPLES.parent
    for readme in (root / "README.md", EXAMPLES / "pictures" / "README.md"):
        named = re.findall(r"examples/[\w./-]+\.(?:png|txt|jsonl|py|md)", readme.read_text(encoding="utf-8"))
        assert named and not [name for name in named if not (root / name).is_file()]
