"""Claims about reading replies: what models wrap around JSON is skipped, what is wrong inside it is never repaired."""

from __future__ import annotations

import json
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from dsd.chat.parse import ATTEMPTS, ask_until_parsed, parse_reply
from dsd.chat.protocol import ChatFailure, ChatRequest
from dsd.curate.schemas import DirectVerdict, GridPromptReply, PairVerdict, PanelDescription

VERDICT = {
    "common_subject": "a cat",
    "first_details": "red, striped",
    "second_details": "red, spotted",
    "comparison": "other pattern",
    "same": False,
}
GOOD = json.dumps(VERDICT)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```\n\nI hope this helps!",
        f"Sure! Here is the verdict:\n\n{json.dumps(VERDICT, indent=4)}",
        f'<think>The first is {{"same": true}}, or is it?</think>{GOOD}',
        f"{GOOD}\n{GOOD}",
        f"The set {{red, striped}} differs. {GOOD}<|im_end|>",
        "\ufeff" + GOOD,
    ],
)
def test_wrapping_is_skipped(text: str) -> None:
    assert parse_reply(text, PairVerdict) == PairVerdict(**VERDICT)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty reply"),
        (" \n", "empty reply"),
        ("I cannot help with identifying individuals.", "no JSON object"),
        (GOOD[:-9], "no JSON object"),
        (GOOD.replace('"', "'"), "no JSON object"),
        (GOOD[:-1] + ",}", "no JSON object"),
        (json.dumps([1, 2]), "no JSON object"),
        (GOOD.replace("false", "NaN"), "no JSON object"),
        ("{" * 5000, "no JSON object"),
        (f"{GOOD} wait: {GOOD.replace('false', 'true')}", "several JSON objects"),
        (GOOD[:-1] + ', "same": true}', "repeated key"),
        (json.dumps(VERDICT | {"same": "false"}), "not in the schema"),
        (json.dumps(VERDICT | {"same": 0}), "not in the schema"),
        (json.dumps(VERDICT | {"same": None}), "not in the schema"),
        (json.dumps(VERDICT | {"first_details": ["red", "striped"]}), "not in the schema"),
        (json.dumps(VERDICT | {"first_details": "   "}), "not in the schema"),
        (json.dumps(VERDICT | {"confidence": 131184.67}), "not in the schema"),
        (json.dumps({"same": True}), "not in the schema"),
        (json.dumps({"verdict": VERDICT}), "not in the schema"),
    ],
)
def test_what_is_wrong_inside_is_a_failure_with_its_reason(text: str, reason: str) -> None:
    found = parse_reply(text, PairVerdict)
    assert isinstance(found, ChatFailure)
    assert (found.reason, found.text) == (reason, text)


def test_a_failure_names_the_field() -> None:
    found = parse_reply(json.dumps(VERDICT | {"same": "yes"}), PairVerdict)
    assert isinstance(found, ChatFailure)
    assert "same" in found.detail


@pytest.mark.parametrize(
    "scenes", [["a", "b", "c"], ["a", "b", "c", "d", "e"], ["a", "b", "c", 4], "a, b, c, d", ["a", "b", "c", " A"]]
)
def test_a_grid_prompt_has_four_different_scenes(scenes: object) -> None:
    found = parse_reply(json.dumps({"subject": "a cat", "scenes": scenes}), GridPromptReply)
    assert isinstance(found, ChatFailure)


def test_words_are_stripped() -> None:
    reply = parse_reply('{"subject": " a cat\\n", "details": "red", "caption": "a red cat"}', PanelDescription)
    assert reply == PanelDescription(subject="a cat", details="red", caption="a red cat")


def test_numbers_keep_their_range_and_type_whatever_the_schema_says_of_strictness() -> None:
    class Score(BaseModel):
        score: Annotated[float, Field(ge=0, le=1)]
        votes: int

    assert parse_reply('{"score": 0.5, "votes": 3}', Score) == Score(score=0.5, votes=3)
    for text in ('{"score": 131184.67, "votes": 3}', '{"score": "0.5", "votes": 3}', '{"score": 0.5, "votes": "3"}'):
        assert isinstance(parse_reply(text, Score), ChatFailure)


@given(st.text())
def test_any_text_gives_a_value(text: str) -> None:
    assert isinstance(parse_reply(text, DirectVerdict), (DirectVerdict, ChatFailure))


def test_only_unparsed_replies_are_asked_for_again() -> None:
    asked: list[tuple[int, int]] = []

    def ask(requests, attempt):
        asked.append((attempt, len(requests)))
        return [{0: "hm", 1: '{"same": true}'}.get(min(request.seed, attempt), "hm") for request in requests]

    requests = [ChatRequest(messages=(), schema=DirectVerdict, seed=seed) for seed in (0, 1, 0)]
    replies = ask_until_parsed(requests, ask)
    assert replies[1] == DirectVerdict(same=True)
    assert [getattr(reply, "reason", "") for reply in replies] == ["no JSON object", "", "no JSON object"]
    assert asked == [(0, 3), (1, 3), (2, 2)]
    assert len(asked) == ATTEMPTS


def test_what_is_asked_in_vain_is_not_asked_again() -> None:
    asked = []

    def ask(requests, attempt):
        asked.append(attempt)
        return [ChatFailure("refused to answer")] * len(requests)

    assert ask_until_parsed([ChatRequest(messages=(), schema=DirectVerdict)], ask) == [ChatFailure("refused to answer")]
    assert asked == [0]
    assert ask_until_parsed([], ask) == []
