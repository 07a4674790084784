"""Claims about the gate: whatever a model replies, only a verdict that was really given enters, and all else is counted.

A table of shapes (what a model may make of a right reply) by stages (what it is asked for) goes through a real server on
loopback, and then through whole curations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import curation_parts as parts
import pytest
import tiny
from chat_server import ChatServer, chat_server

from dsd.chat.openai import OpenAIChat
from dsd.chat.protocol import ChatFailure, ChatRequest
from dsd.curate.contradiction import CONTRADICTION, contradiction, misquoted, points
from dsd.curate.pipeline import curate
from dsd.curate.schemas import DirectVerdict, GridPromptReply, PairVerdict, PanelDescription
from dsd.curate.tasks.identity import IDENTITY
from dsd.data.store import DatasetReader

MARK = "spoilt"
SAID: dict[type, dict[str, Any]] = {
    GridPromptReply: {"subject": "a spoilt cat", "scenes": ["at sea", "at night", "in the snow", "in a room"]},
    PanelDescription: {"subject": "a cat", "details": "red, spoilt", "caption": "a spoilt cat at sea"},
    PairVerdict: {
        "common_subject": "a cat", "first_details": "red, spoilt", "second_details": "red, spoilt",
        "comparison": "colour: same; spoilt: same", "same": True,
    },
    DirectVerdict: {"same": True},
}  # fmt: skip
STAGES = {
    "grid_prompt": GridPromptReply, "describe": PanelDescription, "judge": PairVerdict, "judge_direct": DirectVerdict,
}  # fmt: skip
QUESTIONS: dict[str, dict[str, Any]] = {
    "grid_prompt": {"caption": "a red barn"},
    "describe": {"image": tiny.picture()},
    "judge": {"first": tiny.picture(seed=1), "second": tiny.picture(seed=2)},
    "judge_direct": {"first": tiny.picture(seed=1), "second": tiny.picture(seed=2)},
}
Shape = Callable[[str, dict[str, Any]], str]
"""From the right reply and what it holds to an odd one."""


def words_in(said: dict[str, Any], words: Any) -> dict[str, Any]:
    """The same object with other words in the last of its strings; a verdict alone has none, and gets a key more."""
    names = [name for name, value in said.items() if isinstance(value, str)]
    return {**said, names[-1] if names else "reason": words}


def decided(said: dict[str, Any], value: Any) -> dict[str, Any]:
    """The same object with something else where its last field is."""
    return {**said, list(said)[-1]: value}


SHAPES: dict[str, Shape] = {
    "nothing": lambda text, _: "",
    "blanks": lambda text, _: " \n\t ",
    "a word": lambda text, _: "true",
    "a refusal": lambda text, _: "I'm sorry, but I cannot compare individuals.",
    "a sentence before": lambda text, _: f"Sure! Here it is:\n{text}",
    "a sentence after": lambda text, _: f"{text}\n\nI hope this helps!",
    "taken back": lambda text, _: f"{text} Wait, they are NOT the same.",
    "taken back in JSON": lambda text, said: f"{text}\n{json.dumps(decided(said, False))}",
    "corrected": lambda text, said: f"{json.dumps(decided(said, False))} No: {text}",
    "twice": lambda text, _: f"{text}\n{text}",
    "twice in a row": lambda text, _: text + text,
    "quoted in words": lambda text, _: f'Should I reply "{text}"? No.',
    "as a string": lambda text, _: json.dumps(text),
    "in a list": lambda text, _: f"[{text}]",
    "in a list of two": lambda text, _: f"[{text}, {text}]",
    "in a list in a fence": lambda text, _: f"```json\n[{text}]\n```",
    "under a key": lambda text, _: f'{{"reply": {text}}}',
    "as a tool call": lambda text, _: f'<tool_call>{{"name": "reply", "arguments": {text}}}</tool_call>',
    "an open thought": lambda text, _: f"<think>A draft: {text}",
    "an open thought with a fence": lambda text, _: f"<think>\n```json\n{text}\n```\nBut the hats",
    "a thought in other tags": lambda text, _: f"<thinking>{text}</think>",
    "only a thought": lambda text, _: f"<think>{text}</think>",
    "a thought after": lambda text, _: f"{text}<think>they differ</think>",
    "a nested thought": lambda text, _: f"<think>a<think>b</think>{text}</think>",
    "an end of thought": lambda text, _: f"{text}</think>",
    "a draft before the end of a thought": lambda text, _: f"{text}</think>they are not",
    "an open fence": lambda text, _: f"```json\n{text}",
    "a fence and words": lambda text, _: f"```json\n{text}\n```\nThey differ, though.",
    "two fences": lambda text, _: f"```json\n{text}\n```\n```json\n{text}\n```",
    "a fence of another language": lambda text, _: f"```python\nreply = {text}\n```",
    "cut whole": lambda text, _: f"{text}…",
    "cut in a thought": lambda text, _: f"<think>{text}…",
    "cut in a fence": lambda text, _: f"```json\n{text}\n```…",
    "cut in the middle": lambda text, _: f"{text[: len(text) // 2]}…",
    "ended in the middle": lambda text, _: text[:-1],
    "begun in the middle": lambda text, _: text[1:],
    "single quotes": lambda text, _: text.replace('"', "'"),
    "a comma too many": lambda text, _: f"{text[:-1]},}}",
    "a comment": lambda text, _: f"{text[:-1]} /* perhaps */}}",
    "Python's words": lambda text, said: str(said),
    "no number": lambda text, said: json.dumps(decided(said, float("nan"))),
    "endless": lambda text, said: json.dumps(decided(said, float("inf"))),
    "null": lambda text, said: json.dumps(decided(said, None)),
    "an object for a value": lambda text, said: json.dumps(decided(said, {"value": True})),
    "a word for a value": lambda text, said: json.dumps(decided(said, "true" if "same" in said else ["a"])),
    "a number for a value": lambda text, said: json.dumps(decided(said, 1)),
    "a key too many": lambda text, said: json.dumps({**said, "confidence": 0.9}),
    "a key too few": lambda text, said: json.dumps(dict(list(said.items())[:-1])),
    "another spelling of a key": lambda text, said: json.dumps({name.upper(): value for name, value in said.items()}),
    "a key twice": lambda text, said: f"{text[:-1]}, {json.dumps(dict([list(said.items())[-1]]))[1:]}",
    "half a character": lambda text, said: json.dumps(words_in(said, "spoilt \ud83d")),
    "a NUL": lambda text, said: json.dumps(words_in(said, "spoilt \0")),
    "a raw NUL": lambda text, said: json.dumps(words_in(said, "spoilt @")).replace("@", "\0"),
    "dots for words": lambda text, said: json.dumps(words_in(said, "...")),
    "an ellipsis for words": lambda text, said: json.dumps(words_in(said, "\u2026")),
    "a place for words": lambda text, said: json.dumps(words_in(said, "<one sentence>")),
    "blanks for words": lambda text, said: json.dumps(words_in(said, "  ")),
    "words without end": lambda text, said: json.dumps(words_in(said, "spoilt " * 2000)),
    "braces": lambda text, _: "{" * 100_000,
    "nested": lambda text, _: '{"a":' * 50_000 + text,
    "a web page": lambda text, _: f"<html><body><pre>{text}</pre></body></html>",
    "an event stream": lambda text, _: f"data: {text}\n\ndata: [DONE]",
    "a turn more": lambda text, _: f"{text}<|im_end|>\n<|im_start|>user\nAre you sure?",
    "YAML": lambda text, said: "\n".join(f"{name}: {json.dumps(value)}" for name, value in said.items()),
}
ODD = [(stage, shape) for stage in STAGES for shape in SHAPES]


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _quiet(server: ChatServer) -> None:
    server.script.clear()
    server.requests.clear()
    server.spoil = None


def question(stage: str, templates: str = "default", **changes: Any) -> ChatRequest:
    template = IDENTITY.load_templates(templates)[stage]
    return replace(template.request(QUESTIONS[stage], STAGES[stage]), **changes)


def odd(stage: str, shape: str) -> str:
    said = SAID[STAGES[stage]]
    return SHAPES[shape](json.dumps(said), said)


def test_no_odd_reply_is_read_and_each_has_its_reason(server: ChatServer) -> None:
    assert len(ODD) >= 200
    chat = OpenAIChat("test", server.url, concurrency=16)
    asked = [question(stage) for stage, _ in ODD]
    marks = {json.dumps(shown, sort_keys=True): number for number, shown in enumerate(range(0))}
    assert not marks
    numbered = iter(range(len(ODD)))
    wrong = []
    for request, (stage, shape) in zip(asked, ODD, strict=True):
        next(numbered)
        server.spoil = lambda body, text, stage=stage, shape=shape: odd(stage, shape)
        (reply,) = chat.reply([request])
        if not isinstance(reply, ChatFailure) or not reply.reason:
            wrong.append((stage, shape, reply))
    assert not wrong
