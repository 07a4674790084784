"""What is read of a call's prompts: each text once, and what stands for no text."""

from __future__ import annotations

from torch import Tensor

from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone
from dsd.errors import UserError
from dsd.generate.asked import Asked, Own, one_each, texts, whole


def prompts_of(backbone: StockBackbone, asked: Asked) -> tuple[list[str], Text | None]:
    """Prompts; or what was encoded already, with as many empty ones.

    Raises:
        UserError: None, or both.
    """
    if asked.prompt is not None and asked.prompt_embeds is not None:
        raise UserError("prompt and prompt_embeds were both given; give one of them")
    for name, tokens, pooled in (
        ("prompt_embeds", asked.prompt_embeds, asked.pooled_prompt_embeds),
        ("negative_prompt_embeds", asked.negative_prompt_embeds, asked.negative_pooled_prompt_embeds),
    ):
        if tokens is None and pooled is not None:
            raise UserError(f"{_pooled(name)} were given without {name}; give both, or neither")
    if asked.prompt is not None:
        return texts("prompt", asked.prompt), None
    if asked.prompt_embeds is None:
        raise UserError("no prompt was given; say what the picture shall show")
    encoded = _given(backbone, "prompt_embeds", asked.prompt_embeds, asked.pooled_prompt_embeds)
    return [""] * len(encoded), encoded


def read(
    backbone: StockBackbone, asked: Asked, own: Own, prompts: list[str], encoded: Text | None, tokens: int
) -> tuple[Text, Text]:
    """Each film's prompt, and what stands for none.

    Args:
        backbone: whose encoders read.
        asked: the call.
        own: see `dsd.generate.asked.own_of`.
        prompts: one a film.
        encoded: in place of prompts.
        tokens: how many are read where the call does not say.

    Raises:
        UserError: Numbers or lengths that do not agree.
    """
    count = len(prompts)
    most = whole("max_sequence_length", tokens if asked.max_sequence_length is None else asked.max_sequence_length)
    positive, negative = _words(asked, own, prompts)
    text = None if encoded is None else _for_all(encoded, count, "prompt_embeds")
    no_text = None
    if asked.negative_prompt_embeds is not None:
        if asked.negative_prompt is not None:
            raise UserError("negative_prompt and negative_prompt_embeds were both given; give one of them")
        pooled = asked.negative_pooled_prompt_embeds
        given = _given(backbone, "negative_prompt_embeds", asked.negative_prompt_embeds, pooled)
        no_text = _for_all(given, count, "negative_prompt_embeds")
    rows = [
        *([] if text is not None else zip(*positive, strict=True)),
        *([] if no_text is not None else zip(*negative, strict=True)),
    ]
    if rows:
        _require_encoders(backbone, text)
        unique = list(dict.fromkeys(rows))
        words = [list(column) for column in zip(*unique, strict=True)]
        read = backbone.encode_text(words[0], most, words[1:]).take([unique.index(row) for row in rows])
        text = read.take(slice(0, count)) if text is None else text
        no_text = read.take(slice(len(rows) - count, None)) if no_text is None else no_text
    assert text is not None and no_text is not None
    if text.pooled is not None and no_text.pooled is not None and text.pooled.shape != no_text.pooled.shape:
        raise UserError(
            f"pooled_prompt_embeds have the shape {tuple(text.pooled.shape)} and those of the negative prompt "
            f"{tuple(no_text.pooled.shape)}; give what this model's own encoders give"
        )
    if text.tokens.shape != no_text.tokens.shape:
        raise UserError(
            f"prompt_embeds have the shape {tuple(text.tokens.shape)} and those of the negative prompt "
            f"{tuple(no_text.tokens.shape)}; give both at one length, or max_sequence_length to agree"
        )
    return text, no_text


def _require_encoders(backbone: StockBackbone, text: Text | None) -> None:
    missing = [name for name in backbone.text_components if getattr(backbone.pipeline, name) is None]
    if set(missing) - set(backbone.optional_text):
        other = "prompt_embeds and negative_prompt_embeds" if text is None else "negative_prompt_embeds too"
        raise UserError(f"the model was loaded without its {missing[0]}, a text encoder's part; give {other}")


def _words(asked: Asked, own: Own, prompts: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Prompts and negative prompts of each encoder; only the first has any where no other prompt is given."""
    count = len(prompts)
    positive, negative = [prompts], [one_each("negative_prompt", asked.negative_prompt or "", count, texts)]
    if all(words is None for words in (*own.further, *own.negative)):
        return positive, negative
    for number, (words, other) in enumerate(zip(own.further, own.negative, strict=True), start=2):
        positive.append(prompts if words is None else one_each(f"prompt_{number}", words, count, texts))
        name = f"negative_prompt_{number}"
        negative.append(negative[0] if other is None else one_each(name, other, count, texts))
    return positive, negative


def _given(backbone: StockBackbone, name: str, tokens: Tensor, pooled: Tensor | None) -> Text:
    """Prompts that were encoded by the caller."""
    for given, of in ((tokens, name), (pooled, _pooled(name))):
        if given is not None and not (isinstance(given, Tensor) and given.is_floating_point()):
            what = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise UserError(f"{of} holds {what}, but must be a tensor of floats, as the encoders give it")
    needs_pooled = "pooled_projection_dim" in backbone.transformer.config
    if needs_pooled != (pooled is not None):
        fault = "lack their pooled vectors; give" if needs_pooled else "have pooled vectors here; leave out"
        raise UserError(f"{name} {fault} {_pooled(name)}")
    if tokens.ndim != 3 or (pooled is not None and (pooled.ndim, len(pooled)) != (2, len(tokens))):
        raise UserError(
            f"{name} has the shape {tuple(tokens.shape)}, but must be (prompts, tokens, features), and "
            "pooled vectors (prompts, features)"
        )
    return Text(tokens, pooled).to(backbone.device)


def _pooled(name: str) -> str:
    """What the pooled vectors of such an argument are called."""
    return name.replace("prompt_embeds", "pooled_prompt_embeds")


def _for_all(text: Text, count: int, name: str) -> Text:
    if len(text) not in (1, count):
        raise UserError(f"{len(text)} {name} were given for {count} pictures; give one, or one for each")
    return text if len(text) == count else text.take([0] * count)
