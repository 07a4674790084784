"""Captions to grid prompts: a language model takes each caption as an inspiration for one subject in some scenes.

With the compact templates a question is the single user message `grid prompt: {caption}`; see `templates/README.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from dsd.chat.protocol import ChatFailure, ChatModel
from dsd.chat.templates import Templates, scene_places
from dsd.curate.schemas import SheetReply
from dsd.curate.seeds import derive_seed
from dsd.data.records import Caption, GridPrompt, Model


def repeated(subjects: Sequence[str], count: int) -> tuple[Caption, ...]:
    """In place of captions: subjects that take turns, numbered so that no two sheets of one subject are the same."""
    return tuple(Caption(text=f"{subjects[n % len(subjects)]}, {n // len(subjects) + 1}") for n in range(count))


def fixed_grid_prompts(captions: Sequence[Caption], themes: tuple[str, ...], templates: Templates) -> list[GridPrompt]:
    """The grid prompts of `repeated` captions, which nobody has to write."""
    writer = Model(name="nobody", revision="", template=templates["sheet"].label)
    return [_prompt(caption, caption.text.rpartition(", ")[0], themes, templates, writer) for caption in captions]


def write_grid_prompts(
    captions: Sequence[Caption],
    chat: ChatModel,
    templates: Templates,
    schema: type[SheetReply],
    seed: int,
    themes: tuple[str, ...] = (),
) -> list[GridPrompt | ChatFailure]:
    """Asks for a grid prompt after each caption.

    Args:
        captions: the inspirations.
        chat: who writes.
        templates: of the question and of the text that the teacher will draw.
        schema: of the reply.
        seed: of the unit.
        themes: scenes for every sheet in place of the reply's own.

    Returns:
        For each caption its grid prompt, or why there is none.
    """
    template = templates["grid_prompt"]
    replies = chat.reply(
        [
            template.request({"caption": caption.text}, schema, seed=derive_seed(seed, "grid prompt", caption.id))
            for caption in captions
        ]
    )
    writer = Model(name=chat.name, revision=chat.revision, template=template.label)
    return [
        reply
        if isinstance(reply, ChatFailure)
        else _prompt(caption, reply.subject, themes or tuple(reply.scenes), templates, writer)
        for caption, reply in zip(captions, cast(list[ChatFailure | SheetReply], replies), strict=True)
    ]


def _prompt(caption: Caption, subject: str, scenes: tuple[str, ...], templates: Templates, writer: Model) -> GridPrompt:
    named = dict(zip(scene_places(len(scenes)), scenes, strict=True))
    text = templates["sheet"].words({"subject": subject, **named})
    return GridPrompt(caption=caption.id, subject=subject, scenes=scenes, text=text, writer=writer)
