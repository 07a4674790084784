"""The tab that draws: who, what, how at the left; pictures, and what one may do with each, at the right."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from dsd.errors import UserError
from dsd.generate.engine import Engine
from dsd.generate.orders import Order
from dsd.images import load_image
from dsd.serve.examples import Examples
from dsd.serve.page_controls import RANDOM, Controls
from dsd.serve.page_model import Shown, unread
from dsd.serve.page_run import Drawn, Part, Run, random_seed, read_seed, save
from dsd.serve.page_slots import Slot
from dsd.serve.page_words import caption, error, note, progress

MOST_PICTURES = 4
"""Pictures of one run, each of which has its place on the page."""
MOST_KEPT = 24
"""Earlier pictures that a visitor finds again."""
LOOK_EVERY = 0.15
"""Seconds between two looks at how far the engine is."""
LARGER = 3
"""A reference is kept at so many times the largest side of a picture that can be drawn of it."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
"""Of all the page's events: no spinner over the page, not for other programs, no waiting for other visitors."""
EMPTY = '<div class="dsd-empty dsd-start">Your pictures appear here.</div>'


class DrawTab:
    """Builds the tab, within a `gradio.Blocks`, and answers what is clicked there.

    Args:
        engine: draws for all visitors.
        shown: the model in the page's words.
        examples: of the model.
        folder: for finished pictures; gradio serves what lies there to who knows its name.
        metadata: whether finished pictures say in their file how they were made.
    """

    def __init__(self, engine: Engine, shown: Shown, examples: Examples, folder: Path, metadata: bool) -> None:
        self._engine, self._shown, self._folder, self._metadata = engine, shown, folder, metadata
        self._runs: dict[str, Run] = {}
        self._decoding = threading.Lock()
        with gr.Row(elem_classes="dsd-columns"):
            with gr.Column(scale=4, min_width=300, elem_classes="dsd-asked"):
                self.controls = Controls(shown, examples, MOST_PICTURES)
            with gr.Column(scale=6, min_width=300, elem_classes="dsd-given"):
                self._message = gr.HTML(elem_id="dsd-message")
                self._status = gr.HTML(EMPTY, elem_id="dsd-status")
                with gr.Row(elem_classes="dsd-results"):
                    self._slots = [Slot.built(number) for number in range(MOST_PICTURES)]
                with gr.Column(visible=False, elem_classes="dsd-history") as self._past:
                    gr.HTML("<h2>Earlier</h2><p>Click one to go back to it and to its settings.</p>")
                    self._earlier = gr.Gallery(
                        columns=6, height="auto", allow_preview=False, buttons=[], interactive=False, format="png",
                        show_label=False, container=False, fit_columns=False, elem_id="dsd-earlier",
                    )  # fmt: skip
        self._results = gr.State([])
        self._history = gr.State([])
        self._outputs = [
            self._message, self._status, self._past, self._earlier, self._results, self._history,
            *self.controls.outputs(),
            *(part for slot in self._slots for part in slot.parts()),
        ]  # fmt: skip
        self._wire()

    def leave(self, request: gr.Request) -> None:
        """Drops what a visitor who has gone still had drawn."""
        self._drop(request)

    def _wire(self) -> None:
        asked: set[Any] = {*self.controls.inputs(), self._history, self._results}
        # "multiple": gradio would swallow, unseen by the server, a click that comes just after a drawing was stopped.
        draw: dict[str, Any] = {"inputs": asked, "outputs": self._outputs, "trigger_mode": "multiple", **QUIET}
        gr.on([self.controls.draw.click, self.controls.prompt.submit], self._draw, **draw)
        self.controls.stop.click(self._stop, self._results, self._outputs, **QUIET)
        self.controls.reference.upload(self._look, self.controls.reference, self._outputs, **QUIET)
        self.controls.prompt.blur(self._read, self.controls.prompt, self.controls.notes, **QUIET)
        for number, slot in enumerate(self._slots):
            slot.vary.click(self._varied(number), **draw)
            slot.use.click(self._used(number), self._results, self._outputs, **QUIET)
        self.controls.keep.click(self._last_seed, self._results, self.controls.seed, **QUIET)
        self._earlier.select(self._back, self._history, self._outputs, **QUIET)

    async def _draw(self, values: dict[Any, Any], request: gr.Request) -> AsyncIterator[dict[Any, Any]]:
        try:
            orders = await asyncio.to_thread(self._orders, values)
        except UserError as mistake:
            yield {self._message: error(mistake)}
            return
        async for change in self._run(orders, [], values, request):
            yield change

    def _varied(self, number: int) -> Any:
        async def vary(values: dict[Any, Any], request: gr.Request) -> AsyncIterator[dict[Any, Any]]:
            if number < len(values[self._results]):
                original: Drawn = values[self._results][number]
                order = replace(original.order, seed=random_seed())
                async for change in self._run([order], [original], values, request):
                    yield change

        return vary

    def _orders(self, values: dict[Any, Any]) -> list[Order]:
        """What the controls say, one order a picture."""
        controls = self.controls
        references = tuple(self._reference(path) for path in controls.paths(values[controls.reference]))
        if len(references) != self._shown.references:
            raise UserError(self._shown.wanted(len(references)))
        prompt = values[controls.prompt].strip()
        if not prompt:
            raise UserError("the prompt is empty; say what the picture shall show")
        first = read_seed(values[controls.seed]) if values[controls.seed].strip() else random_seed()
        settings = controls.settings(values)
        self._shown.require(prompt, settings["negative_prompt"], settings["height"], settings["width"])
        count = int(values[controls.count])
        return [Order(prompt=prompt, references=references, seed=first + number, **settings) for number in range(count)]

    def _reference(self, path: str) -> Image.Image:
        """A reference, one at a time (a decoded picture may be a thousand times its file), no larger than is of use."""
        # Opened here: what is said of it then names no path of this machine.
        with self._decoding, Path(path).open("rb") as file:
            image = load_image(file, max_pixels=self._shown.limits.picture_pixels)
            most = LARGER * self._shown.most_side
            image.thumbnail((most, most), Image.Resampling.LANCZOS)
        return image

    async def _run(
        self, orders: Sequence[Order], beside: list[Drawn], values: dict[Any, Any], request: gr.Request
    ) -> AsyncIterator[dict[Any, Any]]:
        """Has orders drawn and tells how far it is; what is beside stays in the places after them."""
        present = self._runs.get(str(request.session_hash))
        if present is not None and not present.cancelled:
            return  # a second click takes nothing away from the first
        try:
            run = Run(self._engine, orders)
        except UserError as mistake:
            yield {self._message: error(mistake)}
            return
        self._runs[str(request.session_hash)] = run
        yield self._begun(run, beside, self._read(orders[0].prompt))
        seen: dict[int, Any] = {}
        try:
            while not run.done:
                await asyncio.sleep(LOOK_EVERY)
                if self._runs.get(str(request.session_hash)) is run:
                    yield {self._status: progress(run), **self._previews(run, seen)}
            drawn = await asyncio.to_thread(self._saved, run)
        finally:
            if not run.done:
                run.cancel()
            replaced = self._runs.get(str(request.session_hash)) is not run
            if not replaced:
                del self._runs[str(request.session_hash)]
        if not replaced:  # by another click, whose run the page shows now
            yield self._ended(run, drawn, beside, values[self._history])

    def _begun(self, run: Run, beside: Sequence[Drawn], unsaid: str) -> dict[Any, Any]:
        changes: dict[Any, Any] = {
            self._message: "", self._status: progress(run), self._results: list(beside),
            self.controls.notes: unsaid, self.controls.stop: gr.update(interactive=True),
            self.controls.draw: gr.update(interactive=False),
            self.controls.seed: gr.update(placeholder=f"{RANDOM}; the last was {run.parts[0].order.seed}"),
        }  # fmt: skip
        for number, slot in enumerate(self._slots):
            drawn = beside[number - len(run.parts)] if 0 <= number - len(run.parts) < len(beside) else None
            changes |= slot.shown(drawn, working=True)
            if number < len(run.parts):
                changes |= {slot.box: gr.update(visible=True), slot.words: caption("…")}
        return changes

    def _previews(self, run: Run, seen: dict[int, Any]) -> dict[Any, Any]:
        changes = {}
        for number, part in enumerate(run.parts):
            if part.preview is not None and seen.get(number) is not part.preview:
                seen[number] = part.preview
                changes[self._slots[number].picture] = part.preview
                changes[self._slots[number].words] = caption(f"step {part.step} of {part.steps}")
        return changes

    def _saved(self, run: Run) -> list[Drawn]:
        drawn = []
        for part in run.parts:
            if not part.future.cancelled() and part.future.exception() is None:
                drawn.append(self._save(part.future.result().pictures[0], part.order))
        return drawn

    def _save(self, picture: Image.Image, order: Order) -> Drawn:
        return save(picture, order, self._folder, self._shown.name if self._metadata else None)

    def _ended(
        self, run: Run, drawn: Sequence[Drawn], beside: Sequence[Drawn], history: Sequence[Drawn]
    ) -> dict[Any, Any]:
        results = [*drawn, *beside][:MOST_PICTURES]
        failures = [words for words in map(Part.failure, run.parts) if words]
        stopped = "Stopped." if run.cancelled else ""
        status = "" if results else EMPTY
        return {
            self._message: error(failures[0]) if failures else note(stopped) if stopped else "",
            self._status: status,
            **self._shown_results(results),
            **self._kept([*reversed(drawn), *history][:MOST_KEPT]),
        }

    def _shown_results(self, results: Sequence[Drawn]) -> dict[Any, Any]:
        changes: dict[Any, Any] = {
            self._results: list(results),
            self.controls.stop: gr.update(interactive=False),
            self.controls.draw: gr.update(interactive=True),
        }
        for number, slot in enumerate(self._slots):
            changes |= slot.shown(results[number] if number < len(results) else None)
        return changes

    def _kept(self, history: Sequence[Drawn]) -> dict[Any, Any]:
        pictures = [(str(drawn.file), drawn.words()) for drawn in history]
        return {
            self._history: list(history),
            self._past: gr.update(visible=bool(pictures)),
            self._earlier: gr.update(value=pictures, selected_index=None),
        }

    def _used(self, number: int) -> Any:
        def use(results: list[Drawn]) -> dict[Any, Any]:
            if number >= len(results):
                return {self._message: ""}
            return {self._message: "", self.controls.reference: self.controls.put([str(results[number].file)])}

        return use

    def _last_seed(self, results: list[Drawn]) -> str:
        return str(results[0].order.seed) if results else ""

    def _back(self, history: list[Drawn], event: gr.SelectData) -> dict[Any, Any]:
        """Shows an earlier picture and puts all that it was drawn after into the controls."""
        drawn = history[event.index]
        references = [str(save(one, drawn.order, self._folder, None).file) for one in drawn.order.references]
        return {
            self._message: "",
            self._status: "",
            self.controls.reference: self.controls.put(references),
            **self.controls.restored(drawn.order),
            **self._shown_results([drawn]),
        }

    async def _look(self, uploaded: Any) -> dict[Any, Any]:
        """Tells at once, in words, of a file that is no picture, and takes it away."""
        try:
            for path in self.controls.paths(uploaded):
                await asyncio.to_thread(self._reference, path)
        except UserError as mistake:
            return {self._message: error(mistake), self.controls.reference: None}
        return {self._message: ""}

    def _read(self, prompt: str) -> str:
        words = unread(self._engine, prompt) if prompt.strip() else ""
        return words and note(words)

    def _stop(self, results: list[Drawn], request: gr.Request) -> dict[Any, Any]:
        """Drops the visitor's run, and makes the page ready for another, also where it lost sight of the run."""
        self._drop(request)
        status = "" if results else EMPTY
        return {self._message: note("Stopped."), self._status: status, **self._shown_results(results)}

    def _drop(self, request: gr.Request) -> None:
        run = self._runs.get(str(request.session_hash))
        if run is not None:
            run.cancel()
