"""Claims about chat models in this process, on an untrained tiny-vlm: a reply depends on its own question alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from dsd.chat.guided import RowSampling
from dsd.chat.local import LocalChat
from dsd.chat.protocol import ChatFailure, ChatRequest, ImagePart, Message, TextPart
from dsd.curate.schemas import PairVerdict
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
