"""Claims about how a curation is worked on: where units run changes nothing, and what is drawn is not drawn again."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

from dsd import runs
from dsd.config import to_json
from dsd.curate.config import CurateConfig
from dsd.curate.executors.local import Local
from dsd.curate.executors.protocol import Executor, Record, Work, told_of_interrupts
from dsd.curate.grids import Teacher
from dsd.curate.pipeline import curate
from dsd.data.store import DatasetReader
from dsd.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kill_curation import differences

SLOW_TEACHER = """
import os
import signal
import sys
import time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts tests in the background may ignore it
from dsd.cli import main
from dsd.config import from_json
from dsd.curate.config import CurateConfig
from dsd.curate.grids import Teacher
from dsd.curate.pipeline import curate
draw, drawn = Teacher.draw, []
def slowly(*given):
    if drawn:
        while not os.path.exists(f"{sys.argv[2]}/grids/00000.parquet"):
            time.sleep(0.01)
        print("drawing the second unit", flush=True)
        time.sleep(100)
    drawn.append(1)
    return draw(*given)
Teacher.draw = slowly
main._dispatch = lambda words: curate(from_json(CurateConfig, words[0]), words[1])
main.command()
"""


@pytest.fixture(autouse=True)
def _open_server(server: ChatServer) -> None:
    server.requests.clear()
    server.closed_after = None


@pytest.fixture(scope="module")
def finished(config: CurateConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "dataset"
    curate(config, folder)
    return folder


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(self: Teacher, *_: object) -> None:
        raise AssertionError("sheets are drawn again")

    monkeypatch.setattr(Teacher, "draw", draw)


class Elsewhere:
    """Another `Executor`: the last unit first, each stage by a copy of the work as another process would get it."""

    def sources(self, work: Work[Any], *, trying: bool) -> dict[str, str]:
        return Local().sources(work, trying=trying)

    def run(self, work: Work[Record]) -> Iterator[Record]:
        def of(number: int) -> Record:
            stages, given = list(work.stages), None
            kept = [stage for stage in stages if work.find(stage, number) is not None]
            if kept:
                given = work.find(kept[-1], number)
                stages = stages[stages.index(kept[-1]) + 1 :]
            for stage in stages:
                given = pickle.loads(pickle.dumps(work)).do(stage, number, given)
            return given  # pyright: ignore[reportReturnType]

        numbers = range(len(work))
        records = {number: of(number) for number in reversed(numbers)}
        yield from (records[number] for number in numbers)


def schemas(server: ChatServer) -> set[str]:
    return {body["response_format"]["json_schema"]["name"] for body in server.requests}


def test_where_units_are_worked_on_changes_no_byte(finished: Path, config: CurateConfig, tmp_path: Path) -> None:
    curate(config, tmp_path / "dataset", Elsewhere())
    assert not differences(finished, tmp_path / "dataset")


@pytest.mark.parametrize("executor", [Local(), Local(workers=3), Elsewhere()], ids=["one", "three", "elsewhere"])
def test_an_executor_is_asked_for_nothing_that_is_finished(
    executor: Executor, finished: Path, config: CurateConfig, server: ChatServer, tmp_path: Path
) -> None:
    server.closed_after = 50
    with pytest.raises(UserError, match="closed"):
        curate(config, tmp_path / "dataset")
    server.settle()
    sizes = (3, 3, 1)
    undrawn, unjudged = (
        sum(size for unit, size in enumerate(sizes) if not (tmp_path / "dataset" / name.format(unit)).exists())
        for name in ("grids/{:05d}.parquet", "units/{:05d}.json")
    )
    assert undrawn < unjudged < 7
    server.closed_after = None
    server.requests.clear()
    curate(config, tmp_path / "dataset", executor)
    assert len(server.requests) == undrawn + (4 + 6) * unjudged
    assert not differences(finished, tmp_path / "dataset")


def test_a_curation_that_ends_while_it_judges_draws_nothing_again(
    finished: Path, config: CurateConfig, server: ChatServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server.closed_after = 7
    with pytest.raises(UserError, match="closed"):
        curate(config, tmp_path / "dataset")
    assert not list((tmp_path / "dataset").glob("units/[0-9]*.json"))
    server.closed_after = None
    request.getfixturevalue("no_drawing")
    curate(config, tmp_path / "dataset")
    assert not differences(finished, tmp_path / "dataset")


def test_an_interrupt_ends_it_at_once_and_loses_nothing(finished: Path, config: CurateConfig, tmp_path: Path) -> None:
    """While a unit of sheets is drawn, which takes minutes with real models."""
    out = tmp_path / "dataset"
    command = [sys.executable, "-c", SLOW_TEACHER, to_json(config), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stderr is not None
        while (line := run.stdout.readline()) and b"drawing the second unit" not in line:
            pass
        began = time.monotonic()
        run.send_signal(signal.SIGINT)
        status = run.wait(30)
        said = run.stderr.read().splitlines()
    assert line and status == 130 and time.monotonic() - began < 10
    assert said[-1] == b"dsd: interrupted; run the same command again to go on"
    assert (out / "grids" / "00000.parquet").exists() and not (out / ".lock").exists()
    curate(config, out)
    assert not differences(finished, out)


def test_another_judge_gets_the_sheets_of_a_curation_and_nothing_is_drawn(
    finished: Path, config: CurateConfig, server: ChatServer, tmp_path: Path, no_drawing: None
) -> None:
    judged = replace(config, judge=config.judge.replace("test", "other"), votes=3, sheets_from=str(finished))
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    curate(judged, tmp_path / "dataset")
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert schemas(server) == {"PanelDescription", "PairVerdict"}
    assert {body["model"] for body in server.requests} == {"other"}
    old, new = DatasetReader(finished), DatasetReader(tmp_path / "dataset")
    assert [sheet.grid for sheet in old.sheets()] == [sheet.grid for sheet in new.sheets()]
    assert (next(old.pairs()).judge.name, next(new.pairs()).judge.name) == ("test", "other")
    sources = [runs.sources_of(folder) for folder in (finished, tmp_path / "dataset")]
    assert sources[1] == sources[0] | {"judge": "served as other"}, "a server's models have no revision but their name"
    curate(replace(config, sheets_from=str(finished)), tmp_path / "same")
    assert not [name for name in differences(finished, tmp_path / "same") if name.endswith(".parquet")]


def test_sheets_that_cannot_be_judged_are_one_sentence(
    finished: Path, config: CurateConfig, server: ChatServer, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="there are no sheets in"):
        curate(replace(config, sheets_from=str(tmp_path / "nothing")), tmp_path / "dataset")
    with pytest.raises(UserError, match=r"holds sheets with steps = 2 \(now 3\)"):
        curate(replace(config, sheets_from=str(finished), steps=3), tmp_path / "dataset")
    server.closed_after = 3
    with pytest.raises(UserError, match="closed"):
        curate(config, tmp_path / "begun")
    with pytest.raises(UserError, match="lacks the sheets of 2 of 3 units"):
        curate(replace(config, sheets_from=str(tmp_path / "begun")), tmp_path / "dataset")
    assert not list((tmp_path / "dataset").rglob("*"))


def test_units_without_the_settings_they_are_of_are_left_alone(config: CurateConfig, tmp_path: Path) -> None:
    (tmp_path / "grids").mkdir()
    with pytest.raises(UserError, match="made elsewhere"):
        curate(config, tmp_path)


def test_an_interrupt_is_heard_also_while_a_record_is_worked_on() -> None:
    heard = []

    def records() -> Iterator[int]:
        try:
            yield 1
        except KeyboardInterrupt:
            heard.append(True)
            raise

    with pytest.raises(KeyboardInterrupt), told_of_interrupts(records()) as done:
        for _ in zip(done, (1,), strict=True):
            raise KeyboardInterrupt
    assert heard == [True]
