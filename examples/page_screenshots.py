"""Takes the pictures of the page that stand in docs/images, with Debian's chromium.

dsd serve --dataset runs/demo/dataset
python examples/page_screenshots.py http://127.0.0.1:8000 docs/images
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def main(address: str, folder: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
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
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        page.goto(address)
        draw(page, subject=4, scene=0, pictures=1)
        keep(page, folder / "page_phone.png", full=True)
        browser.close()


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
