"""The places of pictures, each with what one may do with its picture."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from dsd.serve.page_run import Drawn
from dsd.serve.page_words import caption


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The place of one picture, hidden while there is none."""

    box: gr.Column
    picture: gr.Image
    words: gr.HTML
    actions: gr.Row
    vary: gr.Button
    use: gr.Button
    save: gr.DownloadButton

    @classmethod
    def built(cls, number: int) -> Slot:
        """Builds a place, within a `gradio.Blocks`."""
        with gr.Column(min_width=200, visible=False, elem_classes="dsd-slot", elem_id=f"dsd-slot-{number}") as box:
            picture = gr.Image(
                interactive=False, format="png", buttons=["fullscreen"], show_label=False, elem_classes="dsd-picture"
            )
            words = gr.HTML()
            with gr.Row(elem_classes="dsd-actions") as actions:
                vary = gr.Button("Vary", size="sm", scale=2, min_width=50)
                use = gr.Button("Use as reference", size="sm", scale=3, min_width=120)
                file = gr.DownloadButton("Download", size="sm", scale=2, min_width=70)
        return cls(box=box, picture=picture, words=words, actions=actions, vary=vary, use=use, save=file)

    def parts(self) -> list[Any]:
        """All that it consists of."""
        return [getattr(self, field.name) for field in fields(self)]

    def shown(self, drawn: Drawn | None, working: bool = False) -> dict[Any, Any]:
        """The changes that show a picture, or hide the place.

        Args:
            drawn: the picture.
            working: something else is being drawn, and nothing can be done with this picture until then.
        """
        file = None if drawn is None else str(drawn.file)
        return {
            self.box: gr.update(visible=drawn is not None),
            self.picture: gr.update(value=file),
            self.words: "" if drawn is None else caption(drawn.words()),
            self.actions: gr.update(visible=drawn is not None and not working),
            self.save: gr.update(value=file),
        }
