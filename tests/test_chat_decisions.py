"""Claims about how sure a server's model is, and about servers that do not take all that is asked of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from chat_server import ChatServer, chat_server, completion, log_probabilities

from dsd.chat.openai.asking import Patience
from dsd.chat.openai.client import OpenAIChat
from dsd.chat.openai.decisions import decision_of
from dsd.chat.openai.dialect import Dialect
from dsd.chat.protocol import ChatFailure, ChatRequest, Message, TextPart
from dsd.curate.schemas import DirectVerdict, PanelDescription
from dsd.errors import UserError

BRISK = Patience(seconds=5, pause=0.01, try_seconds=1)
HALF = math.log(0.5)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


@pytest.fixture
def chat(server: ChatServer) -> OpenAIChat:
    return OpenAIChat("test", server.url, concurrency=2, patience=BRISK)


def question(text: str = "judge directly", decides: str = "same") -> ChatRequest:
    return ChatRequest(messages=(Message("user", (TextPart(text),)),), schema=DirectVerdict, decides=decides)


def tokens(*texts: str, **likely: float) -> list[tuple[str, dict[str, float]]]:
    """Tokens of a reply; the one that ``likely`` is about is marked with a star."""
    alternatives = {token.replace("_", " "): math.log(share) for token, share in likely.items()}
    return [(text.lstrip("*"), alternatives if text.startswith("*") else {}) for text in texts]


SURE = {
    "a word a token": (tokens('{"', "same", '":', "* true", "}", _true=0.6, _false=0.2), True, 0.75),
    "no space": (tokens('{"same":', "*true", "}", true=0.6, false=0.2), True, 0.75),
    "false": (tokens('{"same": ', "*false", "}", true=0.2, false=0.6), False, 0.25),
    "pieces": (tokens('{"same": ', "*tr", "ue}", tr=0.6, f=0.1, fal=0.1), True, 0.75),
    "letters": (tokens('{"same":', " ", "*t", "r", "u", "e", "}", t=0.6, f=0.2), True, 0.75),
    "spaces before either": (tokens('{"same":', "* true", "}", _true=0.3, true=0.3, _false=0.1, false=0.1), True, 0.75),
    "what is neither": (tokens('{"same": ', "*true", "}", true=0.6, false=0.2, null=0.1, maybe=0.1), True, 0.75),
    "its end with it": ([('{"same": ', {}), ("true}", {"true}": HALF, "true": HALF, "false}": -9.0})], True, 0.9999),
    "thoughts": (tokens('<think>{"same": false}</think>\n{"same": ', "*true", "}", true=0.6, false=0.2), True, 0.75),
    "words that look alike": (
        tokens('{"why": "not \\"same\\": false, {", "x": {"same": false}, "same": ', "*true", "}", true=0.6, false=0.2),
        True,
        0.75,
    ),
    "fences": (tokens("```json\n", '{\n  "same" : ', "*true", "\n}\n```", true=0.6, false=0.2), True, 0.75),
    "half characters": (
        [("{", {}), ('"w": "🦊é", ', {}), ('"same": ', {}), *tokens("*true", true=0.9, false=0.1)],
        True,
        0.9,
    ),
    "no doubt": (tokens('{"same": ', "*true", "}", true=1.0), True, 1.0),
}


@pytest.mark.parametrize("name", SURE)
def test_the_probability_is_read_at_the_token_that_decides(name: str) -> None:
    said, value, probability = SURE[name]
    found = decision_of(log_probabilities(said), "same")
    assert found is not None
    assert found[0] is value
    assert found[1] == pytest.approx(probability, abs=1e-3)


@pytest.mark.parametrize("name", SURE)
def test_a_character_cut_between_tokens_moves_nothing(name: str) -> None:
    said, value, probability = SURE[name]
    whole = log_probabilities(said)
    fox = "🦊".encode()
    halves = [{"token": "�", "logprob": 0.0, "bytes": list(half)} for half in (fox[:2], fox[2:])]
    assert decision_of({"content": halves + whole["content"]}, "same") == decision_of(whole, "same")
    assert (value, probability) == (value, pytest.approx(probability))


GOOD = log_probabilities(tokens('{"same": ', "*true", "}", true=0.6, false=0.2))


@pytest.mark.parametrize(
    "odd",
    [
        None,
        [],
        {},
        {"content": None},
        {"content": []},
        {"content": [None]},
        {"content": [{"token": 3}]},
        {"tokens": ["{"], "token_logprobs": [0.0]},
        log_probabilities(tokens('{"other": ', "*true", "}", true=0.6, false=0.2)),
        log_probabilities(tokens('{"same": ', "*null", "}", null=0.6, false=0.2)),
        {"content": [GOOD["content"][0], {**GOOD["content"][1], "logprob": "x"}]},
        {
            "content": [
                GOOD["content"][0],
                {**GOOD["content"][1], "top_logprobs": [{"token": "true", "logprob": math.nan}]},
            ]
        },
        {"content": [GOOD["content"][0], {**GOOD["content"][1], "top_logprobs": [7]}]},
        {"content": [{"token": '"' * 200_000, "logprob": 0.0}]},
        {"content": [{"token": '{"' + '\\"' * 200_000, "logprob": 0.0}]},
    ],
)
def test_odd_log_probabilities_say_nothing(odd: Any) -> None:
    assert decision_of(odd, "same") is None


def test_numbers_out_of_range_stay_in_it() -> None:
    entry = {**GOOD["content"][1], "logprob": 9.0, "top_logprobs": [{"token": "false", "logprob": -9999.0}]}
    assert decision_of({"content": [GOOD["content"][0], entry]}, "same") == (True, 1.0)


def test_a_decision_carries_the_probability_of_its_last_reply(server: ChatServer, chat: OpenAIChat) -> None:
    sure = tokens('{"same": ', "*true", "}", true=0.6, false=0.2)
    server.script += [
        (
            200,
            completion('{"same": tru', logprobs=log_probabilities(tokens('{"same": ', "*true", true=0.1, false=0.9))),
        ),
        (200, completion('{"same": true}', logprobs=log_probabilities(sure))),
        (200, completion('{"same": false}', logprobs=log_probabilities(sure))),
        (200, completion('{"same": true}')),
    ]
    replies = [chat.reply([question()])[0] for _ in range(3)]
    chances = [reply.probability for reply in replies if isinstance(reply, DirectVerdict)]
    assert chances == [pytest.approx(0.75), None, None], "the second contradicts its tokens, the third has none"
    assert (server.requests[0]["logprobs"], server.requests[0]["top_logprobs"]) == (True, 5)
    chat.reply([question(decides="")])
    assert "logprobs" not in server.requests[-1]


def test_probabilities_belong_to_their_questions(server: ChatServer, chat: OpenAIChat) -> None:
    said = log_probabilities(tokens('{"same": ', "*true", "}", true=0.6, false=0.2))
    server.script += ["no", (200, completion('{"same": true}', logprobs=said)), '{"same": true}']
    one = OpenAIChat("test", server.url, concurrency=1, patience=BRISK)
    replies = one.reply([question("a"), question("b")])
    assert [getattr(reply, "probability", 0) for reply in replies] == [None, pytest.approx(0.75)]


@pytest.mark.parametrize(
    ("refused", "kept"),
    [
        ({"logprobs"}, {"response_format", "seed", "temperature", "max_tokens"}),
        ({"json_schema"}, {"response_format", "logprobs", "seed"}),
        ({"json_schema", "json_object"}, {"logprobs", "seed"}),
        ({"response_format", "logprobs"}, {"seed", "temperature"}),
        ({"seed"}, {"response_format", "logprobs", "temperature"}),
        ({"temperature", "seed", "logprobs", "json_schema"}, {"response_format", "max_tokens"}),
    ],
)
def test_what_a_server_refuses_is_left_out_once_and_for_all(
    refused: set[str], kept: set[str], server: ChatServer, chat: OpenAIChat
) -> None:
    server.refuses = refused
    server.always = '{"same": true}'
    assert isinstance(chat.reply([question()])[0], DirectVerdict)
    assert len(server.requests) <= 2 + len(refused)
    server.requests.clear()
    assert all(isinstance(reply, DirectVerdict) for reply in chat.reply([question(str(n)) for n in range(4)]))
    assert len(server.requests) == 4
    assert all(not refused & {*body, body.get("response_format", {}).get("type")} for body in server.requests)
    assert all(kept <= {*body} for body in server.requests)


def test_a_limit_by_another_name_is_asked_for(server: ChatServer, chat: OpenAIChat) -> None:
    server.script.append((400, {"error": {"message": "'max_tokens' is not supported; use 'max_completion_tokens'."}}))
    assert isinstance(chat.reply([question()])[0], DirectVerdict)
    assert server.requests[-1]["max_completion_tokens"] == 512
    assert "max_tokens" not in server.requests[-1]


def test_a_question_that_is_refused_for_itself_changes_nothing(server: ChatServer, chat: OpenAIChat) -> None:
    chat.reply([question()])
    server.script += [(400, {"error": {"message": "the prompt is too long: 9000 tokens"}})]
    (failure,) = chat.reply([question()])
    assert failure == ChatFailure("request refused", "the prompt is too long: 9000 tokens")
    server.always = (400, {"error": {"message": "this schema has json that is unsupported"}})
    assert isinstance(chat.reply([question()])[0], ChatFailure)
    server.always = None
    chat.reply([question()])
    assert server.requests[-1]["response_format"]["type"] == "json_schema"


def test_a_server_that_takes_nothing_is_a_mistake(server: ChatServer, chat: OpenAIChat) -> None:
    server.always = (422, {"detail": [{"loc": ["body", "response_format"], "msg": "Extra inputs are not permitted"}]})
    with pytest.raises(UserError, match="refuses every request: Extra inputs are not permitted"):
        chat.reply([question()])


def test_a_server_that_ignores_the_schema_is_corrected_with_what_was_wrong(
    server: ChatServer, chat: OpenAIChat
) -> None:
    server.script += ["They are the same.", '```json\n{"same": true}\n```']
    assert chat.reply([question()]) == [DirectVerdict(same=True)]
    first, second = (body["messages"] for body in server.requests)
    assert second[: len(first)] == first
    assert [message["role"] for message in second[len(first) :]] == ["assistant", "user"]
    assert "no JSON object" in json.dumps(second[-1])


def test_log_probabilities_are_not_missed_where_nothing_is_decided() -> None:
    request = replace(question(), schema=PanelDescription, decides="")
    assert "logprobs" not in Dialect().arguments(request, 0)
    assert Dialect().without("unknown field", decides=False) == Dialect(format="json_object")
    assert Dialect().without("unknown field", decides=True) == Dialect(log_probabilities=False)
    assert Dialect().without("no pictures here", decides=True) is None
