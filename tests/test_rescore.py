"""Claims about another `min_score` for a finished dataset."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import curation_parts as parts
import pyarrow.parquet as pq
import pytest
from chat_server import ChatServer

from dsd.cli.main import main
from dsd.curate.pipeline import curate
from dsd.curate.rejudge import rescore
from dsd.data.rows import SINCE_2
from dsd.data.store import DatasetReader
from dsd.errors import UserError


class Seen(list):
    """Requests, of which each thread knows its own last one."""

    def __init__(self) -> None:
        super().__init__()
        self.own = threading.local()

    def append(self, body: Any) -> None:
        self.own.body = body
        super().append(body)


class Voters(ChatServer):
    """Whose verdicts depend on the seed, so that votes on one pair differ."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = Seen()

    @property
    def same(self) -> bool:
        return hashlib.sha256(str(self.requests.own.body["seed"]).encode()).digest()[0] < 215

    @same.setter
    def same(self, _: Any) -> None:
        pass

    @contextmanager
    def running(self) -> Iterator[Voters]:
        """Runs it until the block ends."""
        thread = threading.Thread(target=self.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


@pytest.fixture(scope="module")
def voters() -> Iterator[Voters]:
    with Voters().running() as server:
        yield server


@pytest.fixture(scope="module")
def curated(voters: Voters, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same sheets judged by the same votes with and without a score to reach, as pairs and as films."""
    folder = tmp_path_factory.mktemp("curated")
    captions = parts.write_captions(folder / "laion.parquet")
    config = parts.config(captions, f"openai:test@{voters.url}", votes=3, chat_batch=16, units=2)
    curate(config, folder / "all")
    judged = {"all": folder / "all"}
    for name, changes in {
        "sure": {"min_score": 0.9},
        "triples": {"references": 2},
        "sure triples": {"references": 2, "min_score": 0.9},
    }.items():
        again = parts.config(
            captions, f"openai:test@{voters.url}", votes=3, chat_batch=16, units=2,
            sheets_from=str(folder / "all"), **changes,
        )  # fmt: skip
        curate(again, folder / name)
        judged[name] = folder / name
    return judged


def rows(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.parent.name in ("pairs", "rejects", "grids", "films") or path.name in ("funnel.json", "README.md")
    }


@pytest.mark.parametrize(
    ("before", "min_score", "wanted"),
    [("all", 0.9, "sure"), ("sure", 0.0, "all"), ("sure", 0.6, "all"), ("all", 0.0, "all"), ("sure", 1.0, "sure"),
     ("triples", 0.9, "sure triples"), ("sure triples", 0.5, "triples")],
)  # fmt: skip
def test_another_score_afterwards_makes_the_rows_of_a_curation_with_it_and_asks_nobody(
    before: str, min_score: float, wanted: str, curated: dict[str, Path], voters: Voters, tmp_path: Path
) -> None:
    asked = len(voters.requests)
    rescore(curated[before], min_score, tmp_path / "out")
    assert len(voters.requests) == asked
    assert rows(tmp_path / "out") == rows(curated[wanted])


def test_the_cases_differ(curated: dict[str, Path]) -> None:
    all_, sure = (DatasetReader(curated[name]).funnel() for name in ("all", "sure"))
    assert 0 < sure["kept"] < all_["kept"]
    assert sure["rejected"]["below min_score"] == all_["kept"] - sure["kept"]
    films = [DatasetReader(curated[name]).funnel()["films"] for name in ("triples", "sure triples")]
    assert 0 < films[1] < films[0]


def test_a_rescored_dataset_says_what_it_was_made_of_and_can_be_rescored_back(
    curated: dict[str, Path], tmp_path: Path
) -> None:
    assert main(["curate", "rescore", str(curated["all"]), "--min-score", "0.9", "--out", str(tmp_path / "a")]) == 0
    recipe = DatasetReader(tmp_path / "a").manifest.recipe
    assert (recipe["min_score"], recipe["sheets_from"]) == (0.9, str(curated["all"]))
    assert recipe["revisions"] == DatasetReader(curated["all"]).manifest.recipe["revisions"]
    DatasetReader(tmp_path / "a").verify()
    rescore(tmp_path / "a", 0.0, tmp_path / "b")
    assert rows(tmp_path / "b") == rows(curated["all"])


def test_rescoring_goes_on_after_a_stop_and_refuses_what_is_in_the_way(
    curated: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rescore(curated["all"], 0.9, out)
    (out / "manifest.json").unlink()
    (out / "pairs" / "00000.parquet").unlink()
    rescore(curated["all"], 0.9, out)
    assert rows(out) == rows(curated["sure"])
    with pytest.raises(UserError, match=r"holds a dataset with min_score = 0\.9 .now 0\.5."):
        rescore(curated["all"], 0.5, out)
    with pytest.raises(UserError, match="lies in the dataset's folder"):
        rescore(curated["all"], 0.5, curated["all"] / "out")
    (tmp_path / "other" / "pairs").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a dataset that was made elsewhere"):
        rescore(curated["all"], 0.5, tmp_path / "other")


@pytest.mark.parametrize("score", [1.5, -1.0, float("nan")])
def test_a_score_out_of_range_is_refused(score: float, curated: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a score in"):
        rescore(curated["all"], score, tmp_path / "out")


def copy_of(folder: Path, out: Path, change: Any) -> Path:
    """A dataset whose tables of pairs and rejects are others."""
    for path in folder.rglob("*"):
        if path.is_file():
            (out / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (out / path.relative_to(folder)).write_bytes(path.read_bytes())
    for path in (*out.glob("pairs/*"), *out.glob("rejects/*")):
        pq.write_table(change(pq.read_table(path)), path)
    return out


def test_verdicts_without_scores_cannot_be_held_against_one(curated: dict[str, Path], tmp_path: Path) -> None:
    old = copy_of(curated["all"], tmp_path / "old", lambda table: table.drop_columns(list(SINCE_2)))
    manifest = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 1}))
    with pytest.raises(UserError, match=r"have no scores; judge its sheets anew .*--curate.votes 5"):
        rescore(old, 0.5, tmp_path / "out")


def test_a_score_that_nothing_has_is_refused(curated: dict[str, Path], tmp_path: Path) -> None:
    def halved(table: Any) -> Any:
        scores = [None if score is None else score / 2 for score in table["score"].to_pylist()]
        at = table.schema.get_field_index("score")
        return table.set_column(at, table.schema.field("score"), [scores])

    low = copy_of(curated["all"], tmp_path / "low", halved)
    with pytest.raises(UserError, match=r"no pair of .* has a score of 0\.9; the highest is 0\.5"):
        rescore(low, 0.9, tmp_path / "out")


def test_examples_that_are_no_pairs_in_both_orders_are_refused(curated: dict[str, Path], tmp_path: Path) -> None:
    one_way = copy_of(curated["all"], tmp_path / "one", lambda table: table.slice(1))
    with pytest.raises(UserError, match="no pairs in both orders"):
        rescore(one_way, 0.5, tmp_path / "out")


def test_a_dataset_that_no_curation_wrote_is_refused(curated: dict[str, Path], tmp_path: Path) -> None:
    other = copy_of(curated["all"], tmp_path / "other", lambda table: table)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["recipe"]["made_from"] = {"by": "merge"}
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"is not as `dsd curate` wrote it .*made_from"):
        rescore(other, 0.5, tmp_path / "out")


def test_films_of_which_none_is_left_are_refused(curated: dict[str, Path], tmp_path: Path) -> None:
    def one_sure(table: Any) -> Any:
        surest = table["reference_panel"].to_pylist()[0] if "outcome" not in table.column_names else ""
        pairs = zip(table["reference_panel"].to_pylist(), table["target_panel"].to_pylist(), strict=True)
        scores = [0.99 if surest == one else 0.5 for one, _ in pairs]
        at = table.schema.get_field_index("score")
        return table.set_column(at, table.schema.field("score"), [scores])

    few = copy_of(curated["triples"], tmp_path / "few", one_sure)
    with pytest.raises(UserError, match=r"no film of 3 panels is left from a score of 0\.9 on"):
        rescore(few, 0.9, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
