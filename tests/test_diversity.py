"""Claims about diversity: what was said before is recognised, refused within a unit, and counted over all of them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import curation_parts as parts
import pytest
from chat_server import ChatServer, chat_server
from hypothesis import given
from hypothesis import strategies as st

from dsd.chat.protocol import ChatFailure
from dsd.curate.config import CurateConfig
from dsd.curate.diversity import REPEATED, diversity, diversity_of, refuse_repeated, words_of
from dsd.curate.funnel import Funnel
from dsd.curate.pipeline import curate
from dsd.data.records import Caption, GridPrompt, Model
from dsd.data.store import DatasetReader
from dsd.recipes.registry import recipe

SCENES = ("at sea", "at night", "in the snow", "in the city")


def prompt(subject: str, scenes: tuple[str, ...] = SCENES) -> GridPrompt:
    text, writer = f"a 2x2 grid of the same {subject}", Model(name="m", revision="r")
    return GridPrompt(caption=Caption(text=subject).id, subject=subject, scenes=scenes, text=text, writer=writer)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("a red cat", "A Red Cat.", True),
        ("a red cat", "the red cat", True),
        ("red striped cat with a hat", "a red striped cat, with hat", True),
        ("an old brass telescope", "old brass telescopes", True),
        ("red striped cat with a hat", "red spotted cat with a hat", False),
        ("a red cat with a blue hat", "a blue cat with a red hat", False),
        ("a red cat", "a red car", False),
        ("the", "a", False),
    ],
)
def test_a_subject_is_known_again_in_other_words_for_it(first: str, second: str, same: bool) -> None:
    left, right = refuse_repeated([prompt(first), prompt(second, scenes=("a", "b", "c", "d"))])
    assert isinstance(left, GridPrompt)
    assert isinstance(right, ChatFailure) == same
    if isinstance(right, ChatFailure):
        assert right.reason == REPEATED and second in right.detail
    assert diversity([(first, SCENES, True), (second, SCENES, True)])["distinct subjects"] == 2 - same


def test_what_is_refused_of_a_unit_keeps_its_place_and_failures_stay() -> None:
    failure = ChatFailure("no JSON object")
    written = [prompt("a cat"), failure, prompt("the cat"), prompt("a dog"), prompt("Cat!")]
    found = refuse_repeated(written)
    assert found[:2] == written[:2] and found[3] == written[3]
    assert [getattr(one, "reason", "") for one in found] == ["", "no JSON object", REPEATED, "", REPEATED]


@given(st.lists(st.text(min_size=1, max_size=12), max_size=12))
def test_refusing_again_refuses_nothing_more(subjects: list[str]) -> None:
    kept = [one for one in refuse_repeated([prompt(subject) for subject in subjects]) if isinstance(one, GridPrompt)]
    assert refuse_repeated(kept) == kept


def test_what_is_different_is_counted_over_all_units_and_in_what_is_kept() -> None:
    other = ("in a room", *SCENES[1:])
    written = [("a red cat", SCENES, True), ("The red cat", SCENES, False), ("a blue mug", other, False),
               ("a red cat", other, True)]  # fmt: skip
    found = diversity(iter(written))
    assert found == {
        "grid prompts": 4, "distinct subjects": 2, "kept subjects": 1, "distinct scenes": 5, "kept scenes": 5,
        "repeated prompts": 1,
    }  # fmt: skip
    assert diversity([]) == dict.fromkeys(found, 0)


def test_where_batches_end_changes_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    subjects = ["a red fox", "an old ship", "red foxes"] * 40
    written = [
        (f"{subject} {n % 7}", (f"scene {n}", "at sea", "at sea", "b"), n % 3 == 0)
        for n, subject in enumerate(subjects)
    ]
    whole = diversity(written)
    for size in (1, 7, 64):
        monkeypatch.setattr("dsd.curate.diversity._BATCH", size)
        assert diversity(written) == whole


def test_most_prompts_that_say_nearly_the_same_are_found_among_many() -> None:
    words = [
        f"{colour} {thing}" for colour in ("amber", "teal", "violet", "ivory") for thing in map(str, range(100, 200))
    ]
    texts = [(f"a {one} lantern", (f"near the {one} gate", f"under {one} rain", "on a long wooden pier", "in fog"))
             for one in words]  # fmt: skip
    again = [(f"{subject}s", scenes) for subject, scenes in texts]
    found = diversity([(subject, scenes, True) for subject, scenes in [*texts, *again]])
    assert found["repeated prompts"] >= 0.9 * len(again)


def test_words_are_compared_without_case_punctuation_and_articles() -> None:
    assert words_of("The RED cat, an owl & a hat!") == "red cat owl hat"
    assert words_of("a") == "a" and words_of("") == "" and words_of("!!!") == "!!!"


def test_the_funnel_says_what_is_different_in_plain_words() -> None:
    found = {"grid prompts": 2000, "distinct subjects": 1500, "kept subjects": 1234, "distinct scenes": 40,
             "kept scenes": 39, "repeated prompts": 3}  # fmt: skip
    funnel = Funnel(captions=2000, grid_prompts=2000, diversity=found)
    assert funnel.lines()[-2:] == [
        "   1,234 distinct subjects in what is kept, of 1,500 written; 500 grid prompts (25%) name one again, 3 nearly "
        "repeat a whole prompt",
        "      39 distinct scenes in what is kept, of 40 written",
    ]
    assert Funnel.from_dict(json.loads(json.dumps(funnel.to_dict()))) == funnel
    assert (funnel + funnel).diversity is None and "diversity" not in Funnel().to_dict()
    assert not any(
        "distinct" in line for line in (*Funnel().lines(), *dataclasses.replace(funnel, diversity={}).lines())
    )


# In a curation.


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


@pytest.fixture
def config(server: ChatServer, tmp_path: Path) -> CurateConfig:
    server.script.clear()
    captions = parts.write_captions(tmp_path / "laion.parquet")
    return parts.config(captions, f"openai:test@{server.url}", units=1, unit_size=4, chat_batch=1)


def replies(*subjects: str) -> list[Any]:
    return [json.dumps({"subject": subject, "scenes": list(SCENES)}) for subject in subjects]


def test_a_repeated_subject_is_not_drawn_and_is_counted_with_its_reason(
    config: CurateConfig, server: ChatServer, tmp_path: Path
) -> None:
    server.script += replies("a red cat", "a blue mug", "the Red cat", "an old ship")
    funnel = curate(dataclasses.replace(config, refuse_repeated=True), tmp_path / "refused")
    assert funnel.prompts_failed == {REPEATED: 1} and funnel.grid_prompts == 3
    sheets = list(DatasetReader(tmp_path / "refused").sheets())
    assert [sheet.reason for sheet in sheets] == ["", "", f"no grid prompt: {REPEATED}", ""]
    assert funnel.diversity is not None and funnel.diversity["distinct subjects"] == 3


def test_without_the_setting_it_is_drawn_and_counted_alone(
    config: CurateConfig, server: ChatServer, tmp_path: Path
) -> None:
    server.script += replies("a red cat", "a blue mug", "the Red cat", "an old ship")
    funnel = curate(config, tmp_path / "drawn")
    assert funnel.grid_prompts == 4 and not funnel.prompts_failed
    assert funnel.diversity is not None
    assert (funnel.diversity["distinct subjects"], funnel.diversity["repeated prompts"]) == (3, 1)
    reader = DatasetReader(tmp_path / "drawn")
    kept = {pair.grid for pair in reader.pairs()}
    subjects = {words_of(sheet.prompt.subject) for sheet in reader.sheets() if sheet.prompt and sheet.grid.id in kept}
    assert funnel.diversity["kept subjects"] == len(subjects)
    assert diversity_of(reader.folder, reader.manifest.shards) == reader.funnel()["diversity"] == funnel.diversity


def test_recipes_of_large_models_refuse_repeated_subjects_and_the_drawn_world_does_not() -> None:
    assert recipe("flux-dev").curate.refuse_repeated
    assert not recipe("tiny").curate.refuse_repeated, "its words are few, and its individuals more than its words"
    assert re.search("refuse_repeated", CurateConfig.__doc__ or "")
