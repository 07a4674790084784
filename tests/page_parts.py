"""What a test of the page needs: a server on loopback, a browser, a small dataset."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from dsd.data.records import Model, Pair, Reject
from dsd.data.store import DatasetWriter
from dsd.generate.engine import Engine
from dsd.serve.page import PageSettings, mount

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
BEGINS = """() => {
    const stop = document.querySelector("#dsd-stop");
    window.begun = false;
    new MutationObserver(() => { window.begun ||= !stop.disabled; }).observe(stop, { attributes: true });
}"""
"""Has the page note that a drawing begins, however soon that is over."""
DIFFERENT, UNANSWERED = "not the same individual", "no verdict: not in the schema"
KEPT, REJECTED, FAILED = 8, 7, 1


@contextlib.contextmanager
def served(engine: Engine, settings: PageSettings) -> Iterator[str]:
    """The page beside an API of one route, as a real server; its address."""
    app = FastAPI()
    app.add_api_route("/v1/models", lambda: {"object": "list"}, methods=["GET"])
    server = uvicorn.Server(uvicorn.Config(mount(app, engine, settings), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.force_exit = server.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Debian's chromium, which must be there."""
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing, with which the page is tested; .ci/run installs it")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield running
        running.close()


def until(holds, seconds: float = 15) -> None:
    """Waits for something that another thread does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"it did not come true within {seconds} s"
        time.sleep(0.05)


def give(page: Page, picture: Path, prompt: str) -> None:
    """Uploads a reference and types a prompt."""
    page.set_input_files("#dsd-reference input[type=file]", picture)
    page.wait_for_selector("#dsd-reference img")
    page.fill("#dsd-prompt textarea", prompt)


def draw(page: Page) -> str:
    """Has it drawn; the caption of the first picture."""
    page.evaluate(BEGINS)
    page.click("#dsd-draw")
    page.wait_for_function("window.begun")
    return finished(page)


def finished(page: Page) -> str:
    """Waits for the end of a drawing; the caption of the first picture."""
    page.wait_for_selector("#dsd-stop[disabled]", timeout=30_000)
    page.wait_for_selector("#dsd-slot-0 .dsd-actions button")
    return page.inner_text("#dsd-slot-0 .dsd-caption")


def picture_of(page: Page, place: str) -> bytes:
    """The bytes of the picture at a place."""
    return page.request.get(page.get_attribute(f"{place} img", "src")).body()


def write_dataset(folder: Path) -> Path:
    """Pairs in both orders, and candidates that were rejected for one reason or failed for another."""
    kept = [pair for number in range(KEPT) for pair in (_pair(number, False), _pair(number, True))]
    rejects = [
        Reject(pair=_pair(100 + number, False, "colour red blue: other"), outcome="rejected", reason=DIFFERENT)
        for number in range(REJECTED)
    ]
    rejects += [
        Reject(pair=_pair(200 + number, False), outcome="failed", reason=UNANSWERED, words="<b>well…</b>")
        for number in range(FAILED)
    ]
    writer = DatasetWriter(folder)
    shards = [writer.write_shard("pairs", 0, kept[:6]), writer.write_shard("pairs", 1, kept[6:]),
              writer.write_shard("rejects", 0, rejects)]  # fmt: skip
    funnel = {"captions": 4, "grid_prompts": 4, "sheets": 4, "candidates": 16, "kept": KEPT, "pairs": 2 * KEPT}
    writer.finish(shards, {}, funnel | {"rejected": {DIFFERENT: REJECTED}, "failed": {UNANSWERED: FAILED}})
    return folder


def _pair(number: int, turned: bool, comparison: str = "colour red red: same; eyes, big, small: other") -> Pair:
    order = [0, 1][:: -1 if turned else 1]
    pictures = [Image.new("RGB", (8, 8), (25 * side, number, 90)) for side in order]
    return Pair(
        id=f"{number} {order}", grid=f"grid {number // 4}", reference_panel=f"{number} {order[0]}",
        target_panel=f"{number} {order[1]}", reference=pictures[0], target=pictures[1],
        reference_caption=f"cat {number} at the beach", target_caption=f"cat {number} at night", subject="a red cat",
        first_details="in red", second_details="in scarlet", comparison=comparison,
        judge=Model(name="a judge", revision="1"),
    )  # fmt: skip
