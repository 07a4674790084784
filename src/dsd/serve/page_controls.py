"""What a visitor of the page says: who (a reference), what (a prompt) and how (settings)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from dsd.generate.orders import Order
from dsd.serve.examples import Examples
from dsd.serve.page_model import Shown

_FITS = [("Crop to the middle", "crop"), ("Pad at the edges", "pad"), ("Stretch", "stretch")]


RANDOM = "empty: another one each time"
"""What stands where no seed does."""


class Controls:
    """Builds the controls, within a `gradio.Blocks`.

    Args:
        shown: the model that they are for.
        examples: to begin with.
        most: pictures at once.
    """

    def __init__(self, shown: Shown, examples: Examples, most: int) -> None:
        self._several, self._takes_guidance = shown.references != 1, shown.takes_guidance
        self.reference = self._references(shown)
        subject = gr.State("")
        subjects = gr.Dataset(
            components=[gr.Image(visible=False)], samples=[[str(one.picture)] for one in examples.subjects],
            label="Or take an example", type="index", samples_per_page=12, elem_id="dsd-subjects",
            visible=bool(examples.subjects) and not self._several,
        )  # fmt: skip
        self.prompt = gr.Textbox(
            label="Prompt", value="", placeholder="Who it is, and the new scene", lines=2, max_lines=5,
            elem_id="dsd-prompt", submit_btn=False,
        )  # fmt: skip
        self.notes = gr.HTML(elem_id="dsd-notes")
        with gr.Row(elem_classes="dsd-go"):
            self.draw = gr.Button("Draw", variant="primary", scale=3, min_width=120, elem_id="dsd-draw")
            self.stop = gr.Button("Stop", scale=1, min_width=80, interactive=False, elem_id="dsd-stop")
        scenes = gr.Dataset(
            components=[gr.Textbox(visible=False)], samples=[[scene] for scene in examples.scenes],
            label="Scenes to try", type="index", samples_per_page=12, layout="gallery", elem_id="dsd-scenes",
        )  # fmt: skip
        self._settings(shown, most)
        if examples.knows:
            with gr.Accordion("Words this model knows", open=False, elem_id="dsd-knows"):
                gr.HTML(_known(examples))

        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

        def begin(number: int) -> tuple[str, str, str]:
            one = examples.subjects[number]
            return str(one.picture), one.words, f"{one.words} {one.scene}"

        def go_on(number: int, who: str) -> str:
            return f"{who} {examples.scenes[number]}".strip()

        if not self._several:
            subjects.click(begin, subjects, [self.reference, subject, self.prompt], **quiet)
        scenes.click(go_on, [scenes, subject], self.prompt, **quiet)
        self.reference.upload(lambda: "", None, subject, **quiet)

    def _references(self, shown: Shown) -> gr.Image | gr.Gallery:
        if self._several:
            return gr.Gallery(
                label=f"References ({shown.references})", type="filepath", interactive=True, columns=3, format="png",
                sources=["upload", "clipboard"], file_types=["image"], height=260, elem_id="dsd-reference",
            )  # fmt: skip
        image = gr.Image(
            label="Reference", type="filepath", image_mode=None, sources=["upload", "clipboard"], format="png",
            height=230, buttons=[], elem_id="dsd-reference",
            placeholder="Drop a picture here, paste one,\nor click to choose a file",
        )  # fmt: skip
        # Gradio would decode whatever was sent, with every decoder of Pillow; `load_image` does it with limits.
        image.preprocess = lambda payload: None if payload is None else payload.path
        return image

    def _settings(self, shown: Shown, most: int) -> None:
        with gr.Accordion("Settings", open=False, elem_id="dsd-settings"):
            most = min(most, shown.limits.pictures)
            self.count = gr.Slider(
                1, max(2, most), value=1, step=1, label="Pictures", visible=most > 1, elem_id="dsd-count"
            )
            with gr.Row(elem_classes="dsd-open"):
                self.seed = gr.Textbox(
                    label="Seed", value="", placeholder=RANDOM, max_lines=1, scale=3, min_width=160, elem_id="dsd-seed"
                )
                self.keep = gr.Button("Keep the last", scale=1, min_width=110, size="sm", elem_id="dsd-keep")
            with gr.Row():
                self.text_scale = gr.Slider(
                    1,
                    10,
                    value=shown.sampling.text_scale,
                    step=0.1,
                    label="Follow the text",
                    info="1 is off",
                    min_width=140,
                )
                self.image_scale = gr.Slider(
                    1, 10, value=shown.sampling.image_scale, step=0.1, label="Follow the reference",
                    info="1 is off", min_width=140,
                )  # fmt: skip
            self.guidance = gr.Slider(
                0, 20, value=shown.sampling.guidance, step=0.1, label="Embedded guidance", visible=shown.takes_guidance
            )
            most_steps = max(shown.limits.steps, shown.sampling.steps)
            self.steps = gr.Slider(
                1, most_steps, value=shown.sampling.steps, step=1, label="Steps", elem_id="dsd-steps"
            )
            side: dict[str, Any] = {"minimum": shown.multiple, "maximum": shown.most_side, "step": shown.multiple}
            with gr.Row():
                self.width = gr.Slider(**side, value=shown.width, label="Width", min_width=140)
                self.height = gr.Slider(**side, value=shown.height, label="Height", min_width=140)
            self.fit = gr.Radio(_FITS, value="crop", label="A reference of other proportions")
            self.negative = gr.Textbox(
                label="Not in the picture", value="", max_lines=2, elem_id="dsd-negative",
                info="A negative prompt; it needs “Follow the text” above 1",
            )  # fmt: skip

    def inputs(self) -> list[Any]:
        """All that a drawing depends on."""
        return [self.reference, self.prompt, self.count, *self._restorable()]

    def outputs(self) -> list[Any]:
        """All that a run, or going back, changes."""
        return [self.reference, self.prompt, self.notes, self.draw, self.stop, *self._restorable()]

    def _restorable(self) -> list[Any]:
        return [
            self.seed, self.steps, self.text_scale, self.image_scale, self.guidance, self.width, self.height, self.fit,
            self.negative,
        ]  # fmt: skip

    def settings(self, values: dict[Any, Any]) -> dict[str, Any]:
        """The fields of an order that the settings say."""
        return {
            "height": int(values[self.height]),
            "width": int(values[self.width]),
            "fit": values[self.fit],
            "negative_prompt": values[self.negative].strip(),
            "steps": int(values[self.steps]),
            "text_scale": float(values[self.text_scale]),
            "image_scale": float(values[self.image_scale]),
            "guidance": float(values[self.guidance]) if self._takes_guidance else None,
        }

    def restored(self, order: Order) -> dict[Any, Any]:
        """The controls as they were for an order, with its seed kept."""
        return {
            self.prompt: order.prompt, self.negative: order.negative_prompt, self.seed: str(order.seed),
            self.steps: order.steps, self.text_scale: order.text_scale, self.image_scale: order.image_scale,
            self.guidance: order.guidance or 0, self.width: order.width, self.height: order.height,
            self.fit: order.fit, self.notes: "",
        }  # fmt: skip

    def paths(self, value: Any) -> list[str]:
        """The files of the references, as the reference control's value names them."""
        if not value:
            return []
        return [path for path, _ in value] if self._several else [value]

    def put(self, paths: Sequence[str]) -> Any:
        """The reference control's value for files."""
        return list(paths) if self._several else next(iter(paths), None)


def _known(examples: Examples) -> str:
    kinds = "".join(
        f"<dt>{escape(kind)}</dt><dd>{escape(', '.join(words))}</dd>" for kind, words in examples.knows.items()
    )
    return f'<dl class="dsd-knows">{kinds}</dl>'
