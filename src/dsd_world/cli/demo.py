"""run the whole loop with the embedded models and write a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsd.log import console
from dsd_world.demo_config import DemoConfig


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Curates a small dataset, trains a student on it, draws held-out individuals and measures the result.

    Takes eight to ten minutes on two CPU cores, without a download. Run the same command again to resume.
    """

    out: Path = Path("runs/demo")
    """Folder for everything; the report is report/index.html in it."""
    demo: DemoConfig
    """Settings of the loop."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Demo]]:
    return {"": ("", Demo(demo=DemoConfig()))}


def plan(command: Demo) -> list[str]:
    config = command.demo
    return [
        f"write {config.curate.units * config.curate.unit_size} captions of the drawn world",
        f"curate them with {config.curate.teacher}, {config.curate.chat} and {config.curate.judge}",
        f"train a student from {config.train.base} for {config.train.steps} steps",
        f"draw {config.subjects} held-out individuals x 4 prompts with the student, "
        f"{config.shipped_student or 'no shipped student'}, the teacher and the bounds",
        f"measure them and write {command.out / 'summary.json'} and {command.out / 'report' / 'index.html'}",
    ]


def run(command: Demo) -> None:
    from dsd_world.demo import demo

    report = demo(command.demo, command.out)
    table = command.out / "evaluation" / "table.md"
    console.print(f"report: {report}")
    print(table.read_text(encoding="utf-8"), end="")
