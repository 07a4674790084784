"""Claims about what a judge's scores are worth, and about how that is found out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as some
from test_rescore import Voters

from dsd.cli.main import main
from dsd.curate.calibrate import calibrate_judge, words_of
from dsd.curate.calibration import Scored, Share, between, calibrate
from dsd.curate.config import CalibrateConfig
from dsd.curate.labelled import pair_of, read_labelled
from dsd.curate.pairs import settle
from dsd.data.records import Model, Verdict
from dsd.errors import UserError
from dsd.images import encode_png
from dsd_world.recipe import tiny as tiny_recipe


def scored(*rows: tuple[bool, float | None, bool]) -> list[Scored]:
    """(said, score, truth) each."""
    return [Scored(truth=truth, said=said, score=score) for said, score, truth in rows]


BY_HAND = scored(
    (True, 0.9, True), (True, 0.8, True), (True, 0.8, False), (True, 0.6, True), (True, 0.55, False),
    (False, 0.4, True), (False, 0.1, False), (False, 0.0, False),
)  # fmt: skip


def test_shares_have_wilsons_intervals() -> None:
    assert Share(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)  # as in Brown, Cai and DasGupta 2001
    assert Share(10, 10).interval == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert (Share(0, 0).value, Share(0, 0).interval, str(Share(0, 0))) == (None, (0.0, 1.0), "-")


def test_precision_and_recall_at_each_score_equal_those_counted_by_hand() -> None:
    found = calibrate(BY_HAND, 1.0)
    assert (found.pairs, found.same, found.failed) == (8, 4, 0)
    counted = [(p.min_score, p.precision, p.recall) for p in found.curve]
    assert counted == [
        (0.0, Share(3, 5), Share(3, 4)),
        (0.5, Share(3, 5), Share(3, 4)),
        (0.6, Share(3, 4), Share(3, 4)),
        (0.8, Share(2, 3), Share(2, 4)),
        (0.9, Share(1, 1), Share(1, 4)),
    ]
    assert found.chosen is found.curve[-1]


def test_the_lowest_score_that_has_the_precision_is_chosen() -> None:
    assert calibrate(BY_HAND, 0.5).chosen == calibrate(BY_HAND, 0.5).by_verdict
    chosen = calibrate(BY_HAND, 0.7).chosen
    assert chosen is not None
    assert chosen.min_score == 0.6
    assert calibrate(scored((True, 0.9, False), (False, 0.1, True)), 0.5).chosen is None


def test_who_wants_to_be_sure_needs_the_whole_interval_above() -> None:
    rows = scored(*[(True, 0.9, True)] * 60, *[(True, 0.6, False)] * 4, (False, 0.1, False))
    loosely, surely = (calibrate(rows, 0.93, surely=sure).chosen for sure in (False, True))
    assert loosely is not None
    assert surely is not None
    assert (loosely.min_score, surely.min_score) == (0.0, 0.9)
    assert surely.precision.interval[0] >= 0.93 > loosely.precision.interval[0]
    assert calibrate(rows, 0.99, surely=True).chosen is None


def test_the_error_of_scores_equals_that_counted_by_hand() -> None:
    rows = scored((True, 0.95, True), (True, 0.95, False), (False, 0.15, False), (False, 0.15, True))
    assert calibrate(rows, 0.9).error == pytest.approx((2 * 0.45 + 2 * 0.35) / 4)
    perfect = scored(*[(True, 0.75, True)] * 3, (True, 0.75, False), (False, 0.0, False), (True, 1.0, True))
    assert calibrate(perfect, 0.9).error == pytest.approx(0.0)


def test_a_judge_without_scores_has_its_verdicts_alone() -> None:
    found = calibrate(scored((True, None, True), (True, None, False), (False, None, False)), 0.9)
    assert len(found.curve) == 1
    assert (found.error, found.chosen, found.reliability) == (None, None, ())
    assert found.by_verdict.precision == Share(1, 2)


def test_a_pair_without_a_reply_is_not_kept_and_counts_against_recall() -> None:
    found = calibrate([*BY_HAND, Scored(truth=True, said=None, score=None)], 0.5)
    assert found.failed == 1
    assert (found.by_verdict.precision, found.by_verdict.recall) == (Share(3, 5), Share(3, 5))


def test_the_choice_is_measured_on_pairs_that_it_was_not_made_with() -> None:
    rows = [
        Scored(truth=n % 3 > 0, said=True, score=0.5 + (n % 50) / 100 * (0.9 if n % 3 else 0.5)) for n in range(300)
    ]
    found = calibrate(rows, 0.9)
    assert found.chosen is not None
    assert found.held_out is not None
    precision, recall = found.held_out
    assert recall.of == found.same
    assert 0 < recall.count <= found.chosen.recall.count + 20
    assert precision.value == pytest.approx(0.9, abs=0.06)


@given(some.lists(some.integers(0, 10**6), min_size=2, max_size=2, unique=True))
def test_a_chosen_score_parts_those_below_from_those_above(scores: list[int]) -> None:
    below, score = sorted(n / 10**6 for n in scores)
    assert below < between(below, score) <= score


ANY_SCORE = some.one_of(some.none(), some.floats(0, 1))


@given(some.booleans(), ANY_SCORE, some.floats(0, 1))
def test_a_pair_counts_as_kept_exactly_where_curation_keeps_it(same: bool, score: float | None, least: float) -> None:
    verdict = Verdict(common_subject="", first_details="", second_details="", comparison="", same=same, score=score)
    outcome = settle(CANDIDATE, verdict, Model(name="vlm", revision="1"), least)
    assert Scored(truth=True, said=same, score=score).kept(least) is isinstance(outcome, tuple)


CANDIDATE = pair_of("0", tiny.picture(seed=1), tiny.picture(seed=2))


def pictures(folder: Path, count: int = 8) -> list[tuple[str, str, bool]]:
    """Rows of first, second and same, whose files are there."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        names = f"{number}-a.png", f"{number}-b.png"
        for place, name in enumerate(names):
            (folder / name).write_bytes(encode_png(tiny.picture((8, 8), seed=2 * number + place)))
        rows.append((*names, number % 2 == 0))
    return rows


def table(folder: Path, ending: str, labels: tuple[Any, Any] = (True, False), columns: str = "first,second") -> Path:
    """The same pairs as a table of this kind."""
    rows, path = pictures(folder), folder / f"pairs.{ending}"
    names = columns.split(",")
    said = [labels[0] if same else labels[1] for _, _, same in rows]
    if ending == "parquet":
        cells = [[{"bytes": (folder / row[at]).read_bytes(), "path": None} for row in rows] for at in (0, 1)]
        pq.write_table(pa.table({names[0]: cells[0], names[1]: cells[1], "same": said}), path)
    elif ending == "jsonl":
        lines = [{names[0]: a, names[1]: b, "same": s} for (a, b, _), s in zip(rows, said, strict=True)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        mark = "\t" if ending == "tsv" else ","
        lines = [
            mark.join((*names, "same")),
            *(mark.join((a, b, str(s))) for (a, b, _), s in zip(rows, said, strict=True)),
        ]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("ending", "labels"),
    [("csv", ("true", "false")), ("csv", ("Yes", "no")), ("tsv", (1, 0)), ("jsonl", (True, False)),
     ("jsonl", (1, 0)), ("parquet", (True, False))],
)  # fmt: skip
@pytest.mark.parametrize("columns", ["first,second", "reference,target"])
def test_labelled_pairs_are_read_from_any_table(
    ending: str, labels: tuple[Any, Any], columns: str, tmp_path: Path
) -> None:
    found = read_labelled(table(tmp_path, ending, labels, columns))
    assert [pair.same for pair in found] == [True, False] * 4
    first, second = found[3].pictures()
    assert (first.tobytes(), second.tobytes()) == tuple(tiny.picture((8, 8), seed=n).tobytes() for n in (6, 7))


def test_a_folder_is_read_by_its_metadata(tmp_path: Path) -> None:
    table(tmp_path, "jsonl").rename(tmp_path / "metadata.jsonl")
    assert len(read_labelled(tmp_path)) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("first,second\n0-a.png,0-b.png\n", 'row 1: the column "same" holds None'),
        ("first,second,same\n0-a.png,0-b.png,maybe\n", "row 1: .* holds 'maybe', but must hold true or false"),
        ("first,second,same\n0-a.png,0-b.png,2\n", "holds '2', but must hold true or false"),
        ("one,second,same\n0-a.png,0-b.png,1\n", 'there is no column "first", only one, second, same'),
        ("first,second,same\n0-a.png,away.png,1\n", "row 1: .*away.png"),
        ("first,second,same\n0-a.png,,1\n", 'row 1: the column "second" holds'),
        (
            "first,second,same\n0-a.png,0-b.png,1\n",
            "holds pairs that are all the same; give pairs that are the same and",
        ),
        ("first,second,same\n", "holds no rows"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(content: str, message: str, tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        read_labelled(tmp_path / "pairs.csv")


def test_a_place_without_pairs_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "away", tmp_path / "pairs.xls"):
        with pytest.raises(UserError, match=r"there are no labelled pairs in .* first, second and same"):
            read_labelled(path)


@pytest.fixture(scope="module")
def voters() -> Iterator[Voters]:
    with Voters().running() as server:
        yield server


def asking(voters: Voters, folder: Path, **more: Any) -> CalibrateConfig:
    pairs = folder / "pairs.csv"
    return CalibrateConfig(
        **{"pairs": pairs if pairs.exists() else table(folder, "csv"), "judge": f"openai:test@{voters.url}",
           "templates": "default", "votes": 3} | more
    )  # fmt: skip


def test_a_judge_is_asked_once_whatever_precision_is_wanted(voters: Voters, tmp_path: Path) -> None:
    config, out = asking(voters, tmp_path), tmp_path / "out"
    voters.requests.clear()
    found = calibrate_judge(config, out)
    assert len(voters.requests) == 3 * 8
    assert found.pairs == 8 and found.same == 4
    assert {point.min_score for point in found.curve} <= {0.0, 0.6, 1.0}
    again = calibrate_judge(replace(config, precision=0.5, surely=True), out)
    assert len(voters.requests) == 3 * 8
    assert again.curve == found.curve
    content = json.loads((out / "calibration.json").read_text())
    assert (content["wanted"], content["pairs"]) == (0.5, 8)
    assert "labelled pairs" in (out / "calibration.md").read_text()


def test_answers_that_are_lost_are_asked_anew_and_others_judges_are_refused(voters: Voters, tmp_path: Path) -> None:
    config, out = asking(voters, tmp_path), tmp_path / "out"
    found = calibrate_judge(config, out)
    (out / "verdicts" / "00000.json").unlink()
    assert calibrate_judge(config, out) == found
    with pytest.raises(UserError, match=r"holds a calibration with votes = 3 \(now 1\)"):
        calibrate_judge(replace(config, votes=1), out)
    (tmp_path / "0-a.png").write_bytes(encode_png(tiny.picture((8, 8), seed=99)))
    with pytest.raises(UserError, match="of pairs, but it now is"):
        calibrate_judge(config, out)


def test_words_that_contradict_themselves_are_counted() -> None:
    told = {"common_subject": "cat", "first_details": "in navy, wide", "second_details": "in navy, slim", "same": False}
    rows = [
        {**told, "comparison": "colour navy navy: same; build, wide, slim: other"},
        {**told, "comparison": "colour navy navy: other; build, wide, slim: other"},
        {**told, "comparison": "colour navy azure: other; build, wide, slim: other"},
        {**told, "comparison": ""},
        *({"reason": "contradicts itself", "detail": "", "text": ""} for _ in range(2)),
        {"reason": "cut off", "detail": "", "text": ""},
    ]
    found = words_of(rows)
    assert found.misquoting == Share(2, 3)
    assert found.failures == {"contradicts itself": 2, "cut off": 1}


@pytest.mark.parametrize("precision", [0.0, 1.1, -1.0, float("nan")])
def test_a_precision_that_is_no_share_is_refused(precision: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"precision is .*must be a share"):
        CalibrateConfig(pairs=tmp_path, judge="j", templates="default", precision=precision)


def test_the_worlds_pairs_calibrate_the_embedded_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, out = str(tmp_path / "pairs"), tmp_path / "out"
    assert main(["world", "draw", "--pairs", "--count", "12", "--split", "evaluation", "--out", pairs]) == 0
    assert main(["curate", "calibrate", "--pairs", pairs, "--out", str(out), "--precision", "0.8"]) == 0
    assert f"{tiny_recipe().curate.judge} on 12 labelled pairs, 6 of them the same" in capsys.readouterr().out
    assert json.loads((out / "calibration.json").read_text())["by_verdict"]["recall"]["of"] == 6


def test_pairs_are_not_drawn_with_sheets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "draw", "--pairs", "--sheets", "--out", str(tmp_path / "p")]) == 2
    assert "--pairs goes with neither --sheets nor --maps" in capsys.readouterr().err
