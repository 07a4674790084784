"""What is not read of prompts, and fuller prompts by chat models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from chat_server import chat_server

from dsd.backbones.registry import FAMILIES, load_backbone
from dsd.backbones.stock import StockBackbone
from dsd.chat.registry import load_chat
from dsd.cli.main import main
from dsd.errors import UserError
from dsd.generate.prompting import Unread, enhance, known_words, unread


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: Any) -> StockBackbone:
    return load_backbone(tiny.FAMILIES[request.param](), transformer=False, vae=False)


def test_the_end_of_a_prompt_is_cut_at_a_word(backbone: StockBackbone) -> None:
    prompt = "a red striped cat at the beach on the left at night"
    found = unread(backbone, prompt, 10)
    assert found.cut and prompt.endswith(found.cut) and prompt[-len(found.cut) - 1 :][:1] in (" ", "a")
    assert unread(backbone, prompt, 512).cut == ""
    fits = next(most for most in range(1, 128) if not unread(backbone, prompt, most).cut)
    assert unread(backbone, prompt, fits - 1).cut, "one token less is a word less"


@pytest.mark.parametrize("prompt", ["", " ", "a", "\n", "猫", "x" * 3000, "a\0b", "<|im_end|> </s> <pad>"])
def test_any_prompt_is_told_of(prompt: str, backbone: StockBackbone) -> None:
    assert isinstance(unread(backbone, prompt, 8).sentence(), str)


def test_words_that_a_model_never_saw_are_unknown_and_its_own_are_not() -> None:
    backbone = load_backbone("embedded:tiny-flux", transformer=False, vae=False)
    known = known_words(backbone)
    assert {"cat", "striped", "beach", "smiling"} <= {*known} and "zoo" not in known
    assert unread(backbone, " ".join(known[:12]), 512).unknown == ()
    found = unread(backbone, "a red cat, wearing a Hat in the zoo: 猫", 16)
    assert found.unknown == ("wearing", "Hat", "zoo", "猫") and found.cut.startswith("Hat")
    assert unread(backbone, "a cat at sea", 16) == Unread("", (), 16) and Unread().sentence() == ""


def test_asking_leaves_the_tokenizer_as_it_was() -> None:
    backbone = load_backbone(tiny.schnell(), transformer=False, vae=False)
    before = backbone.encode_text(["a cat"], 8).tokens
    fast = backbone.pipeline.tokenizer_2.backend_tokenizer
    kept = (fast.padding, fast.truncation)
    unread(backbone, "a red cat in the zoo", 8)
    assert (fast.padding, fast.truncation) == kept and (backbone.encode_text(["a cat"], 8).tokens == before).all()


def test_a_server_makes_a_fuller_prompt_once(tmp_path: Path) -> None:
    with chat_server() as server:
        chat = load_chat(f"openai:gpt@{server.url}")
        server.script.append(json.dumps({"subject": "red cat", "prompt": "a red cat at the beach, at dusk"}))
        made = enhance(chat, tiny.picture(), "at the beach", cache=tmp_path)
        assert (made.subject, made.prompt) == ("red cat", "a red cat at the beach, at dusk")
        shown = server.requests[0]["messages"][0]["content"]
        assert shown[0]["type"] == "image_url" and "at the beach" in shown[1]["text"]
        assert enhance(chat, tiny.picture(), "at the beach", cache=tmp_path) == made and len(server.requests) == 1
        server.script.append(json.dumps({"subject": "blue cat", "prompt": "a blue cat"}))
        assert enhance(chat, tiny.picture(seed=1), "at the beach", cache=tmp_path) != made, "another picture is asked"


@pytest.mark.parametrize(
    "reply", ["no idea", "{}", '{"subject": "", "prompt": "x"}', (400, {"error": {"message": "no pictures"}})]
)
def test_a_failure_is_a_sentence_and_never_the_prompt_as_it_was(reply: Any, tmp_path: Path) -> None:
    with chat_server() as server:
        server.script.extend([reply] * 3)
        with pytest.raises(UserError, match=r"made no fuller prompt|refuses every request"):
            enhance(load_chat(f"openai:gpt@{server.url}"), tiny.picture(), "at sea", cache=tmp_path)
        assert not list(tmp_path.iterdir())


def test_the_embedded_model_says_who_it_is_and_the_words_follow(tmp_path: Path) -> None:
    chat = load_chat("embedded:tiny-vlm")
    made = enhance(chat, tiny.picture((64, 64)), "smiling at sea", "compact", tmp_path)
    assert made.prompt == f"a {made.subject} smiling at sea"
    with pytest.raises(UserError, match="made no fuller prompt"):
        enhance(chat, tiny.picture((64, 64)), "smiling at sea", "default")
    with pytest.raises(UserError, match="default or compact"):
        enhance(chat, tiny.picture((64, 64)), "smiling at sea", "large")


def test_the_command_draws_the_fuller_prompt_and_shows_it(tmp_path: Path, capsys: Any) -> None:
    tiny.picture((64, 64)).save(tmp_path / "x.png")
    words = ["generate", "--image", str(tmp_path / "x.png"), "--prompt", "at sea", "--out", str(tmp_path / "o")]
    words += ["--model.steps", "1"]
    with chat_server() as server:
        server.script.append(json.dumps({"subject": "red cat", "prompt": "a red cat at sea"}))
        assert main([*words, "--enhance", f"openai:gpt@{server.url}"]) == 0
        said = capsys.readouterr()
        assert '"at sea" became "a red cat at sea"' in said.err
        told = json.loads(Path(said.out.strip()).with_suffix(".json").read_text())
        assert (told["prompt"], told["asked"], told["subject"]) == ("a red cat at sea", "at sea", "red cat")
        assert main([*words, "--enhance", f"openai:gpt@{server.url}"]) == 0
        assert "drawn already" in capsys.readouterr().err and len(server.requests) == 1
        server.script.extend(["no"] * 3)
        assert main([*words, "--enhance", f"openai:other@{server.url}"]) == 2
    assert "made no fuller prompt" in capsys.readouterr().err
