"""The web page of the server: a tab that draws, and one that shows a dataset.

It is a Gradio application that is mounted beside the API, needs no network, and of Gradio's many addresses answers
those alone that its own pages use.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import Scope

from dsd.generate.engine import Engine
from dsd.serve.auth import is_foreign
from dsd.serve.examples import examples_for
from dsd.serve.page_dataset import DatasetTab
from dsd.serve.page_draw import QUIET, DrawTab
from dsd.serve.page_model import Shown
from dsd.serve.page_run import KEPT_SECONDS
from dsd.serve.settings import Limits, Usual

_PAGES = ("/", "/config", "/login", "/logout", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
_BELOW = ("/assets/", "/static/", "/svelte/")
_EVENTS = (
    "queue/join", "queue/data", "upload", "upload_progress", "heartbeat/", "file=", "app_id", "startup-events",
    "login_check", "login_check/", "token", "user", "reset", "cancel", "info", "theme.css",
)  # fmt: skip
_OTHER_SITES = ("file=http:", "file=https:", "file=//")


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """How the page is served.

    Attributes:
        dataset: folder that the second tab shows.
        may_type_folder: whether visitors may name another folder of this machine; only for a server that nobody else
            reaches.
        key: tells whether a visitor's key is right; None where no key is asked for.
        limits: what a visitor may ask for.
        usual: how to sample to begin with.
        model: name that the model goes by; its base's where it is empty.
        metadata: whether pictures say in their file how they were made.
        origins: under which the page is reached, besides the address that it is called by.
    """

    dataset: Path | None = None
    may_type_folder: bool = False
    key: Callable[[str], bool] | None = None
    limits: Limits = field(default_factory=Limits)
    usual: Usual = field(default_factory=Usual)
    model: str = ""
    metadata: bool = True
    origins: tuple[str, ...] = ()


def mount(app: FastAPI, engine: Engine, settings: PageSettings) -> FastAPI:
    """Serves the page at ``/`` of an application, wherever that has no route of its own.

    Args:
        app: with all its routes.
        engine: draws.
        settings: how.

    Returns:
        The same application.
    """
    folder = _private_folder()
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder), "HF_HUB_DISABLE_TELEMETRY": "1"}
    key = settings.key
    gr.mount_gradio_app(
        app,
        _blocks(engine, settings, folder),
        path="/",
        footer_links=[],
        run_history=False,
        auth=None if key is None else lambda _, given: key(given),
        auth_message="Any name will do; the password is the server's API key.",
        allowed_paths=[],
        show_error=False,
        max_file_size=settings.limits.body_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=_theme(),
        css=_beside("page.css"),
        head=f"<script>{_beside('page.js')}</script>",
    )
    app.routes[-1] = _Page(app.routes[-1], app.routes[:-1], settings)
    return app


def _blocks(engine: Engine, settings: PageSettings, folder: Path) -> gr.Blocks:
    shown = Shown.of(engine, settings.model, settings.usual, settings.limits)
    with gr.Blocks(
        title="Draw somebody again", analytics_enabled=False, delete_cache=(3600, KEPT_SECONDS), fill_width=True
    ) as blocks:
        gr.HTML(
            '<header class="dsd-head"><h1>Draw somebody again</h1>'
            "<p>Give a picture of somebody or something, and say where it shall be.</p></header>"
        )
        with gr.Tabs(elem_classes="dsd-tabs"):
            with gr.Tab("Draw", id="draw"):
                drawing = DrawTab(engine, shown, examples_for(shown.base), folder, settings.metadata)
            with gr.Tab("Dataset", id="dataset"):
                DatasetTab(settings.dataset, settings.may_type_folder, QUIET)
        blocks.unload(drawing.leave)
    # Each visitor's drawings wait in the engine's queue, not here.
    return blocks.queue(api_open=False, default_concurrency_limit=None)


class _Page(Mount):
    """Gradio's application for what it needs, and for nothing that another route knows.

    Args:
        mounted: as Gradio mounted it.
        others: the routes that come first, whatever the method.
        settings: of the page.
    """

    def __init__(self, mounted: Any, others: list[BaseRoute], settings: PageSettings) -> None:
        super().__init__("/", app=mounted.app)
        self._others, self._settings = others, settings

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if (
            scope["type"] != "http"
            or not _is_of_the_page(scope["path"])
            or _is_from_another_site(scope, self._settings)
        ):
            return Match.NONE, {}
        if any(route.matches(scope)[0] is not Match.NONE for route in self._others):
            return Match.NONE, {}
        return super().matches(scope)


def _is_of_the_page(path: str) -> bool:
    """Whether an address is one that the page uses; Gradio has others, of which one fetches from any site."""
    inner = path.removeprefix("/gradio_api/")
    if inner != path:
        return inner.startswith(_EVENTS) and not inner.startswith(_OTHER_SITES)
    return path in _PAGES or path.startswith(_BELOW)


def _is_from_another_site(scope: Scope, settings: PageSettings) -> bool:
    """Whether a page of another site sends this; browsers do that without asking."""
    return scope["method"] == "POST" and is_foreign(
        Headers(scope=scope), settings.origins, settings.key is not None, local=False
    )


def _private_folder() -> Path:
    """A folder that other users of the machine cannot read, for uploads and results; it goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="dsd-page-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _theme() -> gr.themes.Base:
    """Fonts are the visitor's own: none is fetched."""
    theme = gr.themes.Soft(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="lg",
        font=["ui-sans-serif", "system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"],
    )  # fmt: skip
    plain = "*neutral_600", "*neutral_300"
    return theme.set(
        block_title_background_fill="transparent", block_title_background_fill_dark="transparent",
        block_title_text_color=plain[0], block_title_text_color_dark=plain[1], block_title_padding="0",
        block_label_background_fill="*background_fill_primary", block_label_text_color=plain[0],
        block_label_background_fill_dark="*background_fill_primary", block_label_text_color_dark=plain[1],
        button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600", button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white", input_border_width="1px", input_border_color="*neutral_300",
        input_shadow="none", button_secondary_background_fill="*neutral_100",
        button_secondary_background_fill_hover="*neutral_200",
    )  # fmt: skip


def _beside(name: str) -> str:
    return (files("dsd.serve") / name).read_text(encoding="utf-8")
