"""Claims about the page of `dsd data show`: it says what the rows say, in one file, and fits a phone."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import audit_parts as parts
import page_parts
import pyarrow.parquet as pq
import pytest
from audit_parts import Rows, rewrite, said
from PIL import Image
from playwright.sync_api import Browser

from dsd.audit.edit import filter_dataset, split_dataset
from dsd.audit.folder import open_folder
from dsd.audit.funnel_bars import groups
from dsd.audit.show import Page, page_of, show_dataset
from dsd.audit.spent import spent
from dsd.curate.funnel import Funnel
from dsd.data.store import FUNNEL, MANIFEST, DatasetReader, DatasetWriter
from dsd.errors import UserError
from dsd.images import data_url
from dsd.places import Place


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parts.curated(tmp_path_factory.mktemp("finished") / "dataset")


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return parts.copied(finished, tmp_path / "dataset")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with page_parts.browser() as running:
        yield running


def gathered(folder: Path | Place, pairs: int = 0, seed: int = 0) -> Page:
    return page_of(open_folder(folder), pairs, seed)


def html_of(folder: Path) -> str:
    return show_dataset(folder, folder.parent / "page.html").read_text()


def set_all(rows: Rows, **values: object) -> None:
    for row in rows:
        row |= values


def test_the_command_writes_one_page_that_needs_nothing_else(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pages" / "page.html"
    status, printed, _ = said(capsys, "show", finished, "--out", out)
    assert status == 0 and printed.strip() == str(out)
    html = out.read_text()
    assert "<script" not in html and "@import" not in html
    assert not re.findall(r'(?:src|href)="(?!data:image/|#)', html) and "url(" not in html


def test_the_page_shows_what_the_rows_say(finished: Path) -> None:
    reader, page = DatasetReader(finished), gathered(finished, 6)
    kept = {(pair.reference_caption, pair.target_caption) for pair in reader.pairs()}
    assert {tuple(side.caption for side in card.sides) for card in page.kept} <= kept
    assert len(page.kept) == 6 and not any(card.reason for card in page.kept)
    assert {card.reason for card in page.rejected} == {reject.reason for reject in reader.rejects()}
    funnel = reader.funnel()
    assert (page.kept_of, page.rejected_of) == (funnel["kept"], sum(funnel["rejected"].values()))
    assert page.diversity == funnel["diversity"] and not page.warning
    rows = pq.read_table(finished / "pairs").to_pylist()
    assert page.figures.captions.total() == len({row["target_panel"] for row in rows})
    assert [row[1] for row in page.models] == ["writes grid prompts", "draws sheets", "judges and describes"]
    assert [int(row[4]) for row in page.models] == [funnel[name] for name in ("grid_prompts", "sheets", "candidates")]
    assert ["steps", "2"] in page.settings and ["teacher", str(reader.manifest.recipe["teacher"])] in page.settings


def test_a_seed_decides_which_pairs_and_each_is_there_once(finished: Path) -> None:
    def drawn(seed: int, most: int = 5) -> list[tuple[str, ...]]:
        page = gathered(finished, most, seed)
        return [tuple(side.caption for side in card.sides) for card in (*page.kept, *page.rejected)]

    assert drawn(1) == drawn(1) != drawn(2)
    page = gathered(finished, 10_000)
    assert (len(page.kept), len(page.rejected)) == (page.kept_of, page.rejected_of)
    assert len(set(drawn(0, 10_000))) == page.kept_of + page.rejected_of


def test_pairs_of_different_sheets_come_first(finished: Path) -> None:
    captions = {row["reference_caption"]: row["grid"] for row in pq.read_table(finished / "pairs").to_pylist()}
    sheets = len(set(captions.values()))
    for seed in range(5):
        page = gathered(finished, sheets, seed)
        assert len({captions[card.sides[0].caption] for card in page.kept}) == sheets


def test_every_reason_is_shown_even_a_rare_one(folder: Path) -> None:
    rewrite(folder, "rejects", lambda rows: rows[0].update(outcome="failed", reason="no verdict: cut", words="so {"))
    for seed in range(5):
        cards = gathered(folder, 3, seed).rejected
        assert len(cards) == 3 and [card.words for card in cards if card.failed] == ["so {"]


def test_scores_votes_and_comparisons_are_shown(folder: Path) -> None:
    votes = {"score": 0.75, "agreement": 0.75, "votes_same": 3, "votes_other": 1, "votes_failed": 1}
    compared = {
        "first_details": "in red",
        "second_details": "in red",
        "comparison": "colour red green: other; hat: same",
    }
    rewrite(folder, "pairs", lambda rows: set_all(rows, **votes, **compared))
    rewrite(folder, "rejects", lambda rows: set_all(rows, **votes, **compared))
    page = gathered(folder, 50)
    card = next(card for card in page.kept if card.points == [("colour red green", "other"), ("hat", "same")])
    assert card.numbers == "score 0.750; votes: 3 same, 1 other, 1 of no use"
    figures = page.figures
    assert 0.75 in figures.kept_scores and 0.75 in figures.other_scores and 0.75 in figures.agreements
    assert 0 < figures.misquoting <= figures.compared
    html = html_of(folder)
    assert "<svg" in html and "mean agreement of several votes" in html


def test_subjects_that_come_again_are_counted(folder: Path) -> None:
    names = iter(["a red cat", "The red cat", "a dog"])
    rewrite(folder, "grids", lambda rows: [row.update(subject=next(names)) for row in rows])
    first, *_ = gathered(folder).figures.frequent(10)
    grids = {row["id"] for row in pq.read_table(folder / "grids/00000.parquet").to_pylist()[:2]}
    rows = pq.read_table(folder / "pairs").to_pylist()
    kept = {frozenset((row["reference_panel"], row["target_panel"])) for row in rows if row["grid"] in grids}
    assert (first.words, first.sheets, first.kept) == ("a red cat", 2, len(kept))
    assert "Subjects that most grid prompts name" in html_of(folder)


def test_bars_add_up_and_many_reasons_are_one() -> None:
    funnel = Funnel(
        captions=10, grid_prompts=8, prompts_failed={"slow": 2}, sheets=8, candidates=48, kept=20, pairs=40,
        rejected={f"reason {number}": 1 for number in range(20)}, failed={"cut": 3}, left_out={"unless same": 5},
        captions_skipped={"empty": 10},
    )  # fmt: skip
    captions, candidates = groups(funnel)
    assert [(bar.name, bar.count, bar.share) for bar in captions.bars] == [
        ("rows of captions", 20, 1.0), ("skipped: empty", 10, 0.5), ("captions", 10, 0.5),
        ("no grid prompt: slow", 2, 0.1), ("grid prompts", 8, 0.4), ("sheets cut", 8, 0.4),
    ]  # fmt: skip
    lost = [bar for bar in candidates.bars if bar.kind == "lost"]
    assert candidates.bars[0].count == 48 == sum(bar.count for bar in lost) + candidates.bars[-1].count
    assert ("rejected: 9 other reasons", 9) in [(bar.name, bar.count) for bar in lost]
    assert all(bar.share == 0 for group in groups(Funnel()) for bar in group.bars)


def test_words_of_models_are_never_html(folder: Path) -> None:
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    named = {"subject": evil, "target_caption": evil, "comparison": f"{evil}: same", "judge": evil}
    rewrite(folder, "pairs", lambda rows: set_all(rows, **named))
    rewrite(folder, "rejects", lambda rows: set_all(rows, reason=evil, words=evil))
    rewrite(folder, "grids", lambda rows: set_all(rows, subject=evil))
    parts.edit_json(folder / FUNNEL, lambda funnel: funnel.update(rejected={evil: 1}))
    parts.edit_json(folder / MANIFEST, lambda content: content["recipe"].update(captions=evil))
    html = html_of(folder)
    assert "<script" not in html and "<img src=x" not in html and "&lt;script&gt;" in html


def test_large_pictures_are_scaled_down() -> None:
    large, small = Image.new("RGB", (1024, 512), "red"), Image.new("RGB", (64, 64), "red")
    assert data_url(large, 384).startswith("data:image/webp;base64,") and len(data_url(large, 384)) < 4000
    assert data_url(small, 384) == data_url(small) and data_url(large).startswith("data:image/png;base64,")


def test_an_unfinished_dataset_shows_what_is_judged(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / FUNNEL).unlink()
    (folder / "units/00002.json").unlink()
    page = gathered(folder, 4)
    assert "It has no manifest.json yet: 2 units are judged, and 1 more are drawn" in page.warning
    assert page.kept and page.diversity["grid prompts"] == 6
    assert "Unfinished." in html_of(folder)


def test_time_is_told_only_where_files_tell_it(folder: Path, finished: Path) -> None:
    begun = (folder / "config.json").stat().st_mtime
    os.utime(folder / "units/00002.json", (begun + 90, begun + 90))
    told, candidates = gathered(folder).time, parts.funnel_of(folder)["candidates"]
    assert "judged 1 min 30 s later" in told and f"{candidates / 90:.3g} candidates a second" in told
    shutil.rmtree(folder / "units")
    assert not gathered(folder).time
    assert not gathered(parts.to_memory(finished, f"memory://{uuid.uuid4().hex}/dataset")).time


def test_a_dataset_elsewhere_and_a_page_elsewhere(finished: Path, tmp_path: Path) -> None:
    place = parts.to_memory(finished, f"memory://{uuid.uuid4().hex}/dataset")
    show_dataset(place, tmp_path / "page.html")
    page = show_dataset(place, f"{place}.html")
    assert page == Place.of(f"{place}.html") and page.read_text() == (tmp_path / "page.html").read_text()


def test_what_was_asked_of_each_model_is_counted(finished: Path, tmp_path: Path) -> None:
    opened = open_folder(finished)
    funnel, config = opened.funnel, opened.recipe
    assert funnel is not None
    writer, teacher, judge = spent(opened)
    assert (writer.calls, teacher.calls) == (funnel.captions, funnel.grid_prompts)
    assert judge.calls == 4 * funnel.sheets + config["votes"] * funnel.candidates
    assert writer.given and judge.given and judge.replied and writer.model == config["chat"]
    page = page_of(opened, 1, 0)
    assert [row[2] for row in page.spent] == [f"{one.calls:,}" for one in (writer, teacher, judge)]
    assert "What it cost" in page.titles
    filter_dataset(finished, "same", tmp_path / "some")
    assert not spent(open_folder(tmp_path / "some"))


def test_what_a_split_made_says_of_what(finished: Path, tmp_path: Path) -> None:
    split_dataset(finished, 0.4, "subject", tmp_path / "split")
    page = gathered(tmp_path / "split" / "train", 2)
    assert page.made_from[:2] == [["made by", "dsd data split --by subject --validation 0.4"], ["side", "train"]]
    assert page.made_from[2][1].startswith(f"a dataset of {parts.funnel_of(finished)['pairs']} pairs, manifest ")


def test_films_are_counted_as_films(tmp_path: Path) -> None:
    folder = parts.curated(tmp_path / "films", targets=2)
    films = parts.funnel_of(folder)["films"]
    assert gathered(folder, 1).introduction.startswith(f"{films} films to train on")
    assert "<th>films</th>" in html_of(folder)


def test_a_dataset_of_another_writer_is_shown(tmp_path: Path) -> None:
    folder = page_parts.write_dataset(tmp_path / "other")
    page = gathered(folder, 3)
    assert len(page.kept) == 3 and page.rejected_of == page_parts.REJECTED + page_parts.FAILED
    show_dataset(folder, tmp_path / "page.html", pairs=0)
    DatasetWriter(tmp_path / "empty").finish([], {}, Funnel().to_dict())
    assert "0 pairs to train on" in html_of(tmp_path / "empty")


def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = parts.copied(folder, tmp_path / "damaged")
    (damaged / "rejects/00001.parquet").write_bytes(b"PAR1")
    unsummed = parts.copied(folder, tmp_path / "unsummed")
    (unsummed / FUNNEL).write_text("[]")
    out = tmp_path / "page.html"
    for words, sentence in (
        ((tmp_path / "nowhere", "--out", out), "is no dataset"), ((damaged, "--out", out), "is damaged"),
        ((unsummed, "--out", out), 'funnel.json" is damaged'), ((folder, "--out", tmp_path), "is a folder"),
        ((folder, "--out", out, "--pairs", "-1"), "must be at least 0"),
    ):  # fmt: skip
        status, _, err = said(capsys, "show", *words)
        assert status == 2 and sentence in err and err.count("\n") == 1, err
    assert not out.exists()
    with pytest.raises(UserError, match="is damaged"):
        show_dataset(damaged, out)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_sticks_out(width: int, scheme: Literal["light", "dark"], folder: Path, browser: Browser) -> None:
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen" * 3
    told = {"target_caption": long, "comparison": f"{long}: other; {long}", "first_details": long, "score": 0.5}
    rewrite(folder, "pairs", lambda rows: set_all(rows, **told))
    rewrite(folder, "rejects", lambda rows: set_all(rows, reason=long, words=long, score=0.1))
    rewrite(folder, "grids", lambda rows: set_all(rows, subject=long))
    parts.edit_json(folder / FUNNEL, lambda funnel: funnel.update(rejected={long: 30}))
    out = show_dataset(folder, folder.parent / "page.html")
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{out}")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href") or "").count() == 1
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    page.close()
