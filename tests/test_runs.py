"""Claims about folders of long work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dsd import runs
from dsd.config import how_it_runs
from dsd.errors import UserError
from dsd.runs import Ledger


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    save_every: int = how_it_runs(10)


@dataclass(frozen=True, kw_only=True)
class Settings:
    base: str = "a"
    inner: Inner = Inner()
    batch: int = how_it_runs(8)


def test_a_folder_belongs_to_the_settings_that_decide_what_is_made(tmp_path: Path) -> None:
    assert not runs.begun(tmp_path / "run", Settings())
    runs.claim(tmp_path / "run", Settings())
    assert runs.begun(tmp_path / "run", Settings())
    for changed, words in (
        (Settings(base="b"), r"base = 'a' \(now 'b'\)"),
        (Settings(inner=Inner(rate=1.0)), r"inner.rate = 0.5 \(now 1.0\)"),
    ):
        with pytest.raises(UserError, match=f"holds a thing with {words}; give the same settings"):
            runs.claim(tmp_path / "run", changed, what="a thing")
    assert runs.begun(tmp_path / "run", Settings())


def test_how_it_runs_may_change_and_the_last_start_is_kept(tmp_path: Path) -> None:
    runs.claim(tmp_path, Settings())
    other = Settings(batch=2, inner=Inner(save_every=3))
    runs.claim(tmp_path, other)
    assert '"save_every": 3' in (tmp_path / runs.CONFIG).read_text()
    assert runs.begun(tmp_path, replace(other, batch=1))
    with pytest.raises(UserError, match=r"holds a thing with batch = 2 \(now 1\)"):
        runs.begun(tmp_path, replace(other, batch=1), "a thing", exactly=True)


def test_sources_are_claimed_too_and_before_the_settings(tmp_path: Path) -> None:
    (tmp_path / runs.SOURCES).write_text('{"model": "left by a start that was killed before it had claimed"}')
    runs.claim(tmp_path, Settings(), {"model": "1"})
    assert runs.sources_of(tmp_path) == {"model": "1"}
    with pytest.raises(UserError, match="revision 1 of model, but it now is 2; bring the old one back"):
        runs.claim(tmp_path, Settings(), {"model": "2"})
    with pytest.raises(UserError, match="revision None of data, but it now is 1; bring the old one back"):
        runs.begun(tmp_path, Settings(), sources={"data": "1"})
    assert runs.begun(tmp_path, Settings(), sources={"model": "1"})
    assert runs.sources_of(tmp_path) == {"model": "1"}


def test_a_damaged_claim_or_record_is_said_to_be_damaged(tmp_path: Path) -> None:
    runs.claim(tmp_path, Settings())
    (tmp_path / runs.CONFIG).write_text("{")
    with pytest.raises(UserError, match=r"does not parse.*; give another folder"):
        runs.begun(tmp_path, Settings())
    runs.claim(tmp_path / "other", Settings(), {"model": "1"})
    (tmp_path / "other" / runs.SOURCES).write_text("{")
    with pytest.raises(UserError, match=r"is damaged .*; bring it back, or give another folder"):
        runs.claim(tmp_path / "other", Settings(), {"model": "1"})
    ledger = Ledger(tmp_path / "records")
    for text in ("{", "[]", '{"other": 1}'):
        ledger.path("a").write_atomic(text)
        with pytest.raises(UserError, match=r"is damaged .*; delete it, and that part is done anew"):
            ledger.find("a", lambda content: content["value"])


def test_a_ledger_gives_back_what_was_committed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "records")
    assert ledger.find("a", lambda content: content) is None
    ledger.commit("a", {"value": [1, "ü"]})
    assert ledger.find("a", lambda content: content["value"]) == [1, "ü"]
    assert ledger.find("b", lambda content: content) is None
