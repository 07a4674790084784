"""What is said to a person or a log file."""

from __future__ import annotations

import pytest

from dsd.log import console, progress

LONG = 60 * "word "


def test_a_message_is_one_line_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.print(f"{LONG}[red]{LONG}")
    assert capsys.readouterr().err == f"{LONG}[red]{LONG}\n"


def test_progress_in_a_log_file_is_a_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsd.log.LINE_EVERY_SECONDS", 0)
    with progress(description="train", total=2) as bar:
        bar.advance(note=f"loss [0.3] {LONG}")
        bar.advance()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("train: 1 of 2") and second.startswith("train: 2 of 2")
    assert all(line.endswith(f"loss [0.3] {LONG}") for line in (first, second))
