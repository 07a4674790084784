"""Claims about votes, scores and what is made of them."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace
from pathlib import Path

import curation_parts as parts
import pyarrow.parquet as pq
import pytest
import tiny
from chat_server import chat_server

from dsd.chat.protocol import ChatFailure
from dsd.config import from_json, to_json
from dsd.curate.config import CurateConfig
from dsd.curate.ending import NoPairs
from dsd.curate.funnel import Funnel
from dsd.curate.judge import Candidate, elected, require_scores
from dsd.curate.pairs import settle
from dsd.curate.panels import Described
from dsd.curate.pipeline import curate
from dsd.curate.tasks.identity import IDENTITY
from dsd.data.records import Description, Model, Pair, Panel, Reject, Verdict, Votes, other_order
from dsd.data.rows import SINCE_2, to_pair, to_parquet
from dsd.data.store import DatasetReader, DatasetWriter
from dsd.errors import UserError
from dsd_world.recipe import tiny as tiny_recipe

JUDGE = Model(name="vlm", revision="1", template="compact/judge 3")


def pair(**more: object) -> Pair:
    return Pair(
        id="p", grid="g", reference_panel="a", target_panel="b", reference=tiny.picture(seed=1),
        target=tiny.picture(seed=2), reference_caption="a cat", target_caption="a cat at sea", subject="cat",
        first_details="red", second_details="red", comparison="same colour", judge=JUDGE, **more,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


SCORED = pair(score=0.75, agreement=2 / 3, votes=Votes(same=2, other=1, failed=1))


@pytest.mark.parametrize("one", [pair(), SCORED, replace(SCORED, score=None, agreement=None)])
def test_scores_and_votes_come_back_from_a_file(one: Pair) -> None:
    rows = pq.read_table(io.BytesIO(to_parquet("pairs", [one]))).to_pylist()
    found = to_pair(rows[0])
    assert (found.score, found.agreement, found.votes) == (one.score, one.agreement, one.votes)


def test_a_dataset_of_before_scores_is_read_without_them(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path)
    reject = Reject(pair=SCORED, outcome="rejected", reason="not the same individual")
    shards = [writer.write_shard("pairs", 0, [SCORED]), writer.write_shard("rejects", 0, [reject])]
    writer.finish(shards, {}, {})
    for shard in shards:
        path = tmp_path / shard.path
        pq.write_table(pq.read_table(path).drop_columns(list(SINCE_2)), path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema_version": 1}))
    reader = DatasetReader(tmp_path)
    for found in (*reader.pairs(), *(reject.pair for reject in reader.rejects())):
        assert (found.score, found.agreement, found.votes) == (None, None, None)
        assert found.first_details == "red"


def vote(same: bool, score: float | None = None, words: str = "") -> Verdict:
    return Verdict(common_subject="", first_details=words, second_details="", comparison="", same=same, score=score)


FAILED = ChatFailure("no JSON object")


@pytest.mark.parametrize(
    ("votes", "score", "agreement", "counts"),
    [
        ([vote(True)], None, None, Votes(same=1, other=0)),
        ([vote(True, 0.9)], 0.9, None, Votes(same=1, other=0)),
        ([vote(False, 0.25)], 0.25, None, Votes(same=0, other=1)),
        ([vote(True), vote(False), vote(True)], 2 / 3, 2 / 3, Votes(same=2, other=1)),
        ([vote(True, 0.9), vote(False, 0.3), vote(True, 0.9)], 0.7, 2 / 3, Votes(same=2, other=1)),
        ([vote(True, 0.6), vote(False), vote(True)], 1.6 / 3, 2 / 3, Votes(same=2, other=1)),
        ([FAILED, vote(False), vote(True)], 0.5, 0.5, Votes(same=1, other=1, failed=1)),
        ([FAILED, vote(True, 0.8), FAILED], 0.8, 1.0, Votes(same=1, other=0, failed=2)),
        ([vote(False)] * 5, 0.0, 1.0, Votes(same=0, other=5)),
    ],
)
def test_votes_are_kept_as_numbers(
    votes: list[Verdict | ChatFailure], score: float | None, agreement: float | None, counts: Votes
) -> None:
    found = elected(votes)
    assert isinstance(found, Verdict)
    assert found.same is (counts.same > counts.other)
    assert found.score == (None if score is None else pytest.approx(score, abs=1e-6))
    assert found.agreement == agreement
    assert found.votes == counts


def test_where_no_vote_is_usable_there_is_no_verdict() -> None:
    assert elected([FAILED, ChatFailure("empty reply")]) is FAILED


def described(number: int) -> Described:
    words = Description(subject="cat", details=f"{number}", caption=f"cat {number}")
    return Described(Panel(grid="g", number=number, image=tiny.picture(seed=number), description=words))


CANDIDATE = Candidate(described(0), described(1))


@pytest.mark.parametrize(
    ("verdict", "min_score", "became"),
    [
        (vote(True, 0.7), 0.0, "kept"),
        (vote(True, 0.7), 0.7, "kept"),
        (vote(True, 0.7), 0.71, "below min_score"),
        (vote(True, 0.3), 0.0, "kept"),
        (vote(True), 0.0, "kept"),
        (vote(True), 0.5, "no score"),
        (vote(False, 0.9), 0.5, "not the same individual"),
        (vote(False, 0.9), 0.0, "not the same individual"),
        (FAILED, 0.5, "no verdict: no JSON object"),
    ],
)
def test_what_is_kept_is_judged_the_same_with_a_score_that_is_high_enough(
    verdict: Verdict | ChatFailure, min_score: float, became: str
) -> None:
    outcome = settle(CANDIDATE, verdict, JUDGE, min_score)
    assert ("kept" if isinstance(outcome, tuple) else outcome.reason) == became
    one = outcome[0] if isinstance(outcome, tuple) else outcome.pair
    assert one.score == (verdict.score if isinstance(verdict, Verdict) else None)


def asdict_shallow(one: Pair) -> dict[str, object]:
    return {field.name: getattr(one, field.name) for field in fields(one)}


def test_a_turned_pair_is_the_same_pair_in_the_other_order() -> None:
    outcome = settle(CANDIDATE, replace(vote(True, 0.7, words="red"), second_details="crimson"), JUDGE)
    assert isinstance(outcome, tuple)
    one, other = outcome
    assert (other.reference, other.target, other.target_caption) == (one.target, one.reference, "cat 0")
    assert (other.first_details, other.second_details, other.score) == ("crimson", "red", 0.7)
    assert other.id != one.id
    assert replace(other, **other_order(asdict_shallow(other))) == one


def test_a_judge_that_never_says_how_sure_it_is_cannot_be_held_against_a_score() -> None:
    require_scores([vote(True), vote(False, 0.2)], "vlm", 0.5)
    require_scores([FAILED], "vlm", 0.5)
    with pytest.raises(UserError, match=r"min_score is 0.5, but vlm does not say how sure.*--curate.votes 5"):
        require_scores([vote(True), vote(False), FAILED], "vlm", 0.5)


def config(**more: object) -> CurateConfig:
    return replace(tiny_recipe().curate, **more)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("score", [-0.1, 1.01, float("nan")])
def test_a_score_that_nothing_can_have_is_refused(score: float) -> None:
    with pytest.raises(UserError, match=r"min_score is .*must be a score in"):
        config(min_score=score)


def test_the_writers_templates_are_the_judges_unless_they_are_named() -> None:
    assert config(templates="default").written_with == "default"
    assert config(templates="default", writer_templates="compact").written_with == "compact"


def test_a_config_of_before_is_read_with_the_writers_templates_that_it_had() -> None:
    before = json.loads(to_json(config()))
    del before["writer_templates"], before["min_score"]
    assert from_json(CurateConfig, json.dumps(before)) == config()


def test_sheets_may_be_judged_otherwise_but_not_have_been_written_otherwise() -> None:
    drawn = config()
    for now in (config(templates="default", min_score=0.5), config(templates="default", writer_templates="compact")):
        assert now.judged_as(drawn) == drawn
    assert config(writer_templates="default").judged_as(drawn) != drawn
    mixed = config(writer_templates="default")
    assert config(templates="default").judged_as(mixed) == mixed
    assert config(writer_templates="compact").judged_as(mixed) != mixed


def test_a_writer_behind_a_server_and_the_embedded_judge_each_have_the_prompts_that_they_know(tmp_path: Path) -> None:
    captions = parts.write_captions(tmp_path / "laion.parquet")
    with chat_server() as server:
        mixed = parts.config(
            captions, f"openai:test@{server.url}", judge="embedded:tiny-vlm", templates="compact",
            writer_templates="default", units=1, unit_size=2, panel_size=64,
        )  # fmt: skip
        funnel = curate_quietly(mixed, tmp_path / "out")
        asked = [body["messages"][-1]["content"][0]["text"] for body in server.requests]
    assert asked
    assert all(text.startswith("You write prompts for a text-to-image model.") for text in asked)
    assert funnel.candidates == 12
    assert not any(reason.startswith("no description") for reason in funnel.failed)


def curate_quietly(config: CurateConfig, out: Path) -> Funnel:
    """What became of the captions, whether there is something to train on or not."""
    try:
        return curate(config, out)
    except NoPairs as none:
        return none.funnel


def test_writer_and_judge_are_each_asked_with_their_own_templates(tmp_path: Path) -> None:
    labels = {kind: one.label.split("/")[0] for kind, one in IDENTITY.load_templates("compact", "default").items()}
    assert labels.pop("grid_prompt") == labels.pop("sheet") == "default"
    assert set(labels.values()) == {"compact"}
    (tmp_path / "own").mkdir()
    for name in ("grid_prompt", "sheet"):
        (tmp_path / "own" / f"{name}.md").write_text((IDENTITY.templates / "default" / f"{name}.md").read_text())
    mixed = IDENTITY.load_templates("compact", str(tmp_path / "own"))
    assert list(mixed) == list(IDENTITY.places)
    assert mixed["sheet"].label == "own/sheet 1"
    with pytest.raises(UserError, match=r"describe\.md"):
        IDENTITY.load_templates(str(tmp_path / "own"))


def test_a_score_that_the_judge_cannot_give_ends_the_curation_with_a_sentence_before_anything_is_kept(
    tmp_path: Path,
) -> None:
    captions = parts.write_captions(tmp_path / "laion.parquet")
    with chat_server() as server:
        wanting = parts.config(captions, f"openai:test@{server.url}", min_score=0.5, units=1, unit_size=2)
        with pytest.raises(UserError, match=r"min_score is 0\.5, but .* does not say how sure it is; let it vote"):
            curate(wanting, tmp_path / "out")
    assert not list((tmp_path / "out").glob("pairs/*"))
