from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from dsd.evaluate.agreement import Agreement
from dsd.evaluate.bootstrap import bootstrap
from dsd.evaluate.metrics.registry import METRICS
from dsd.evaluate.report import PairView, Report, SheetRow, render, table
from dsd.evaluate.scores import Scores

VOID = {"meta", "img", "br"}


class Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def whole_report() -> Report:
    picture = Image.new("RGB", (8, 8), "red")
    values = {metric: [0.1, 0.4, 0.3] for metric in METRICS}
    kept, rejected = [0.8, 0.9, 0.7], [0.2, 0.6]
    return Report(
        title="A <demo>",
        funnel={"captions": 10, "candidates": 60, "kept": 24, "rejected: drift": 36},
        pairs=[
            PairView(first=picture, second=picture, kept=True, words={"first": 'a "cat" & more'}),
            PairView(first=picture, second=picture, kept=False, reason="not <the> same"),
        ],
        training=[(20, 1.0), (40, 0.5), (60, 0.4)],
        held_out=[(60, 0.45)],
        sheet=[SheetRow(prompt="a cat at sea", pictures={"reference": picture, "student": picture})],
        scores=[Scores(name="student", runs=[values]), Scores(name="copy", runs=[values])],
        agreement=Agreement(
            kept=bootstrap(kept), rejected=bootstrap(rejected), kept_values=kept, rejected_values=rejected
        ),
        seconds={"curate": 75.0, "train": 240.0},
        settings={"base": "embedded:tiny-flux"},
    )


def test_the_page_needs_nothing_but_itself():
    page = render(whole_report())
    assert not re.search(r"<script|<link|@import|https?://(?!www\.w3\.org)", page)
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == 6
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_every_tag_is_closed():
    checker = Balanced()
    checker.feed(render(whole_report()))
    assert checker.open == []


def test_words_of_models_cannot_become_markup():
    page = render(whole_report())
    assert "not &lt;the&gt; same" in page and "<the>" not in page
    assert "&#34;cat&#34; &amp; more" in page


def test_every_part_is_on_the_page_and_empty_parts_are_left_out():
    page = render(whole_report())
    for heading in ("What came out", "The table", "Funnel", "Kept and rejected", "Does the filter work", "Training"):
        assert f"<h2>{heading}</h2>" in page
    assert "4 min 0 s" in page
    assert "<h2>" not in render(Report(title="nothing yet"))


CHROMIUM = shutil.which("chromium")
WIDTHS = """<script>onload = () => { document.title = [...document.querySelectorAll('img, td, th, figcaption')]
  .filter(one => getComputedStyle(one).display !== 'none' && one.offsetParent !== null)
  .map(one => Math.round(one.getBoundingClientRect().right)).reduce((a, b) => Math.max(a, b), 0)
  + ' of ' + document.documentElement.clientWidth }</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_nothing_is_beyond_the_side_of_a_phone(tmp_path: Path) -> None:
    report = whole_report()
    pictures = {f"a method of a long name {number}": Image.new("RGB", (64, 64)) for number in range(7)}
    page = tmp_path / "page.html"
    page.write_text(render(replace(report, sheet=[SheetRow(prompt="a cat at sea", pictures=pictures)])) + WIDTHS)
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom",
        "--window-size=500,844", page.as_uri(),
    ]  # fmt: skip
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r"<title>(\d+) of (\d+)</title>", told)
    assert found and int(found[1]) <= int(found[2]) <= 500


def test_every_cell_says_its_column_where_the_head_is_hidden() -> None:
    page = render(whole_report())
    cells = re.findall(r"<td([^>]*)>", page.partition("<h2>Settings")[0])
    assert cells and all("data-head=" in cell for cell in cells)
    assert 'data-head="DINO"' in table(["method", "DINO"], [["dsd", "0.4"]])
    assert "scroll sideways" in page, "the table of all metrics is wider than most screens"
