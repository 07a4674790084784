"""Claims about prompts: the compact ones are what tiny-vlm was trained on, and a broken template is told at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny

from dsd.chat.parse import parse_reply
from dsd.chat.protocol import ImagePart, Message, TextPart
from dsd.chat.templates import Template, read_template
from dsd.curate import schemas
from dsd.curate.tasks.identity import IDENTITY
from dsd.errors import UserError
from dsd_world.captions import sheet_caption
from dsd_world.models.vlm import messages

ONE, TWO = tiny.picture(seed=1), tiny.picture(seed=2)


def plain(message: Message) -> list[dict]:
    parts = [{"type": "image"} if isinstance(p, ImagePart) else {"type": "text", "text": p.text} for p in message.parts]
    return [{"role": message.role, "content": parts}]


def test_compact_messages_are_those_that_tiny_vlm_learns() -> None:
    compact = IDENTITY.load_templates("compact")
    pair = {"first": ONE, "second": TWO}
    assert plain(compact["grid_prompt"].message({"caption": "a {red} cat"})) == messages("grid", "a {red} cat")
    assert plain(compact["describe"].message({"image": ONE})) == messages("describe")
    assert plain(compact["judge"].message(pair)) == messages("judge")
    assert plain(compact["judge_direct"].message(pair)) == messages("judge_direct")
    assert [part.image for part in compact["judge"].message(pair).parts if isinstance(part, ImagePart)] == [ONE, TWO]


def test_compact_sheet_text_is_what_tiny_flux_learns() -> None:
    scenes = ["at sea", "at night", "in the room", "in the city"]
    values = {"subject": "red cat"} | {f"scene{n}": scene for n, scene in enumerate(scenes, start=1)}
    assert IDENTITY.load_templates("compact")["sheet"].words(values) == sheet_caption("red cat", scenes)


def test_words_are_not_read_as_places() -> None:
    message = IDENTITY.load_templates("compact")["grid_prompt"].message({"caption": "{image} {scene1} {caption}"})
    assert message.parts == (TextPart("grid prompt: {image} {scene1} {caption}"),)


def test_large_templates_show_both_pictures_and_the_schema() -> None:
    large = IDENTITY.load_templates("default")
    parts = large["judge"].message({"first": ONE, "second": TWO}).parts
    assert [type(part) for part in parts] == [TextPart, ImagePart, TextPart, ImagePart, TextPart]
    asked = {
        "grid_prompt": schemas.GridPromptReply,
        "describe": schemas.PanelDescription,
        "judge": schemas.PairVerdict,
        "judge_direct": schemas.DirectVerdict,
    }
    for name, schema in asked.items():
        shown = re.findall(r"^\{.*\}$", large[name].text, re.MULTILINE)[-1]
        assert re.findall(r'"(\w+)": ', shown) == list(schema.model_fields)


def test_labels_name_set_and_version() -> None:
    assert IDENTITY.load_templates("compact")["judge"].label == "compact/judge 3"
    assert IDENTITY.load_templates("default")["judge"].max_tokens == 1024


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    for name, places in IDENTITY.places.items():
        text = " ".join(f"{{{place}}}" for place in sorted(places))
        (tmp_path / f"{name}.md").write_text(f"<!-- version: 7 -->\n{text}\n")
    own = IDENTITY.load_templates(str(tmp_path))
    assert own["describe"].label == f"{tmp_path.name}/describe 7"
    for content, words in {
        "{image} describe": "must begin with",
        "<!-- version: 7 -->\ndescribe": "must have the places {image}",
        "<!-- version: 7 -->\n{image} {caption}": "must have the places {image}",
    }.items():
        (tmp_path / "describe.md").write_text(content)
        with pytest.raises(UserError, match=words):
            IDENTITY.load_templates(str(tmp_path))
    (tmp_path / "describe.md").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        IDENTITY.load_templates(str(tmp_path))
    with pytest.raises(UserError, match='no templates "large"'):
        IDENTITY.load_templates("large")


def own(tmp_path: Path, header: str, body: str) -> Template:
    (tmp_path / "grid_prompt.md").write_text(f"<!-- version: 7{header} -->\n{body}\n")
    return read_template(tmp_path / "grid_prompt.md", {"caption"})


@pytest.mark.parametrize(
    "shown",
    [
        '{"same": true}',
        '```json\n{"subject": "a cat", "scenes": ["a", "b"]}\n```',
        '{"n": {"score": 3}}',
        '{{}: {}} [{}, 3]{} {"a": [1]}',
    ],
)
def test_a_template_that_shows_a_whole_reply_is_refused(tmp_path: Path, shown: str) -> None:
    with pytest.raises(UserError, match="holds a whole reply"):
        own(tmp_path, "", f"{{caption}}\nReply as\n{shown}\nand no more")
    for places in (
        '{"same": <true or false>}',
        '{"subject": "...", "score": 0}',
        '{"caption": "<words>"}',
        "{a} {} {}",
    ):
        own(tmp_path, "", f"{{caption}} {places}")


def test_examples_are_turns_before_the_question(tmp_path: Path) -> None:
    text = 'inspired by {caption}\n\n<!-- example: a barn -->\n{"a": "b"}\n\n<!-- example: {caption} -->\n{"a": "c"}\n'
    request = own(tmp_path, ", example_from: 1, temperature: 0.5", text).request(
        {"caption": "a cat"}, schemas.DirectVerdict
    )
    said = [(m.role, part.text) for m in request.example for part in m.parts if isinstance(part, TextPart)]
    assert said == [
        ("user", "inspired by a barn"), ("assistant", '{"a": "b"}'),
        ("user", "inspired by {caption}"), ("assistant", '{"a": "c"}'),
    ]  # fmt: skip
    assert request.messages == (Message("user", (TextPart("inspired by a cat"),)),)
    assert (request.example_from, request.temperature) == (1, 0.5)
    with pytest.raises(UserError, match="is no JSON object"):
        own(tmp_path, "", "{caption}\n<!-- example: a barn -->\na cow")
    (tmp_path / "describe.md").write_text("<!-- version: 1 -->\n{image}\n<!-- example: a barn -->\n{}\n")
    with pytest.raises(UserError, match="not one place for words"):
        read_template(tmp_path / "describe.md", {"image"})


def test_options_of_a_template_are_checked(tmp_path: Path) -> None:
    assert own(tmp_path, ", retry: same, tolerated: 0.4", "{caption}").correction == ""
    assert "{error}" in own(tmp_path, "", "{caption}").correction
    for option in (", retires: same", ", retry: never", ", max_tokens: many"):
        with pytest.raises(UserError, match=option.removeprefix(", ")):
            own(tmp_path, option, "{caption}")


@pytest.mark.parametrize("templates", ["default", "small"])
def test_examples_of_the_sets_are_whole_replies(templates: str) -> None:
    examples = IDENTITY.load_templates(templates)["grid_prompt"].examples
    assert examples
    for _, reply in examples:
        assert isinstance(parse_reply(reply, IDENTITY.writer), IDENTITY.writer)
