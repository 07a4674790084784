"""The tab that shows a dataset: what curation kept and what not, with the judge's words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from dsd.errors import UserError, cut, reason_of
from dsd.serve.page_pairs import KEPT, REJECTED, Pages
from dsd.serve.page_words import error

_NONE = (
    "No dataset was named. Start the server with <code>dsd serve --dataset DIR</code>, where DIR is what "
    "<code>dsd curate</code> wrote."
)


@dataclass(frozen=True, kw_only=True)
class View:
    """What of a dataset a visitor looks at.

    Attributes:
        pages: of the dataset; None where none is open.
        which: one of the dataset's filters.
        number: of the page, from 1.
    """

    pages: Pages | None = None
    which: str = KEPT
    number: int = 1


class DatasetTab:
    """Builds the tab, within a `gradio.Blocks`, and answers what is clicked there.

    Args:
        folder: of the dataset that the server was started with.
        may_type: whether visitors may name a folder of this machine; let only the machine's own user do so.
        quiet: arguments of all the page's events.
    """

    def __init__(self, folder: Path | None, may_type: bool, quiet: dict[str, Any]) -> None:
        view, words = _opened(folder)
        self._view = gr.State(view)
        named = _named(folder) if may_type else None
        self._message = gr.HTML(words, elem_id="dsd-dataset-message")
        self._funnel = gr.HTML(_funnel(view))
        with gr.Row(elem_classes="dsd-paging", visible=view.pages is not None) as self._bar:
            self._which = gr.Dropdown(
                _choices(view), value=KEPT, label="Show", scale=3, min_width=200, interactive=True,
                elem_id="dsd-which", filterable=False,
            )  # fmt: skip
            before = gr.Button("← Back", scale=1, min_width=80, elem_id="dsd-before")
            self._where = gr.HTML(_where(view), elem_id="dsd-where")
            after = gr.Button("Next →", scale=1, min_width=80, elem_id="dsd-after")
        self._cards = gr.HTML(_cards(view), elem_id="dsd-cards")

        shown = [self._view, self._message, self._where, self._cards]
        self._which.input(self._filter, [self._view, self._which], shown, **quiet)
        before.click(lambda view: self._turn(view, -1), self._view, shown, **quiet)
        after.click(lambda view: self._turn(view, 1), self._view, shown, **quiet)
        if named is not None:
            path, button = named
            everything = [*shown, self._funnel, self._bar, self._which]
            gr.on([button.click, path.submit], self._open, path, everything, **quiet)

    def _open(self, path: str) -> dict[Any, Any]:
        view, words = _opened(Path(path.strip()) if path.strip() else None)
        return {
            **self._shown(view, words),
            self._funnel: _funnel(view),
            self._bar: gr.update(visible=view.pages is not None),
            self._which: gr.update(choices=_choices(view), value=KEPT),
        }

    def _filter(self, view: View, which: str) -> dict[Any, Any]:
        return self._shown(View(pages=view.pages, which=which))

    def _turn(self, view: View, by: int) -> dict[Any, Any]:
        last = 1 if view.pages is None else view.pages.count(view.which)
        number = min(max(1, view.number + by), last)
        return self._shown(View(pages=view.pages, which=view.which, number=number))

    def _shown(self, view: View, words: str = "") -> dict[Any, Any]:
        try:
            cards = _cards(view)
        except UserError as mistake:
            cards, words = "", error(mistake)
        return {self._view: view, self._message: words, self._where: _where(view), self._cards: cards}


def _named(folder: Path | None) -> tuple[gr.Textbox, gr.Button]:
    """Where a folder is typed, and what opens it."""
    with gr.Row(elem_classes="dsd-open"):
        path = gr.Textbox(
            label="Folder of a dataset", value="" if folder is None else str(folder), scale=5, min_width=200,
            max_lines=1, max_length=4000, elem_id="dsd-folder",
        )  # fmt: skip
        return path, gr.Button("Open", scale=1, min_width=80, elem_id="dsd-open")


def _opened(folder: Path | None) -> tuple[View, str]:
    """A view of a folder, and what there is to say of it."""
    if folder is None:
        return View(), f'<p class="dsd-empty">{_NONE}</p>'
    try:
        return View(pages=Pages(folder)), ""
    except UserError as mistake:
        return View(), error(mistake)
    except (OSError, ValueError) as mistake:
        return View(), error(f'"{cut(str(folder))}" cannot be opened ({reason_of(mistake)}); give another folder')


def _choices(view: View) -> list[tuple[str, str]]:
    """Each filter's words with its count, and its name."""
    if view.pages is None:
        return [(KEPT, KEPT)]
    named = {KEPT: "Kept", REJECTED: "Rejected, for any reason"}
    return [(f"{named.get(name, name)} ({count:,})", name) for name, count in view.pages.filters().items()]


def _funnel(view: View) -> str:
    return "" if view.pages is None else view.pages.funnel_html()


def _where(view: View) -> str:
    last = 1 if view.pages is None else view.pages.count(view.which)
    return f'<div class="dsd-where">{view.number:,} of {last:,}</div>'


def _cards(view: View) -> str:
    return "" if view.pages is None else view.pages.page(view.which, view.number)
