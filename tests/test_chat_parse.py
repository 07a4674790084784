"""Claims about reading replies: only a reply that is the object is read, and nothing wrong inside it is repaired."""

from __future__ import annotations

import json
import time
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from dsd.chat.objects import LONGEST_REPLY
from dsd.chat.parse import ATTEMPTS, CutText, ask_until_parsed, parse_reply
from dsd.chat.protocol import ChatFailure, ChatRequest, Message, TextPart
from dsd.curate.schemas import DirectVerdict, GridPromptReply, PairVerdict, PanelDescription

VERDICT = {
    "common_subject": "a cat",
    "first_details": "red, striped",
    "second_details": "red, spotted",
    "comparison": "other pattern",
    "same": False,
}
GOOD = json.dumps(VERDICT)


THOUGHT = '<think>The first is {"same": true}, or is it?</think>'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"```JSON\n{GOOD}\n```\n\n",
        f"```{GOOD}```",
        f"~~~\n{GOOD}\n~~~",
        f"`{GOOD}`",
        f"\n{json.dumps(VERDICT, indent=4)}\n",
        f"{THOUGHT}{GOOD}",
        f"<Reasoning>\n{GOOD}</REASONING>\n\n<thinking></thinking>```json\n{GOOD}```",
        f"<think>İ{GOOD}</think>{GOOD}",
        f"{GOOD}<|im_end|>",
        f"{GOOD}<|im_end|>\n<|endoftext|>\n",
        f"```json\n{GOOD}\n```<|eot_id|>",
        f"{GOOD}<\uff5cend\u2581of\u2581sentence\uff5c>",
        *(blank + GOOD + blank for blank in ("\u00a0", "\u200b", "\ufeff\u200b ", "\n\u00a0")),
        f"The hats agree, so: {GOOD}\n</think>\n\n{GOOD}",
        f"</think>\n{GOOD}",
        f"The hats agree.[/THINK]```json\n{GOOD}\n```",
        f"[THINK]{GOOD}[/THINK]{GOOD}",
        f"<think>hm</think >{GOOD}",
        f"<think>a<think>b</think>c</think>{GOOD}",
        f"json\n{GOOD}",
        f"JSON \r\n{GOOD}",
        "\ufeff" + GOOD,
        "```\n\ufeff" + GOOD + "\n```",
    ],
)
def test_code_fences_and_closed_thoughts_are_set_aside(text: str) -> None:
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
        (json.dumps([VERDICT]), "no JSON object"),
        (json.dumps(GOOD), "words around the object"),
        (f"Sure! Here is the verdict:\n\n{GOOD}", "words around the object"),
        (f"```\n{GOOD}\n```\n\nI hope this helps!", "words around the object"),
        (f"```json\n{GOOD}", "words around the object"),
        (f"```python\n{GOOD}\n```", "words around the object"),
        (f"The set {{red, striped}} differs. {GOOD}", "words around the object"),
        (f"{GOOD} Wait, they are NOT the same", "words around the object"),
        (f"{GOOD}{THOUGHT}", "several JSON objects"),
        (f"{GOOD}<think>no</think>", "words around the object"),
        (f"<think>{GOOD}", "unclosed thought"),
        (f"<think>{GOOD}</thinking>", "unclosed thought"),
        (f"<think>a<think>b</think>{GOOD}</think>", "no JSON object"),
        (f"<think>I was told to write <think>hm</think>{GOOD}", "unclosed thought"),
        (f"<think>a<THINK>b<think >c</think></think>{GOOD}", "unclosed thought"),
        (f"[THINK]hm</think>{GOOD}", "unclosed thought"),
        (f"so: {GOOD}</think>", "no JSON object"),
        (f"so: {GOOD}</think>no, {GOOD}", "words around the object"),
        (f"so: <think>hm</think>{GOOD}", "words around the object"),
        (f"{GOOD}</think>{GOOD}", "several JSON objects"),
        *(
            (f"{GOOD}<|{made_up}|>", "words around the object")
            for made_up in ("retract", "not_same", "im_start", "false")
        ),
        (f"{GOOD}<|im_end|>no<|im_end|>", "words around the object"),
        (f"yaml\n{GOOD}", "words around the object"),
        (f"json {GOOD}", "words around the object"),
        (f"{GOOD}\n{GOOD}", "several JSON objects"),
        (json.dumps(VERDICT | {"comparison": "..."}), "says nothing"),
        (json.dumps(VERDICT | {"comparison": "<the points>"}), "says nothing"),
        (json.dumps(VERDICT | {"comparison": "12:30"}), "not in the schema"),
        (json.dumps(VERDICT | {"comparison": "half \ud83d"}), "no text"),
        (json.dumps(VERDICT | {"comparison": "a\0b"}), "no text"),
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


STAND_INS = [
    *("...", "\u2026", "<one sentence>", '"<one sentence>"', "<one sentence>.", "`<one sentence>`", "<<one sentence>>"),
    *("<subject>, <details>", "a photo of <subject>", "<one sentence> (10 to 30 words)", "{{caption}}", "${caption}"),
    *("[[caption]]", "[caption]", "\uff1ccaption\uff1e", "&lt;one sentence&gt;", "&amp;lt;caption&amp;gt;", "string"),
    *("caption", "Caption:", "one sentence", "\u2026one sentence\u2026", "TODO", "%s", "{}", "__caption__", "$caption"),
    *("a photo of [subject]", "a photo of {subject} at night", "\u00abcaption\u00bb", "N/A", "n.a.", "null", "None"),
    *("<your caption here>", "<insert a sentence>", "A <description> in a room.", "<the subject's looks>, photograph"),
]


@pytest.mark.parametrize("words", STAND_INS)
def test_what_stands_in_for_a_caption_is_none(words: str) -> None:
    for name in ("subject", "details", "caption"):
        said = {"subject": "a cat", "details": "red", "caption": "a red cat"} | {name: words}
        assert isinstance(parse_reply(json.dumps(said), PanelDescription), ChatFailure)
    scenes = ["at sea", "at night", words, "in a room"]
    assert isinstance(parse_reply(json.dumps({"subject": "a cat", "scenes": scenes}), GridPromptReply), ChatFailure)


@pytest.mark.parametrize(
    "words",
    [
        *("I <3 my cat", "a cat with a <blue> hat", "a cat & a dog", "3 < 4 and 5 > 4", "a [red] cat", "<b>cat</b>"),
        *("a string of pearls", "a cat that reads a caption", "a subject of the king", 'a sign that says "TODO" twice'),
        *("a 100% woollen cat", "None of the cats sleeps", "a null-modem cable", "a cat (seen from above), at noon..."),
    ],
)
def test_captions_with_odd_marks_are_captions(words: str) -> None:
    said = {"subject": "a cat", "details": "red", "caption": words}
    assert not isinstance(parse_reply(json.dumps(said), PanelDescription), ChatFailure)


def test_a_verdict_may_say_that_nothing_is_shared() -> None:
    for words in ("nothing", "None", "n/a", "null"):
        assert not isinstance(parse_reply(json.dumps(VERDICT | {"common_subject": words}), PairVerdict), ChatFailure)


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


@pytest.mark.parametrize(
    "piece", ["{", '{"a":', "[{", "<think>", "<think></think>", "</think>", "[THINK]", "</s>", "`", '"', "\\", "\n"]
)
def test_a_megabyte_is_read_in_a_moment(piece: str) -> None:
    started = time.perf_counter()
    for size in (1 << 20, LONGEST_REPLY):
        assert isinstance(parse_reply((piece * size)[:size], DirectVerdict), ChatFailure)
    assert time.perf_counter() - started < 1


def test_what_cannot_be_stored_is_not_in_a_failure() -> None:
    for said, kept in (
        ("\ud83d and \0", "\ufffd and \ufffd"),
        (GOOD.replace("a cat", "\0"), GOOD.replace("a cat", "\ufffd")),
    ):
        found = parse_reply(said, PairVerdict)
        assert isinstance(found, ChatFailure)
        assert found.text == kept
    assert len(getattr(parse_reply("{" * 300_000, PairVerdict), "text", "")) < 300_000


def test_spelling_does_not_matter() -> None:
    class Rated(BaseModel):
        words: str
        score: int

    for text in (
        '{"words": "a\nb\tc", "score": 3.0}',
        '{"words": "a\\nb\\tc", "score": 3e0}',
        ' {"words":"\\u0061\\nb\\tc","score":3}\r\n',
    ):
        assert parse_reply(text, Rated) == Rated(words="a\nb\tc", score=3)
    for number in ("3.5", "NaN", "Infinity", "1e999", '"3"', "true", "03", "+3", "3."):
        assert isinstance(parse_reply(f'{{"words": "a", "score": {number}}}', Rated), ChatFailure)


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


def asked_with(answers: list, **changes: object) -> tuple[list, list[ChatRequest]]:
    """Replies, and the questions as they read at each attempt."""
    seen: list[ChatRequest] = []

    def ask(requests, attempt):
        seen.extend(requests)
        return [answers[attempt]]

    question = Message("user", (TextPart("same?"),))
    request = ChatRequest(messages=(question,), schema=DirectVerdict, **changes)  # pyright: ignore[reportArgumentType]
    return ask_until_parsed([request], ask), seen


def words_of(request: ChatRequest) -> list[tuple[str, str]]:
    return [(m.role, p.text) for m in request.messages for p in m.parts if isinstance(p, TextPart)]


def test_a_retry_shows_the_reply_and_what_was_wrong_with_it() -> None:
    replies, seen = asked_with(["I think so.", '{"same": "yes"}', '{"same": true}'])
    assert replies == [DirectVerdict(same=True)]
    assert [words_of(request)[:1] for request in seen] == [[("user", "same?")]] * 3
    assert [len(request.messages) for request in seen] == [1, 3, 3]
    assert words_of(seen[1])[1] == ("assistant", "I think so.")
    assert "no JSON object" in words_of(seen[1])[2][1]
    assert words_of(seen[2])[1] == ("assistant", '{"same": "yes"}')
    assert "same: Input should be a valid boolean" in words_of(seen[2])[2][1]


def test_a_model_that_knows_one_question_is_asked_it_again() -> None:
    _, seen = asked_with(["no"] * ATTEMPTS, correction="")
    assert [words_of(request) for request in seen] == [[("user", "same?")]] * ATTEMPTS


def test_an_example_stands_before_the_question_from_the_attempt_on_that_it_is_for() -> None:
    example = (Message("user", (TextPart("such?"),)), Message("assistant", (TextPart('{"same": false}'),)))
    for first in (0, 1):
        _, seen = asked_with(["no"] * ATTEMPTS, example=example, example_from=first)
        shown = [words_of(request)[0] == ("user", "such?") for request in seen]
        assert shown == [attempt >= first for attempt in range(ATTEMPTS)]


def test_a_reply_that_says_its_example_again_is_none() -> None:
    said = {"subject": "a cat", "details": "red", "caption": "a red cat"}
    example = (Message("user", (TextPart("?"),)), Message("assistant", (TextPart(json.dumps(said)),)))
    request = ChatRequest(messages=(), schema=PanelDescription, example=example)
    for fresh, reason in (({}, "repeats the example"), (dict.fromkeys(said, "a dog"), "")):
        (reply,) = ask_until_parsed([request], lambda _, __, fresh=fresh: [json.dumps(said | fresh)])
        assert getattr(reply, "reason", "") == reason


def test_a_cut_reply_fails_whatever_it_holds() -> None:
    (reply,), _ = asked_with([CutText('{"same": true}')] * ATTEMPTS)
    assert isinstance(reply, ChatFailure)
    assert reply.reason == "cut off"


def test_what_is_asked_in_vain_is_not_asked_again() -> None:
    asked = []

    def ask(requests, attempt):
        asked.append(attempt)
        return [ChatFailure("refused to answer")] * len(requests)

    assert ask_until_parsed([ChatRequest(messages=(), schema=DirectVerdict)], ask) == [ChatFailure("refused to answer")]
    assert asked == [0]
    assert ask_until_parsed([], ask) == []
