"""Prompts before they are drawn: what a model does not read of them, and fuller ones by a chat model."""

from __future__ import annotations

import copy
import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, StringConstraints

from dsd.backbones.registry import drawing_of
from dsd.backbones.stock import StockBackbone
from dsd.chat.protocol import ChatFailure, ChatModel
from dsd.chat.templates import read_template
from dsd.errors import UserError, cut
from dsd.runs import Ledger

SETS = ("default", "compact")
"""Sets of templates, see `templates/README.md`."""

_TEMPLATES = Path(__file__).parent / "templates"
_SMALL = 4000
"""Pieces of a vocabulary up to which it is a list of the words that a model was trained on."""
_WORD = re.compile(r"\w+")
_SPACES = "▁Ġ"
"""How pieces of vocabularies begin that stand after a space."""

_Words = Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]


@dataclass(frozen=True)
class Unread:
    """What a model does not read of a prompt as it is written.

    Attributes:
        cut: The end of the prompt that is left out, from the first word of it that is not whole.
        unknown: Words that it spells out letter by letter or cannot spell, since none of its words is made of them.
        max_tokens: What it reads of a prompt, in tokens.
    """

    cut: str = ""
    unknown: tuple[str, ...] = ()
    max_tokens: int = 0

    def sentence(self) -> str:
        """What to tell of it; empty where all is read."""
        told = []
        if self.cut:
            told.append(f'"{cut(self.cut)}" is cut off, since this model reads {self.max_tokens} tokens of a prompt')
        if self.unknown:
            some = ", ".join(f'"{cut(word, 30)}"' for word in self.unknown[:8])
            more = f" and {len(self.unknown) - 8} more" if len(self.unknown) > 8 else ""
            told.append(f"{some}{more}: this model knows no such word and spells it out, which takes room from others")
        return "; ".join(told)


def unread(backbone: StockBackbone, prompt: str, max_tokens: int) -> Unread:
    """Finds what a model does not read of a prompt, by the tokenizer of its encoder that reads prompts whole.

    It may be called beside a thread that draws.

    Args:
        backbone: With its tokenizers, such as `TwoFramePipeline.backbone`.
        prompt: Any text.
        max_tokens: Text tokens that it is drawn with.
    """
    tokenizer, text = drawing_of(backbone.family).whole_text(backbone.pipeline, prompt)
    own = _own(tokenizer)
    encoded = own(text, add_special_tokens=False, return_offsets_mapping=True)
    begin = text.rfind(prompt)
    places = [(start - begin, end - begin) for start, end in encoded["offset_mapping"]]
    kept = max(0, max_tokens - own.num_special_tokens_to_add())
    lost = [start for start, end in places[kept:] if end > 0 and 0 <= start < len(prompt)]
    tokens = list(zip(places, encoded["input_ids"], strict=True))
    words = {word[0]: _is_unknown(word, tokens, own.unk_token_id) for word in _WORD.finditer(prompt)}
    return Unread(
        cut=prompt[_word_at(prompt, min(lost)) :].strip() if lost else "",
        unknown=tuple(word for word, unknown in words.items() if unknown),
        max_tokens=max_tokens,
    )


def known_words(backbone: StockBackbone) -> tuple[str, ...]:
    """The words that a small model was trained on, sorted; none for a model with a vocabulary of word pieces.

    Args:
        backbone: With its tokenizers.
    """
    tokenizer, _ = drawing_of(backbone.family).whole_text(backbone.pipeline, "")
    pieces = tokenizer.get_vocab()
    if len(pieces) > _SMALL:
        return ()
    words = {piece[1:] for piece in pieces if piece[:1] in _SPACES and piece[1:].isalnum()}
    return tuple(sorted(words))


def _is_unknown(word: re.Match[str], tokens: list[tuple[tuple[int, int], int]], unknown: int | None) -> bool:
    """Whether a word is spelt: of letters of the alphabet one by one, or with a token that stands for anything."""
    start, end = word.span()
    inside = [(max(s, start), min(e, end), token) for (s, e), token in tokens if s < end and e > start]
    if unknown is not None and any(token == unknown for *_, token in inside):
        return True
    plain = word[0].isascii() and word[0].isalpha() and len(word[0]) > 1
    return plain and bool(inside) and all(e - s <= 1 for s, e, _ in inside)


def _word_at(prompt: str, place: int) -> int:
    """Where the word begins that a place is in."""
    return next((word.start() for word in _WORD.finditer(prompt) if word.start() <= place < word.end()), place)


@functools.lru_cache(maxsize=8)
def _own(tokenizer: Any) -> Any:
    """A copy: a tokenizer keeps how it pads and cuts in itself, and the one who draws relies on that."""
    return copy.deepcopy(tokenizer)


class Enhancement(BaseModel):
    """The subject of a picture, and a fuller prompt that names it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    subject: _Words
    prompt: _Words


class SubjectDescription(BaseModel):
    """Who is in a picture (coarse words), in which details (fine words), and a caption."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    subject: _Words
    details: _Words
    caption: _Words


@dataclass(frozen=True)
class Enhanced:
    """What a chat model made of a prompt.

    Attributes:
        subject: What it calls the subject of the reference.
        prompt: What is to be drawn.
    """

    subject: str
    prompt: str


def enhance(
    chat: ChatModel, image: Image.Image, prompt: str, templates: str = "default", cache: Path | None = None
) -> Enhanced:
    """Has a chat model describe the subject of a reference and merge that with the user's words.

    Args:
        chat: Any model of `dsd.chat` that takes pictures.
        image: The reference, RGB.
        prompt: The user's words.
        templates: One of `SETS`.
        cache: Folder of what was asked before, by picture, words, model and templates; None asks each time.

    Raises:
        UserError: The model cannot be asked, or gave no usable reply.
    """
    if templates not in SETS:
        raise UserError(f'there are no templates "{templates}" for prompts; give {" or ".join(SETS)}')
    question = read_template(_TEMPLATES / templates / ("enhance.md" if templates == "default" else "describe.md"),
                             {"image", "prompt"} if templates == "default" else {"image"})  # fmt: skip
    merged = (
        None if templates == "default" else read_template(_TEMPLATES / templates / "merged.md", {"subject", "prompt"})
    )
    labels = [question.label] + ([merged.label] if merged is not None else [])
    ledger, key = (None if cache is None else Ledger(cache)), _key(chat, image, prompt, labels)
    if ledger is not None and (found := ledger.find(key, lambda record: Enhanced(**record))) is not None:
        return found
    schema = Enhancement if merged is None else SubjectDescription
    reply = chat.reply([question.request({"image": image, "prompt": prompt}, schema)])[0]
    if isinstance(reply, ChatFailure):
        raise UserError(
            f'"{chat.name}" made no fuller prompt of "{cut(prompt)}": {reply.reason}'
            f"{f' ({cut(reply.detail)})' if reply.detail else ''}; ask another model, or leave it as it is"
        )
    if isinstance(reply, Enhancement):
        enhanced = Enhanced(reply.subject, reply.prompt)
    else:
        assert isinstance(reply, SubjectDescription) and merged is not None
        enhanced = Enhanced(reply.subject, merged.words({"subject": reply.subject, "prompt": prompt}))
    if ledger is not None:
        ledger.commit(key, {"subject": enhanced.subject, "prompt": enhanced.prompt})
    return enhanced


def _key(chat: ChatModel, image: Image.Image, prompt: str, labels: list[str]) -> str:
    digest = hashlib.sha256(f"{image.mode} {image.size}\0".encode() + image.tobytes())
    for part in (prompt, chat.name, chat.revision, *labels):
        digest.update(f"\0{part}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]
