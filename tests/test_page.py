"""Claims about the page, driven in a browser against a real server with the embedded student."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
import page_parts as parts
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page
from starlette.datastructures import Headers

from dsd.data.comparison import points
from dsd.errors import UserError
from dsd.generate.engine import Engine
from dsd.generate.orders import Order
from dsd.generate.two_frame import TwoFramePipeline
from dsd.images import load_image
from dsd.serve.auth import is_foreign
from dsd.serve.examples import FOR_ANY, examples_for
from dsd.serve.page import PageSettings
from dsd.serve.page_controls import Controls
from dsd.serve.page_model import Shown
from dsd.serve.page_run import Run, save
from dsd.serve.settings import Limits, Usual
from dsd_world import examples as drawn_world

PROMPT = "a red cat at the beach"
CLICKED_AS_SOON_AS_OFFERED = """() => {
    const draw = document.querySelector("#dsd-draw");
    new MutationObserver((_, self) => { if (!draw.disabled) { self.disconnect(); draw.click(); } })
        .observe(draw, { attributes: true });
}"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    pipeline = TwoFramePipeline.from_pretrained("embedded:tiny-flux", adapter="embedded:tiny-student")
    pipeline.set_progress_bar_config(disable=True)
    return Engine(pipeline)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parts.write_dataset(tmp_path_factory.mktemp("page") / "dataset")


@pytest.fixture(scope="module")
def address(engine: Engine, folder: Path) -> Iterator[str]:
    with parts.served(engine, PageSettings(dataset=folder, may_type_folder=True)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with parts.browser() as running:
        yield running


@pytest.fixture
def asked() -> list[str]:
    """The addresses that the page asked for."""
    return []


@pytest.fixture
def page(browser: Browser, address: str, asked: list[str]) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(15_000)
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#dsd-draw")
    yield page
    page.close()
    assert not wrong


@pytest.fixture(scope="module")
def cat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(examples_for("embedded:tiny-flux").subjects[0].picture, tmp_path_factory.mktemp("cat")))


def _settings(page: Page, **values: str) -> None:
    if not page.is_visible("#dsd-seed"):
        page.click("#dsd-settings button")
        page.wait_for_selector("#dsd-seed")
    for name, value in values.items():
        page.fill(f"#dsd-{name} :is(input[type=number], input[type=text], textarea)", value)
        page.keyboard.press("Tab")


def _says(page: Page, words: str, place: str = "#dsd-message") -> None:
    page.wait_for_function(
        "([place, words]) => (document.querySelector(place)?.textContent ?? '').includes(words)", arg=[place, words]
    )


def test_an_upload_and_a_prompt_become_a_picture_that_says_how_it_was_made(page, cat, asked, tmp_path):
    parts.give(page, cat, PROMPT)
    caption = parts.draw(page)
    _settings(page)
    page.click("#dsd-keep")
    parts.until(lambda: page.input_value("#dsd-seed :is(input, textarea)"))
    seed = page.input_value("#dsd-seed :is(input, textarea)")
    assert caption == f"{PROMPT} · seed {seed}" and seed.isdecimal()
    with page.expect_download() as download:
        page.click("#dsd-slot-0 :is(a, button):has-text('Download')")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    with Image.open(file) as picture:
        assert picture.format == "PNG" and picture.size == (64, 64)
        assert picture.text == {"model": "embedded:tiny-flux", "prompt": PROMPT, "seed": seed}
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}


def test_a_kept_seed_draws_the_same_picture_and_vary_another_beside_it(page, cat):
    parts.give(page, cat, PROMPT)
    _settings(page, seed="7", steps="4")
    parts.draw(page)
    first = parts.picture_of(page, "#dsd-slot-0")
    assert parts.draw(page) == f"{PROMPT} · seed 7"
    assert parts.picture_of(page, "#dsd-slot-0") == first
    page.click("#dsd-slot-0 button:has-text('Vary')")
    page.wait_for_selector("#dsd-slot-1 .dsd-actions button", timeout=30_000)
    assert page.inner_text("#dsd-slot-1 .dsd-caption") == f"{PROMPT} · seed 7"
    assert page.inner_text("#dsd-slot-0 .dsd-caption") not in ("", f"{PROMPT} · seed 7")
    assert parts.picture_of(page, "#dsd-slot-1") == first != parts.picture_of(page, "#dsd-slot-0")


def test_a_result_becomes_the_reference_and_the_history_gives_all_back(page, cat):
    parts.give(page, cat, PROMPT)
    _settings(page, seed="8", steps="3")
    parts.draw(page)
    given, first = parts.picture_of(page, "#dsd-reference"), parts.picture_of(page, "#dsd-slot-0")
    page.click("#dsd-slot-0 button:has-text('Use as reference')")
    parts.until(lambda: parts.picture_of(page, "#dsd-reference") == first)
    page.fill("#dsd-prompt textarea", "a red cat at night")
    _settings(page, seed="9", steps="2")
    parts.draw(page)
    page.locator("#dsd-earlier button:has(img)").nth(1).click()
    parts.until(lambda: page.input_value("#dsd-prompt textarea") == PROMPT)
    parts.until(lambda: page.input_value("#dsd-steps input[type=number]") == "3")
    assert page.inner_text("#dsd-slot-0 .dsd-caption") == f"{PROMPT} · seed 8"
    assert _pixels(parts.picture_of(page, "#dsd-reference")) == _pixels(given)
    parts.draw(page)
    assert parts.picture_of(page, "#dsd-slot-0") == first


def test_an_example_brings_its_words_and_a_scene_goes_after_them(page):
    subject = examples_for("embedded:tiny-flux").subjects[1]
    page.locator("#dsd-subjects button").nth(1).click()
    parts.until(lambda: page.input_value("#dsd-prompt textarea").startswith(subject.words))
    scene = page.locator("#dsd-scenes button").nth(2)
    scene.click()
    parts.until(lambda: page.input_value("#dsd-prompt textarea") == f"{subject.words} {scene.inner_text()}")
    _settings(page, steps="2", count="3")
    parts.draw(page)
    seeds = [int(page.inner_text(f"#dsd-slot-{n} .dsd-caption").rpartition(" ")[2]) for n in range(3)]
    assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]


def test_progress_is_told_with_partial_pictures(page, cat):
    parts.give(page, cat, PROMPT)
    _settings(page, steps="60")
    page.click("#dsd-draw")
    page.wait_for_function("/Step [0-9]+ of 60/.test(document.querySelector('#dsd-status').textContent)")
    page.wait_for_selector("#dsd-slot-0 img")
    page.wait_for_function("/step [0-9]+ of 60/.test(document.querySelector('#dsd-slot-0').textContent)")
    parts.finished(page)


def test_stop_drops_what_is_drawn_and_what_waits(page, cat, engine):
    parts.give(page, cat, PROMPT)
    _settings(page, steps="100", count="4")
    page.click("#dsd-draw")
    parts.until(lambda: engine.running)
    page.click("#dsd-stop")
    parts.until(lambda: not engine.running and not engine.waiting, 3)
    _says(page, "Stopped")
    _settings(page, steps="2", count="1")
    parts.draw(page)


def test_a_click_at_once_after_stop_draws(page, cat, engine):
    parts.give(page, cat, PROMPT)
    _settings(page, steps="30", count="2")
    page.click("#dsd-draw")
    parts.until(lambda: engine.running)
    page.evaluate(CLICKED_AS_SOON_AS_OFFERED)
    page.click("#dsd-stop")
    page.wait_for_selector("#dsd-slot-1 .dsd-actions button", timeout=30_000)
    assert "Stopped" not in page.inner_text("#dsd-message")


def test_a_second_click_while_it_draws_takes_nothing_away(page, cat):
    parts.give(page, cat, PROMPT)
    _settings(page, steps="8")
    page.dblclick("#dsd-draw")
    page.wait_for_selector("#dsd-slot-0 .dsd-actions button", timeout=30_000)
    assert page.inner_text("#dsd-slot-0 .dsd-caption").startswith(PROMPT)
    assert "Stopped" not in page.inner_text("#dsd-message")


def test_who_leaves_is_not_drawn_for(page, cat, engine):
    parts.give(page, cat, PROMPT)
    _settings(page, steps="100", count="4")
    page.click("#dsd-draw")
    parts.until(lambda: engine.running)
    page.close()
    parts.until(lambda: not engine.running and not engine.waiting, 5)


@pytest.mark.parametrize("name", ["notes.txt", "notes.png"])
def test_a_file_that_is_no_picture_is_told_in_words(page, tmp_path, name):
    (tmp_path / name).write_text("not a picture")
    page.set_input_files("#dsd-reference input[type=file]", tmp_path / name)
    _says(page, "is not a picture that can be read")
    assert "/" not in page.inner_text("#dsd-message")
    assert page.locator("#dsd-message [role=alert]").is_visible()


def test_other_mistakes_are_told_in_words_and_the_page_goes_on(page, cat):
    page.click("#dsd-draw")
    _says(page, "There is no reference picture")
    parts.give(page, cat, "  ")
    page.click("#dsd-draw")
    _says(page, "The prompt is empty")
    page.fill("#dsd-prompt textarea", PROMPT)
    page.fill("#dsd-prompt textarea", "x" * 40_000)
    page.click("#dsd-draw")
    _says(page, "The prompt has 40,000 characters, but at most 32,000 are read")
    page.fill("#dsd-prompt textarea", PROMPT)
    _settings(page, seed="-1")
    page.click("#dsd-draw")
    _says(page, 'The seed is "-1", but must be a whole number from 0')
    _settings(page, seed="5", steps="2")
    parts.draw(page)
    assert not page.inner_text("#dsd-message").strip()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_on_a_phone(page, cat, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    parts.give(page, cat, PROMPT)
    _settings(page, steps="2", count="2")
    parts.draw(page)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == 390
    draw, slot = page.locator("#dsd-draw").bounding_box(), page.locator("#dsd-slot-0").bounding_box()
    assert slot["y"] > draw["y"] and slot["width"] > 300
    page.get_by_role("tab", name="Dataset").click()
    page.wait_for_selector(".dsd-pair")
    assert page.evaluate(width) == 390


def test_small_pictures_are_enlarged_with_crisp_pixels(page, cat):
    parts.give(page, cat, PROMPT)
    image = page.locator("#dsd-reference img").first
    parts.until(lambda: image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated")
    assert image.bounding_box()["height"] > 100


def test_a_dataset_is_filtered_by_reason_and_paged(page):
    page.get_by_role("tab", name="Dataset").click()
    page.wait_for_selector(".dsd-pair.kept")
    assert page.locator(".dsd-pair").count() == 6 and "1 of 2" in page.inner_text("#dsd-where")
    assert f"{parts.KEPT} kept" in page.inner_text(".dsd-funnel")
    page.click("#dsd-after")
    _says(page, "2 of 2", "#dsd-where")
    assert page.locator(".dsd-pair").count() == parts.KEPT - 6
    page.click("#dsd-which input")
    page.get_by_role("option", name=parts.UNANSWERED).click()
    page.wait_for_selector(".dsd-pair.lost")
    assert page.locator(".dsd-pair").count() == parts.FAILED
    assert page.inner_text(".dsd-pair pre") == "<b>well…</b>"
    page.click("#dsd-which input")
    page.get_by_role("option", name=parts.DIFFERENT).click()
    _says(page, "colour red blue", "#dsd-cards")
    assert page.inner_text(".dsd-pair li.other b >> nth=0") == "other"


def test_a_missing_or_damaged_dataset_is_told_in_words(page, folder, tmp_path):
    page.get_by_role("tab", name="Dataset").click()
    _open(page, tmp_path / "nothing")
    _says(page, "is no finished dataset", "#dsd-dataset-message")
    _open(page, Path("x" * 3000))
    _says(page, "File name too long", "#dsd-dataset-message")
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "rejects" / "00000.parquet").write_bytes(b"PAR1")
    _open(page, broken)
    _says(page, "is damaged", "#dsd-dataset-message")
    _open(page, folder)
    page.wait_for_selector(".dsd-pair.kept")
    assert not page.inner_text("#dsd-dataset-message").strip()


def test_the_api_keeps_its_addresses_and_no_file_can_be_read(page, address, folder):
    def status(path: str, method: str = "get") -> int:
        return getattr(page.request, method)(f"{address}{path}").status

    assert page.request.get(f"{address}/v1/models").json() == {"object": "list"}
    assert status("/v1/models", "post") == 405 and status("/v1/nothing") == 404
    secret = folder / "manifest.json"
    for path in (
        "/etc/passwd", "/proc/self/environ", secret, f"/tmp/../{secret}", "..%2f..%2f..%2fetc%2fpasswd",
        "pyproject.toml", "file:///etc/passwd",
    ):  # fmt: skip
        assert status(f"/gradio_api/file={path}") in (403, 404), path
    for other in ("file=http://127.0.0.1:1/", "proxy=http://127.0.0.1:1/", "openapi.json", "vibe-code/", "call/draw"):
        assert status(f"/gradio_api/{other}") == 404, other
    foreign = page.request.post(f"{address}/gradio_api/upload", headers={"origin": "https://example.org"})
    assert foreign.status == 404
    for path in ("/assets/../../../../etc/passwd", "/static/..%2f..%2f..%2f..%2fetc%2fpasswd", "/monitoring"):
        assert status(path) in (403, 404), path


def test_uploads_are_limited_and_a_folder_cannot_be_named_from_elsewhere_nor_the_page_be_seen_without_a_key(
    engine, browser, cat, tmp_path
):
    settings = PageSettings(key=lambda given: given == "right", limits=Limits(body_mib=0.01))
    with parts.served(engine, settings) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        for key in ("wrong", "right"):
            page.get_by_label("username").fill("anybody")
            page.get_by_label("password").fill(key)
            page.get_by_role("button", name="Login").click()
            if key == "wrong":
                page.get_by_text("Incorrect").wait_for()
                assert context.request.get(f"{address}/config").status == 401
        page.wait_for_selector("#dsd-draw")
        large = tmp_path / "large.png"
        Image.effect_noise((200, 200), 90).save(large)
        page.set_input_files("#dsd-reference input[type=file]", large)
        _says(page, "size")
        page.get_by_role("tab", name="Dataset").click()
        _says(page, "No dataset was named", "#dsd-dataset-message")
        assert page.locator("#dsd-folder").count() == 0
        context.close()


def test_a_full_queue_and_a_size_that_does_not_fit_are_told_in_words(engine, cat):
    order = Order(prompt=PROMPT, references=(load_image(cat),), seed=0)
    with pytest.raises(UserError, match="too many drawings wait"):
        Run(Engine(engine.pipeline, most_waiting=0), [order])
    with pytest.raises(UserError, match="63"):
        Run(engine, [replace(order, height=63)])
    stopping = Engine(engine.pipeline)
    stopping.stop()
    with pytest.raises(UserError, match="being stopped"):
        Run(stopping, [order])


def test_the_page_keeps_the_limits_of_the_server_and_begins_with_its_scales(engine):
    limits = Limits(steps=300, pictures=2, prompt_characters=10, drawn_pixels=4096)
    shown = Shown.of(engine, "", Usual(steps=5, text_scale=2.5), limits)
    with gr.Blocks():
        controls = Controls(shown, examples_for(shown.base), 4)
    assert (controls.steps.value, controls.steps.maximum, controls.text_scale.value) == (5, 300, 2.5)
    assert controls.count.maximum == 2
    shown.require("a red cat", "", 64, 64)
    for prompt, negative, side, said in (
        ("a red cat at", "", 64, "the prompt has 12"), ("cat", "no \0", 64, "no text"), ("cat", "", 72, "4,096 pixels")
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            shown.require(prompt, negative, side, side)


def test_a_page_of_a_name_that_was_pointed_at_this_machine_is_a_stranger():
    def foreign(origin: str, host: str, keyed: bool = False) -> bool:
        return is_foreign(Headers({"origin": origin, "host": host}), (), keyed, local=False)

    assert not foreign("http://127.0.0.1:8000", "127.0.0.1:8000")
    assert foreign("http://evil.example:8000", "evil.example:8000")
    assert not foreign("https://draw.example", "draw.example", keyed=True)
    assert foreign("http://localhost:3000", "localhost:8000") and foreign("http://[::1", "[::1")


def test_a_model_with_several_references_is_given_as_many(engine):
    shown = replace(Shown.of(engine, "", Usual(), Limits()), references=2)
    with gr.Blocks():
        controls = Controls(shown, examples_for(shown.base), 4)
    assert isinstance(controls.reference, gr.Gallery)
    assert controls.paths([("a.png", None), ("b.png", None)]) == controls.put(["a.png", "b.png"]) == ["a.png", "b.png"]
    assert "takes 2" in shown.wanted(1)


def test_old_pictures_are_thrown_away(engine, tmp_path, cat):
    order = Order(prompt=PROMPT, references=(), seed=0)
    old, new = (save(load_image(cat), order, tmp_path, "model") for _ in range(2))
    os.utime(old.file.parent, (0, 0))
    save(load_image(cat), order, tmp_path, None)
    assert new.file.exists() and not old.file.exists()


def test_a_judges_comparison_falls_into_points():
    assert points("colour red red: same; eyes, big, small: Other.\n- a hat") == [
        ("colour red red", "same"), ("eyes, big, small", "other"), ("a hat", "")
    ]  # fmt: skip
    assert points("") == []


def test_examples_are_of_the_model_and_drawn_as_its_world_is():
    assert examples_for("owner/another") is FOR_ANY
    found = examples_for("embedded:tiny-flux")
    for subject, picture in zip(found.subjects, drawn_world.pictures(), strict=True):
        assert load_image(subject.picture) == picture
    known = {word for words in found.knows.values() for phrase in words for word in phrase.split()}
    said = {word for one in found.subjects for word in one.words.split()} | set(" ".join(found.scenes).split())
    assert said - known == {"a"} - known


def _open(page: Page, folder: Path) -> None:
    page.fill("#dsd-folder :is(input, textarea)", str(folder))
    page.click("#dsd-open")


def _pixels(content: bytes) -> bytes:
    return load_image(content).tobytes()
