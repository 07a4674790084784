"""Claims about curation, with a tiny random teacher and a chat server on loopback: nothing is lost, nothing is
repeated, and a second start gives what an undisturbed run gives."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import curation_parts as parts
import datasets
import pytest
import tiny
from chat_server import ChatServer, chat_server
from PIL import Image, ImageEnhance

from dsd.chat.protocol import ChatFailure
from dsd.curate.config import CurateConfig
from dsd.curate.ending import NoPairs
from dsd.curate.funnel import Funnel
from dsd.curate.judge import VOTING_TEMPERATURE, elected, near_copy
from dsd.curate.pipeline import curate
from dsd.curate.tasks.identity import LAYOUT
from dsd.data.records import Verdict
from dsd.data.rows import to_sheet
from dsd.data.store import DatasetReader, read_shard, shard_path
from dsd.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kill_curation import differences


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> str:
    return parts.write_captions(tmp_path_factory.mktemp("captions") / "laion.parquet")


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _open_server(server: ChatServer) -> None:
    server.requests.clear()
    server.script.clear()
    server.closed_after = None


@pytest.fixture(scope="module")
def config(server: ChatServer, captions: str) -> CurateConfig:
    return parts.config(captions, f"openai:test@{server.url}")


@pytest.fixture(scope="module")
def finished(config: CurateConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "dataset"
    curate(config, folder)
    return folder


def asked(server: ChatServer) -> Counter[str]:
    return Counter(body["response_format"]["json_schema"]["name"] for body in server.requests)


def test_everything_is_asked_once_and_every_candidate_becomes_a_row(
    config: CurateConfig, server: ChatServer, tmp_path: Path
) -> None:
    funnel = curate(config, tmp_path / "dataset")
    sheets = parts.TAKEN
    assert asked(server) == {"GridPromptReply": sheets, "PanelDescription": 4 * sheets, "PairVerdict": 6 * sheets}
    assert len({json.dumps(body["messages"]) for body in server.requests}) == len(server.requests)
    assert funnel.captions_skipped == {"empty": 2, "near-duplicate": 1}
    assert funnel.candidates == 6 * sheets == funnel.kept + sum(funnel.rejected.values())
    assert 0 < funnel.kept < funnel.candidates
    reader = DatasetReader(tmp_path / "dataset")
    reader.verify()
    panels = [(pair.reference_panel, pair.target_panel) for pair in reader.pairs()]
    rejected = [(reject.pair.reference_panel, reject.pair.target_panel) for reject in reader.rejects()]
    assert len(panels) == len(reader) == funnel.pairs
    assert {(b, a) for a, b in panels} == set(panels)
    unordered = Counter(frozenset(two) for two in panels)
    assert set(unordered.values()) == {2}
    assert len({*unordered, *map(frozenset, rejected)}) == funnel.candidates


def test_a_pair_in_the_other_order_has_its_words_the_other_way(finished: Path) -> None:
    pairs = {(pair.reference_panel, pair.target_panel): pair for pair in DatasetReader(finished).pairs()}
    for (reference, target), pair in pairs.items():
        turned = pairs[target, reference]
        assert (pair.reference, pair.reference_caption) == (turned.target, turned.target_caption)
        assert (pair.first_details, pair.second_details) == (turned.second_details, turned.first_details)
        assert pair.id != turned.id


def test_rows_name_where_they_come_from(finished: Path, config: CurateConfig) -> None:
    reader = DatasetReader(finished)
    sheets = {sheet.grid.id: sheet for sheet in reader.sheets() if sheet.grid is not None}
    assert len(sheets) == parts.TAKEN
    for pair in reader.pairs():
        sheet = sheets[pair.grid]
        assert sheet.prompt is not None and sheet.grid is not None
        assert pair.target_caption in [words.caption for words in sheet.descriptions]
        assert pair.target in LAYOUT.split(sheet.grid.image)
        assert (sheet.grid.prompt, sheet.prompt.caption) == (sheet.prompt.id, sheet.caption.id)
        assert sheet.grid.teacher.name == config.teacher
        assert (sheet.prompt.writer.template, pair.judge.template) == ("compact/grid_prompt 1", "compact/judge 3")


def test_datasets_opens_what_was_curated(finished: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(finished), cache_dir=str(tmp_path), split="train")
    assert isinstance(loaded, datasets.Dataset)
    assert loaded[0]["reference"].size == (32, 32)


def test_a_finished_dataset_is_left_alone(finished: Path, config: CurateConfig, server: ChatServer) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert curate(config, finished).kept == len(DatasetReader(finished)) // 2
    assert server.requests == []
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_a_lost_record_is_made_anew_with_the_same_bytes(finished: Path, config: CurateConfig, tmp_path: Path) -> None:
    again = tmp_path / "dataset"
    shutil.copytree(finished, again)
    for name in ("manifest.json", "units/00001.json", "pairs/00001.parquet", "README.md"):
        (again / name).unlink()
    (again / "pairs" / ".00001.parquet.0123abcd.tmp").write_bytes(b"torn")
    (again / ".theirs.tmp").mkdir()
    curate(config, again)
    assert not differences(finished, again)


def test_a_server_that_goes_away_leaves_finished_units(
    finished: Path, config: CurateConfig, server: ChatServer, tmp_path: Path
) -> None:
    server.closed_after = 60
    with pytest.raises(UserError, match="closed"):
        curate(config, tmp_path / "dataset")
    assert (tmp_path / "dataset" / "units" / "00000.json").exists()
    assert not (tmp_path / "dataset" / "manifest.json").exists()
    with pytest.raises(UserError, match="no finished dataset"):
        DatasetReader(tmp_path / "dataset")
    server.closed_after = None
    curate(config, tmp_path / "dataset")
    assert not differences(finished, tmp_path / "dataset")


def test_a_changed_setting_is_named(finished: Path, config: CurateConfig) -> None:
    for field, value in {"steps": 3, "seed": 1, "chain_of_thought": False, "captions": "other.txt"}.items():
        with pytest.raises(UserError, match=rf"holds a dataset with {field} = .* \(now .*\)"):
            curate(dataclasses.replace(config, **{field: value}), finished)


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\xff"], ids=["cut", "list", "empty", "binary"])
@pytest.mark.parametrize("name", ["units/captions.json", "config.json", "sources.json"])
def test_damaged_files_beside_sheets_are_one_sentence(
    name: str, content: str, finished: Path, config: CurateConfig, tmp_path: Path
) -> None:
    drawn = shutil.copytree(finished, tmp_path / "drawn")
    (drawn / name).write_bytes(content.encode("latin-1"))
    again = dataclasses.replace(config, sheets_from=str(drawn), votes=3)
    with pytest.raises(UserError, match=name):
        curate(again, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("who", ["judge", "chat"])
def test_a_server_that_is_away_claims_nothing(who: str, config: CurateConfig, tmp_path: Path) -> None:
    away = dataclasses.replace(config, **{who: "openai:test@http://127.0.0.1:1/v1"})
    with pytest.raises(UserError, match="no connection"):
        curate(away, tmp_path)
    assert curate(config, tmp_path).pairs > 0


def test_another_judge_is_told_the_way_on(finished: Path, config: CurateConfig, tmp_path: Path) -> None:
    other = dataclasses.replace(config, judge=config.judge.replace("test", "other"))
    way = f"give --curate.sheets-from {finished} --out OTHER"
    with pytest.raises(UserError, match=f"judge = .*; to judge its sheets in this way, {way}$"):
        curate(other, finished)
    curate(dataclasses.replace(other, sheets_from=str(finished)), tmp_path)
    with pytest.raises(UserError, match=f"{way}$"):
        curate(dataclasses.replace(config, sheets_from=str(finished)), tmp_path)
    with pytest.raises(UserError) as caught:
        curate(dataclasses.replace(other, steps=3), finished)
    assert "sheets-from" not in str(caught.value)


def test_a_dataset_from_elsewhere_is_left_alone(finished: Path, config: CurateConfig, tmp_path: Path) -> None:
    again = tmp_path / "dataset"
    shutil.copytree(finished, again)
    (again / "config.json").unlink()
    with pytest.raises(UserError, match="made elsewhere"):
        curate(config, again)


def test_a_folder_that_was_never_claimed_is_not_swept(config: CurateConfig, tmp_path: Path) -> None:
    (tmp_path / ".a.0123abcd.tmp").write_text("theirs")
    (tmp_path / ".b.tmp").mkdir()
    with pytest.raises(UserError):
        curate(dataclasses.replace(config, captions="nowhere.txt"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.0123abcd.tmp", ".b.tmp"]


def test_changed_weights_under_the_same_name_are_told(finished: Path, config: CurateConfig, tmp_path: Path) -> None:
    again = tmp_path / "dataset"
    shutil.copytree(finished, again)
    (again / "manifest.json").unlink()
    (again / "units" / "00002.json").unlink()
    sources = json.loads((again / "sources.json").read_text())
    del sources["sha256"]
    (again / "sources.json").write_text(json.dumps(sources | {"teacher": "0123456789ab"}))
    with pytest.raises(UserError, match="revision 0123456789ab of teacher"):
        curate(config, again)


def test_failures_are_counted_where_they_happen(config: CurateConfig, server: ChatServer, tmp_path: Path) -> None:
    prompt = json.dumps({"subject": "a cat", "scenes": ["a", "b", "c", "d"]})
    panel = json.dumps({"subject": "cat", "details": "red", "caption": "a red cat"})
    verdict = json.dumps(
        {
            "common_subject": "cat",
            "first_details": "red",
            "second_details": "red",
            "comparison": "same colour",
            "same": True,
        }
    )
    in_order = dataclasses.replace(config, units=1, chat_batch=1)

    server.script += ["no", prompt, "no", "no", *[panel] * 4, *[verdict] * 6]  # what fails is asked again at last
    funnel = curate(dataclasses.replace(in_order, unit_size=2), tmp_path / "prompt")
    assert funnel.prompts_failed == {"no JSON object": 1}
    assert (funnel.grid_prompts, funnel.candidates) == (1, 6)
    reasons = [sheet.reason for sheet in DatasetReader(tmp_path / "prompt").sheets()]
    assert reasons == ["no grid prompt: no JSON object", ""]

    server.script += [prompt, "no", *[panel] * 3, "no", "no", *[verdict] * 3]
    funnel = curate(dataclasses.replace(in_order, unit_size=1), tmp_path / "panel")
    assert (funnel.failed, funnel.kept) == ({"no description: no JSON object": 3}, 3)

    server.script += [prompt, *[panel] * 4, "Never!", *[verdict] * 5, "Never!", "Never!"]
    funnel = curate(dataclasses.replace(in_order, unit_size=1), tmp_path / "verdict")
    assert (funnel.failed, funnel.kept) == ({"no verdict: no JSON object": 1}, 5)
    assert [reject.words for reject in DatasetReader(tmp_path / "verdict").rejects()] == ["Never!"]


def test_a_direct_verdict_takes_its_reasons_from_the_descriptions(
    config: CurateConfig, server: ChatServer, tmp_path: Path
) -> None:
    curate(dataclasses.replace(config, units=1, chain_of_thought=False), tmp_path / "dataset")
    assert asked(server)["DirectVerdict"] == 18
    reader = DatasetReader(tmp_path / "dataset")
    details = {words.details for sheet in reader.sheets() for words in sheet.descriptions}
    judged = [*reader.pairs(), *(reject.pair for reject in reader.rejects())]
    assert len(judged) > 18
    assert {pair.first_details for pair in judged} | {pair.second_details for pair in judged} <= details
    assert judged[0].judge.template == "compact/judge_direct 1"


def verdict(same: bool, words: str = "") -> Verdict:
    return Verdict(common_subject="", first_details=words, second_details="", comparison="", same=same)


@pytest.mark.parametrize(
    ("votes", "elected_words"),
    [
        ([verdict(True, "a")], "a"),
        ([verdict(False, "a"), verdict(True, "b"), verdict(True, "c")], "b"),
        ([verdict(True, "a"), verdict(False, "b"), verdict(False, "c")], "b"),
        ([ChatFailure("cut off"), verdict(True, "b"), verdict(False, "c")], "c"),
        ([ChatFailure("cut off"), ChatFailure("cut off"), verdict(True, "c")], "c"),
    ],
)
def test_the_majority_of_usable_votes_decides_and_a_tie_refuses(
    votes: list[Verdict | ChatFailure], elected_words: str
) -> None:
    found = elected(votes)
    assert isinstance(found, Verdict) and found.first_details == elected_words


def test_a_pair_without_a_usable_vote_fails() -> None:
    assert elected([ChatFailure("cut off"), ChatFailure("empty reply")]) == ChatFailure("cut off")


def test_several_votes_ask_each_pair_so_often_with_seeds_of_their_own(
    config: CurateConfig, server: ChatServer, tmp_path: Path
) -> None:
    funnel = curate(dataclasses.replace(config, votes=3), tmp_path / "dataset")
    judged = [body for body in server.requests if "PairVerdict" in json.dumps(body["response_format"])]
    assert len(judged) == 3 * 6 * parts.TAKEN and len({body["seed"] for body in judged}) == len(judged)
    assert {body["temperature"] for body in judged} == {VOTING_TEMPERATURE}
    assert {body["temperature"] for body in server.requests if body not in judged} == {0.0}
    assert funnel.kept + sum(funnel.rejected.values()) == 6 * parts.TAKEN
    pair = next(iter(DatasetReader(tmp_path / "dataset").pairs()))
    assert "3 votes" in pair.judge.template


def test_fixed_subjects_are_drawn_again_and_again_without_captions_and_language_model(
    config: CurateConfig, server: ChatServer, tmp_path: Path
) -> None:
    scenes, subjects = ("at sea", "at night", "in the snow", "in the city"), ("red cat", "blue mug, with a handle")
    fixed = dataclasses.replace(config, captions="no/such/file", themes=scenes, subjects=subjects, units=2)
    curate(fixed, tmp_path / "dataset")
    assert "GridPromptReply" not in asked(server)
    sheets = list(DatasetReader(tmp_path / "dataset").sheets())
    assert Counter(sheet.prompt.subject for sheet in sheets) == {subjects[0]: 3, subjects[1]: 3}
    assert {sheet.prompt.scenes for sheet in sheets} == {scenes}
    assert len({sheet.grid.seed for sheet in sheets}) == len({sheet.grid.id for sheet in sheets}) == 6
    with pytest.raises(UserError, match="without themes"):
        dataclasses.replace(config, subjects=subjects)


def test_near_copies_are_rejected_unjudged(
    config: CurateConfig, server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsd.curate.judge.NEAR_COPY_BITS", 64)
    with pytest.raises(NoPairs, match=r"18 candidates rejected \(18 nearly the same picture\)"):
        curate(dataclasses.replace(config, units=1, near_copy_threshold=0.99), tmp_path / "dataset")
    assert asked(server)["PairVerdict"] == 0


def test_sheets_without_panels_are_refused_with_a_reason(config: CurateConfig, tmp_path: Path) -> None:
    with pytest.raises(NoPairs, match=r"of 3 captions: 3 sheets refused \(.* no edge between panels"):
        curate(dataclasses.replace(config, teacher=tiny.schnell(), units=1), tmp_path / "dataset")
    sheets = list(read_shard(shard_path(tmp_path / "dataset", "grids", 0), to_sheet))
    assert all(sheet.reason and sheet.grid and not sheet.descriptions for sheet in sheets)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"captions": "none.parquet"}, "cannot read captions"),
        ({"panel_size": 20}, "needs a multiple of 8"),
        ({"teacher": "/none"}, "there is no model folder"),
        ({"templates": "none"}, "there are no templates"),
        ({"judge": "openai:x"}, "names no server"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(config: CurateConfig, changes: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        curate(dataclasses.replace(config, **changes), tmp_path / "dataset")
    assert not list((tmp_path / "dataset").rglob("*")), "so that a corrected command can take the folder"


def test_a_place_that_cannot_be_written_to_is_one_sentence(config: CurateConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        curate(config, tmp_path / "file" / "dataset")


@pytest.mark.parametrize("changes", [{"units": 0}, {"steps": -1}, {"true_guidance": 0.5}, {"near_copy_threshold": 1.0}])
def test_settings_have_ranges(changes: dict, config: CurateConfig) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        dataclasses.replace(config, **changes)


def test_a_funnel_that_does_not_add_up_is_an_error() -> None:
    funnel = Funnel(captions=1, grid_prompts=1, sheets=1, candidates=6, kept=2, rejected={"different": 4})
    funnel.reconcile(6)
    assert Funnel.from_dict(json.loads(json.dumps(funnel.to_dict()))) == funnel
    assert (funnel + funnel).rejected == {"different": 8}
    for changes in ({"kept": 3}, {"captions": 2}, {"sheets": 2}, {"failed": {"no verdict": 1}}):
        with pytest.raises(RuntimeError, match="does not add up"):
            dataclasses.replace(funnel, **changes).reconcile(6)


def test_near_copies_need_both_signs() -> None:
    picture = tiny.picture((64, 64))
    brighter = ImageEnhance.Brightness(picture).enhance(1.02)
    dark = [ImageEnhance.Brightness(tiny.picture((64, 64), seed)).enhance(0.05) for seed in (1, 2)]
    flat = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green")]
    assert near_copy(picture, brighter, 0.03)
    assert not near_copy(*dark, 0.03)
    assert not near_copy(*flat, 0.03)
    assert not any(near_copy(a, b, 0.03) for a, b in combinations([tiny.picture((64, 64), s) for s in range(4)], 2))
