"""Takes the pictures of pages that stand in docs/images, with Debian's chromium.

dsd serve --dataset runs/demo/dataset
python examples/page_screenshots.py http://127.0.0.1:8000 docs/images

dsd data show runs/demo/dataset --out runs/show.html --pairs 4
python examples/page_screenshots.py runs/show.html docs/images
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


PHONE = {"width": 390, "height": 844}
COLUMNS = 4
"""Beside each other, in which a page as long as that of a dataset is shown on a phone."""


def main(of: str, folder: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        if of.endswith(".html"):
            dataset(browser, Path(of).absolute().as_uri(), folder)
        else:
            server(browser, of, folder)
        browser.close()


def dataset(browser: Browser, address: str, folder: Path) -> None:
    """The page of `dsd data show`."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    keep(page, file := folder / "data_show_wide.png", full=True)
    with Image.open(file) as opened:
        smaller = opened.resize((900, 900 * opened.height // opened.width), Image.Resampling.LANCZOS)
    smaller.quantize(128).save(file, optimize=True)
    page = browser.new_page(viewport=PHONE)
    page.goto(address)
    page.screenshot(path=(file := folder / "data_show_phone.png"), full_page=True)
    with Image.open(file) as opened:
        long = opened.convert("RGB")
    part, gap = -(-long.height // COLUMNS), 8
    shown = Image.new("RGB", (COLUMNS * (long.width + gap) - gap, part), "grey")
    for number in range(COLUMNS):
        shown.paste("white", (number * (long.width + gap), 0, number * (long.width + gap) + long.width, part))
        shown.paste(long.crop((0, number * part, long.width, min(long.height, (number + 1) * part))),
                    (number * (long.width + gap), 0))  # fmt: skip
    shown.quantize(128).save(file, optimize=True)


def server(browser: Browser, address: str, folder: Path) -> None:
    """The page of `dsd serve`."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    draw(page, subject=0, scene=1, pictures=2)
    draw(page, subject=1, scene=2, pictures=4)
    keep(page, folder / "page_draw.png")
    page.get_by_role("tab", name="Dataset").click()
    page.wait_for_selector(".dsd-pair")
    page.click("#dsd-which input")
    page.get_by_role("option").nth(1).click()
    page.wait_for_selector(".dsd-pair.lost")
    page.set_viewport_size({"width": 1280, "height": 840})
    keep(page, folder / "page_dataset.png")
    page = browser.new_page(viewport=PHONE, color_scheme="dark")
    page.goto(address)
    draw(page, subject=4, scene=0, pictures=1)
    keep(page, folder / "page_phone.png", full=True)


def draw(page: Page, subject: int, scene: int, pictures: int) -> None:
    page.locator("#dsd-subjects button").nth(subject).click()
    page.wait_for_selector("#dsd-reference img")
    page.locator("#dsd-scenes button").nth(scene).click()
    words = page.locator("#dsd-scenes button").nth(scene).inner_text()
    page.wait_for_function(f"document.querySelector('#dsd-prompt textarea').value.endsWith({words!r})")
    if pictures > 1:
        page.click("#dsd-settings button")
        page.fill("#dsd-count input[type=number]", str(pictures))
        page.keyboard.press("Tab")
        page.click("#dsd-settings button")
    page.click("#dsd-draw")
    page.wait_for_selector("#dsd-stop:not([disabled])")
    page.wait_for_selector("#dsd-stop[disabled]", timeout=60_000)
    page.wait_for_selector(f"#dsd-slot-{pictures - 1} .dsd-actions button")


def keep(page: Page, file: Path, full: bool = False) -> None:
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(600)
    shot = Image.open(io.BytesIO(page.screenshot(full_page=full))).convert("RGB")
    shot.save(file, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
