"""Claims about the gate: whatever a model replies, only a verdict that was really given enters; all else is counted.

A table of shapes (what a model may make of a right reply) by stages (what it is asked for) goes through a real server
on loopback, and then through whole curations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import chat_server as chat_server_module
import curation_parts as parts
import pytest
import tiny
from chat_server import ChatServer, chat_server

from dsd.chat.openai.client import OpenAIChat
from dsd.chat.protocol import ChatFailure, ChatRequest, Reply
from dsd.chat.replay import Recorder, ReplayChat
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


class Spoiling(chat_server_module._Handler):
    """Makes something else of the text of each answer."""

    spoil: Callable[[dict[str, Any], str], str]
    asked: dict[str, Any]

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked = body
        return super()._answer(body)

    def _send(self, status: int, body: Any) -> None:
        if "choices" not in body:
            return super()._send(status, body)
        choice = body["choices"][0]
        text = Spoiling.spoil(self.asked, choice["message"]["content"])
        choice["message"]["content"] = text.removesuffix("…")
        choice["finish_reason"] = "length" if text.endswith("…") else "stop"
        return super()._send(status, body)


@pytest.fixture(scope="module")
def running() -> Iterator[ChatServer]:
    with chat_server() as server:
        server.RequestHandlerClass = Spoiling
        yield server


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    running.requests.clear()
    return running


def question(stage: str, templates: str = "default", **changes: Any) -> ChatRequest:
    template = IDENTITY.load_templates(templates)[stage]
    return replace(template.request(QUESTIONS[stage], STAGES[stage]), **changes)


def odd(stage: str, shape: str) -> str:
    said = SAID[STAGES[stage]]
    return SHAPES[shape](json.dumps(said), said)


def digest(body: dict[str, Any]) -> bytes:
    """Of a question as it was first asked, whatever was said since."""
    return hashlib.sha256(json.dumps(body["messages"][0]).encode()).digest()


def test_no_odd_reply_is_read_and_each_has_its_reason(server: ChatServer) -> None:
    assert len(ODD) >= 200
    Spoiling.spoil = staticmethod(lambda body, _: odd(*ODD[body["seed"] // 10]))
    requests = [question(stage, seed=10 * number) for number, (stage, _) in enumerate(ODD)]
    replies = OpenAIChat("test", server.url, concurrency=8).reply(requests)
    read = [at for at, reply in zip(ODD, replies, strict=True) if not (isinstance(reply, ChatFailure) and reply.reason)]
    assert not read
    assert len(server.requests) == 3 * len(ODD)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("templates", ["default", "small", "compact"])
def test_a_model_that_repeats_its_question_says_nothing(server: ChatServer, stage: str, templates: str) -> None:
    request = question(stage, templates)
    template = IDENTITY.load_templates(templates)[stage]
    last = template.text.splitlines()[-1]
    echoes = [template.text, last, last[last.find("{") :], f"```json\n{last}\n```", *(r for _, r in template.examples)]
    chat = OpenAIChat("test", server.url)
    for echo in echoes:
        Spoiling.spoil = staticmethod(lambda _, __, echo=echo: echo)
        (reply,) = chat.reply([request])
        assert isinstance(reply, ChatFailure), echo


@pytest.mark.parametrize("shape", ["plain", "fence", "thought", "blanks"])
@pytest.mark.parametrize("stage", STAGES)
def test_right_replies_are_read(server: ChatServer, stage: str, shape: str) -> None:
    said = SAID[STAGES[stage]]
    text = json.dumps(said, indent=2 if shape == "blanks" else None)
    wrapped = {"plain": text, "fence": f"```JSON\n{text}\n```", "thought": f"<think>{{</think>\n{text}", "blanks": text}
    Spoiling.spoil = staticmethod(lambda _, __: wrapped[shape])
    (reply,) = OpenAIChat("test", server.url).reply([question(stage)])
    assert not isinstance(reply, ChatFailure)
    assert reply.model_dump() == said


@pytest.mark.parametrize("chain_of_thought", [True, False])
@pytest.mark.parametrize("only", ["", "Verdict"])
def test_a_curation_keeps_what_was_said_and_counts_the_rest(
    server: ChatServer, tmp_path: Path, chain_of_thought: bool, only: str
) -> None:
    spoilt: dict[str, set[bytes]] = {}

    def spoil(body: dict[str, Any], text: str) -> str:
        schema, which = body["response_format"]["json_schema"]["name"], digest(body)
        if only not in schema or which[0] % 8 >= (5 if only else 1):
            return text
        spoilt.setdefault(schema, set()).add(which)
        said = next(said for kind, said in SAID.items() if kind.__name__ == schema)
        return list(SHAPES.values())[which[1] % len(SHAPES)](json.dumps(said), said)

    Spoiling.spoil = staticmethod(spoil)
    captions = parts.write_captions(tmp_path / "captions.parquet")
    model = f"openai:test@{server.url}"
    config = parts.config(captions, model, templates="compact", chain_of_thought=chain_of_thought)
    funnel = curate(config, tmp_path / "dataset")

    assert funnel.candidates == funnel.kept + sum(funnel.rejected.values()) + sum(funnel.failed.values())
    assert sum(funnel.prompts_failed.values()) == len(spoilt.get("GridPromptReply", ()))
    unjudged = sum(number for reason, number in funnel.failed.items() if reason.startswith("no verdict: "))
    verdict = "PairVerdict" if chain_of_thought else "DirectVerdict"
    assert unjudged == len(spoilt.get(verdict, ()))
    assert unjudged or not only
    reader = DatasetReader(tmp_path / "dataset")
    reader.verify()
    assert not [pair for pair in reader.pairs() if MARK in repr([v for v in vars(pair).values() if isinstance(v, str)])]
    assert all(reject.reason for reject in reader.rejects())


def verdict(comparison: str, same: bool = True, **changes: str) -> PairVerdict:
    return PairVerdict(
        **{"common_subject": "a cat", "first_details": "red", "second_details": "red", **changes},
        comparison=comparison,
        same=same,
    )


SEVEN = "colour red red: {}; second colour jade jade: {}; build, slim, slim: {}; top, tiny ears, tiny ears: {}"


@pytest.mark.parametrize(
    "comparison",
    [
        "colour of the fur: same; hat: different",
        "colour of the fur: same\nhat: different (red above, blue below).",
        "fur: the same; number of legs: not the same",
        "- light brown fur: clearly different",
        "The hat is different.",
        "The fur is the same. The stripes differ in number.",
        "They are not the same individual.",
        "These are two different cats, one of them is a different animal.",
        SEVEN.format("other", "other", "other", "other"),
        SEVEN.format("same", "same", "same", "other"),
    ],
)
def test_a_verdict_for_the_same_after_a_difference_contradicts_itself(comparison: str) -> None:
    assert contradiction(verdict(comparison))
    assert not contradiction(verdict(comparison, same=False))


@pytest.mark.parametrize(
    "comparison",
    [
        "same colour",
        "colour: same; pattern: identical; hat: matches",
        "fur: same; pose: different; background and light: different",
        "Nothing is different.",
        "No feature differs.",
        "The pose is different. The viewpoint differs.",
        "What is different is the light.",
        "hat: no difference",
        "They are the same individual.",
        SEVEN.format("same", "same", "same", "same"),
    ],
)
def test_what_is_no_lasting_difference_contradicts_nothing(comparison: str) -> None:
    assert not contradiction(verdict(comparison))


def test_a_judge_whose_errors_set_its_threshold_may_overrule_some_points() -> None:
    one, two = SEVEN.format("same", "same", "same", "other"), SEVEN.format("same", "other", "same", "other")
    assert contradiction(verdict(one)) and not contradiction(verdict(one), 0.43)
    assert contradiction(verdict(two), 0.43)
    assert IDENTITY.load_templates("compact")["judge"].tolerated == 0.43
    assert IDENTITY.load_templates("default")["judge"].tolerated == 0


def test_other_contradictions() -> None:
    assert contradiction(verdict(SEVEN.format("same", "same", "same", "same"), same=False))
    assert contradiction(verdict("colour: same", common_subject="nothing"))
    assert not contradiction(verdict("nothing to compare", same=False, common_subject="nothing"))
    assert [point.other for point in points("fur: same; hat: other; pose: other; ???")] == [False, True]


def test_points_that_misquote_their_descriptions_are_counted() -> None:
    words = {"first_details": "in red and jade, slim, tiny ears", "second_details": "in red and jade, slim, tiny ears"}
    assert misquoted(verdict(SEVEN.format("same", "same", "same", "same"), **words)) == 0
    assert misquoted(verdict(SEVEN.format("same", "other", "same", "other"), **words)) == 2
    assert misquoted(verdict(SEVEN.replace("jade jade", "jade lime").format(*["same"] * 4), **words)) == 1
    assert misquoted(verdict("accessory nothing, hat of red: other; ears: same", **words)) == 1


def test_a_contradiction_is_counted_apart_and_never_kept(server: ChatServer, tmp_path: Path) -> None:
    def spoil(body: dict[str, Any], text: str) -> str:
        reply = json.loads(text)
        if "comparison" in reply and digest(body)[0] % 2:
            reply |= {"comparison": SEVEN.format(*["other"] * 4), "first_details": MARK, "same": True}
        return json.dumps(reply)

    Spoiling.spoil = staticmethod(spoil)
    captions = parts.write_captions(tmp_path / "captions.parquet")
    funnel = curate(parts.config(captions, f"openai:test@{server.url}", units=1), tmp_path / "dataset")
    assert funnel.failed[f"no verdict: {CONTRADICTION}"] > 0
    assert funnel.kept + sum(funnel.rejected.values()) + sum(funnel.failed.values()) == funnel.candidates
    reader = DatasetReader(tmp_path / "dataset")
    assert not [pair for pair in reader.pairs() if MARK in pair.first_details + pair.second_details]
    words = [r.words for r in reader.rejects() if r.reason == f"no verdict: {CONTRADICTION}"]
    assert all("4 of 4 points are other" in said and MARK in said for said in words)


def test_recorded_decisions_keep_their_probability(server: ChatServer, tmp_path: Path) -> None:
    class Sure:
        name, revision = "sure", "1"

        def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
            found = DirectVerdict(same=True)
            found._probability = 0.75
            return [found for _ in requests]

    asked = [question("judge_direct")]
    Recorder(Sure(), tmp_path / "replies.jsonl").reply(asked)
    (again,) = ReplayChat(tmp_path / "replies.jsonl").reply(asked)
    assert isinstance(again, DirectVerdict)
    assert again.probability == 0.75
