"""Claims about chat models in this process, on an untrained tiny-vlm: a reply depends on its own question alone."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import small_writer
import tiny
import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from dsd.chat.guided import RowSampling
from dsd.chat.local import LocalChat
from dsd.chat.parse import CutText
from dsd.chat.protocol import ChatFailure, ChatRequest, ImagePart, Message, TextPart
from dsd.curate.schemas import DirectVerdict, PairVerdict, PanelDescription
from dsd.errors import UserError
from dsd_world.models.vlm_model import new_model, new_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lively random model: its residual branches do not start at zero."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vlm")
    processor = new_processor()
    model = new_model(processor.tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def chat(folder: Path) -> LocalChat:
    return LocalChat(str(folder))


def question(text: str, *seeds: int, seed: int = 0, max_tokens: int = 12) -> ChatRequest:
    parts = (*(ImagePart(tiny.picture(seed=number)) for number in seeds), TextPart(text))
    return ChatRequest(messages=(Message("user", parts),), schema=PairVerdict, seed=seed, max_tokens=max_tokens)


QUESTIONS = [question("judge", 1, 2), question("grid prompt: a red cat at sea"), question("describe", 3, max_tokens=5)]


def words(replies: list) -> list[str]:
    assert all(isinstance(reply, ChatFailure) for reply in replies), "an untrained model writes no verdicts"
    return [reply.text for reply in replies]


def test_replies_do_not_depend_on_the_batch(chat: LocalChat, folder: Path) -> None:
    together = words(chat.reply(QUESTIONS))
    assert together == words([chat.reply([one])[0] for one in QUESTIONS])
    assert together == words(LocalChat(str(folder), batch_size=2).reply(QUESTIONS[::-1]))[::-1]
    assert len(set(together)) == 3


def test_the_first_attempt_is_greedy_and_later_ones_are_seeded(chat: LocalChat) -> None:
    one, other = QUESTIONS[0], question("judge", 1, 2, seed=1)
    assert chat._ask([one], 0) == chat._ask([other], 0)
    assert chat._ask([one], 1) == chat._ask([one], 1)
    assert len({str(chat._ask([asked], attempt)) for asked in (one, other) for attempt in (0, 1, 2)}) == 5


def test_a_reply_without_an_end_is_cut_off(chat: LocalChat, folder: Path) -> None:
    (failure,) = chat.reply([question("describe", 3, max_tokens=1)])
    assert isinstance(failure, ChatFailure)
    assert failure.reason == "cut off"
    every_token_ends = LocalChat(str(folder))
    every_token_ends._ends = set(range(10_000))
    assert all(isinstance(answer, str) for answer in every_token_ends._ask(QUESTIONS, 0))


def test_pictures_and_their_order_count(chat: LocalChat) -> None:
    orders = [question("judge", *seeds) for seeds in ((1, 2), (2, 1), (1, 1), (1, 2))]
    chances = chat.log_likelihoods(orders, ['{"same": true}'] * len(orders))
    assert chances[0] == pytest.approx(chances[3], abs=1e-4)
    apart = [abs(one - other) for n, one in enumerate(chances[:3]) for other in chances[:n]]
    assert min(apart) > 1e-3, "the pictures, and which is first, tell in every reply's likelihood"


def test_the_likelihood_of_a_reply_is_the_models_own_and_does_not_depend_on_the_batch(
    chat: LocalChat, folder: Path
) -> None:
    replies = ['{"same": true}', "a red cat at sea", "hello"]
    together = chat.log_likelihoods(QUESTIONS, replies)
    alone = [chat.log_likelihoods([q], [r])[0] for q, r in zip(QUESTIONS, replies, strict=True)]
    assert together == pytest.approx(alone, abs=1e-3)
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("<|user|>grid prompt: a red cat at sea<|assistant|>", add_special_tokens=False)["input_ids"]
    reply = tokenizer(replies[1], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        chances = model(input_ids=torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
    own = sum(chances[len(prompt) - 1 + i, token].item() for i, token in enumerate(reply))
    assert together[1] == pytest.approx(own, abs=1e-3)


def test_row_sampling_draws_from_the_tempered_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    sampling = RowSampling([torch.Generator().manual_seed(seed) for seed in range(4000)])
    drawn = sampling(torch.empty(4000, 0), logits.repeat(4000, 1)).argmax(1)
    found = torch.bincount(drawn, minlength=3) / 4000
    assert torch.allclose(found, (logits / 0.7).softmax(0), atol=0.03)


def test_the_revision_names_the_weights(chat: LocalChat, folder: Path) -> None:
    assert chat.name == str(folder)
    assert len(chat.revision) == 12


def written(text: str, schema: type = DirectVerdict, **changes: Any) -> ChatRequest:
    settings = {"max_tokens": 40, "decides": "same" if schema is DirectVerdict else "", **changes}
    return ChatRequest(messages=(Message("user", (TextPart(text),)),), schema=schema, **settings)


WRITTEN = [written(text) for text in ("is it?", "are they?", "judge directly")]


@pytest.fixture(scope="module")
def writer() -> LocalChat:
    return LocalChat(str(small_writer.folder()))


def test_a_language_model_is_kept_to_the_schema_of_its_reply(writer: LocalChat) -> None:
    assert all(isinstance(reply, DirectVerdict) for reply in writer.reply(WRITTEN))
    for attempt in range(3):
        (answer,) = writer._ask([written("?", PanelDescription, max_tokens=30)], attempt)
        assert isinstance(answer, CutText)
        assert answer.text.startswith('{"subject": "')


def test_its_replies_do_not_depend_on_the_batch(writer: LocalChat) -> None:
    together = writer.reply(WRITTEN)
    alone = [writer.reply([one])[0] for one in WRITTEN]
    assert [reply.model_dump() for reply in together] == [reply.model_dump() for reply in alone]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_decision_has_the_probability_that_the_model_gave_it(writer: LocalChat) -> None:
    requests = [written(f"question {number}") for number in range(6)]
    weighed = 0
    for request, reply in zip(requests, writer.reply(requests), strict=True):
        assert isinstance(reply, DirectVerdict)
        if reply.probability is None:  # of random weights some spell true in several tokens
            continue
        weighed += 1
        assert (reply.probability > 0.5) == reply.same
        true, false = writer.log_likelihoods([request] * 2, ['{"same": true', '{"same": false'])
        assert reply.probability == pytest.approx(1 / (1 + math.exp(false - true)), abs=1e-3)
    assert weighed > 2
    (unasked,) = writer.reply([written("is it?", decides="")])
    assert isinstance(unasked, DirectVerdict)
    assert unasked.probability is None


def test_a_gguf_file_holds_the_same_model(writer: LocalChat, tmp_path: Path) -> None:
    file = small_writer.gguf_file()
    said = [
        (r.model_dump(), getattr(r, "probability", None)) for r in writer.reply(WRITTEN) if isinstance(r, DirectVerdict)
    ]
    for name in (file, file.parent):
        again = LocalChat(str(name)).reply(WRITTEN)
        found = [(r.model_dump(), r.probability) for r in again if isinstance(r, DirectVerdict)]
        assert [one for one, _ in found] == [one for one, _ in said]
        assert [chance for _, chance in found] == pytest.approx([chance for _, chance in said], abs=1e-4)
    for copy in ("a.gguf", "b.gguf"):
        (tmp_path / copy).symlink_to(file)
    with pytest.raises(UserError, match=r"2 GGUF files \(a.gguf, b.gguf\)"):
        LocalChat(str(tmp_path))
    (tmp_path / "c.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="cannot be loaded"):
        LocalChat(str(tmp_path / "c.gguf"))


def test_a_language_model_without_a_chat_template_reads_a_plain_conversation() -> None:
    plain = LocalChat(str(small_writer.folder(template=False)))
    assert isinstance(plain.reply(WRITTEN[:1])[0], DirectVerdict)
    talk = plain._weights.conversation(WRITTEN[0])
    shown = plain._tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    assert shown == "User: is it?\n\nAssistant:"


def test_a_language_model_cannot_see(writer: LocalChat) -> None:
    with pytest.raises(UserError, match="is asked about a picture"):
        writer.reply([*WRITTEN, question("judge", 1, 2)])


@pytest.mark.parametrize("package", ["llguidance", "gguf"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    file = small_writer.gguf_file()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}; install dsd\[chat\]"):
        LocalChat(str(file))
