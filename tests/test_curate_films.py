"""Examples of several references or targets: of panels that are all kept with one another, and trained on."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import curation_parts as parts
import datasets
import pytest
from chat_server import ChatServer
from training_parts import small_config

from dsd.backbones.adapter import load_metadata
from dsd.curate.config import CurateConfig
from dsd.curate.films import films
from dsd.curate.panels import Described, cut
from dsd.curate.pipeline import curate
from dsd.curate.tasks.identity import LAYOUT
from dsd.data.records import Panel
from dsd.data.rows import to_film, to_row
from dsd.data.store import DatasetReader
from dsd.errors import UserError
from dsd.frames import Film
from dsd.train.trainer import train


@pytest.fixture(scope="module")
def paired(config: CurateConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paired") / "dataset"
    curate(config, folder)
    return folder


def described(dataset: Path) -> list[list[Described]]:
    """The panels of a dataset's sheets."""
    found = []
    for sheet in DatasetReader(dataset).sheets():
        assert sheet.grid is not None
        panels = cut(sheet.grid, 32, LAYOUT)
        assert isinstance(panels, list)
        said = zip(panels, sheet.descriptions, strict=True)
        made = [Panel(grid=sheet.grid.id, number=n, image=i, description=words) for n, (i, words) in enumerate(said)]
        found.append([Described(panel) for panel in made])
    return found


def test_films_of_two_frames_are_the_pairs(paired: Path) -> None:
    pairs = list(DatasetReader(paired).pairs())
    found = list(films(described(paired), pairs, 1, 1))
    for name in ("references", "targets", "caption", "subject", "grid", "judge"):
        assert [getattr(film, name) for film in found] == [getattr(pair, name) for pair in pairs], name
    assert [film.reference_panels + film.target_panels for film in found] == [
        (pair.reference_panel, pair.target_panel) for pair in pairs
    ]


def test_all_panels_of_a_film_are_kept_with_one_another_and_no_film_is_left_out(
    paired: Path, config: CurateConfig, tmp_path: Path
) -> None:
    funnel = curate(replace(config, references=2, sheets_from=str(paired)), tmp_path / "dataset")
    reader = DatasetReader(tmp_path / "dataset")
    assert list(reader.pairs()) == list(DatasetReader(paired).pairs())
    assert list(reader.rejects()) == list(DatasetReader(paired).rejects())
    kept = {frozenset((pair.reference_panel, pair.target_panel)) for pair in reader.pairs()}
    panels = [[one.panel.id for one in sheet] for sheet in described(paired)]
    together = [
        three
        for sheet in panels
        for three in combinations(sheet, 3)
        if all(frozenset(two) in kept for two in combinations(three, 2))
    ]
    found = list(reader.films())
    assert 0 < len(together) < 4 * parts.TAKEN
    assert {frozenset(film.reference_panels + film.target_panels) for film in found} == set(map(frozenset, together))
    assert len(found) == len(reader) == funnel.films == 3 * len(together)
    assert [len(film.references) for film in found] == [2] * len(found)
    assert len({film.id for film in found}) == len(found)


@pytest.mark.parametrize(("references", "targets", "of_a_sheet"), [(3, 1, 4), (2, 2, 6)])
def test_films_of_a_whole_sheet_are_trained_on(
    references: int,
    targets: int,
    of_a_sheet: int,
    paired: Path,
    config: CurateConfig,
    server: ChatServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "same", True)
    data = tmp_path / "dataset"
    funnel = curate(replace(config, references=references, targets=targets, sheets_from=str(paired)), data)
    assert funnel.films == of_a_sheet * parts.TAKEN and any(
        f"{funnel.films} films to train on" in line for line in funnel.lines()
    )
    film = next(iter(DatasetReader(data).films()))
    assert film.caption.count(" | ") == targets - 1 and to_film(to_row(film)) == film
    loaded = datasets.load_dataset(str(data), cache_dir=str(tmp_path / "cache"), split="train")
    assert len(loaded) == funnel.films and len(loaded[0]["references"]) == references  # pyright: ignore[reportArgumentType]
    assert loaded[0]["targets"][0].tobytes() == film.targets[0].tobytes()  # pyright: ignore[reportArgumentType]
    adapter = train(small_config(steps=2, sample_every=9, checkpoint_every=9), data, tmp_path / "run")
    assert load_metadata(adapter).film == Film.of(references, targets, load_metadata(adapter).film.weights[0])


def test_a_curation_of_films_needs_a_film_to_train_on(
    paired: Path, config: CurateConfig, server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "same", False)
    with pytest.raises(UserError, match="there is nothing to train on"):
        curate(replace(config, targets=2, sheets_from=str(paired)), tmp_path / "dataset")
    with pytest.raises(UserError, match="no finished dataset"):
        train(small_config(), tmp_path / "dataset", tmp_path / "run")


def test_more_frames_than_a_sheet_has_are_one_sentence(config: CurateConfig) -> None:
    with pytest.raises(UserError, match=r"references are 3 and targets 2, .* at most 4 frames"):
        replace(config, references=3, targets=2)
    with pytest.raises(UserError, match="targets is 0"):
        replace(config, targets=0)
