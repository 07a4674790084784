"""Claims about the tables of the drawn world: what they are made of, and that nothing finished is done again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from evaluation_parts import QUALITIES
from PIL import Image

from dsd import runs
from dsd.baselines.copy import CopyReference
from dsd.cli.main import main
from dsd.data.pairs import PairRows, ids_of
from dsd.data.records import Model, Pair, Reject, content_id
from dsd.data.store import DatasetWriter
from dsd.errors import UserError
from dsd.evaluate.claims import Claim, Finding
from dsd.evaluate.metrics.registry import COSTS
from dsd.evaluate.scores import Scores
from dsd.sampling import Sampling
from dsd.scales import IdentityScale
from dsd.train import environment
from dsd_world import fixed
from dsd_world.benchmark import DrawnBenchmark, identity_encoder
from dsd_world.individuals import KINDS, PATTERNS
from dsd_world.recipe import tiny as tiny_recipe
from dsd_world.tables import side_by_side
from dsd_world.tables.config import Row, TablesConfig, ablation_rows, budget_rows, main_rows, quick
from dsd_world.tables.error_budget import examine_judge
from dsd_world.tables.ingredients import Ingredients, prior_prompts
from dsd_world.tables.results import write_results
from dsd_world.tables.table import TABLES, make_table
from dsd_world.teacher_quality import CONSISTENT

SMALL = dataclasses.replace(quick(), subjects=3, sampling=Sampling(steps=1), face_steps=1)
ROWS = [
    Row(name="teacher", method="teacher"),
    *(Row(name=name, method=name, varies=False) for name in ("copy", "truth", "truth-decoded")),
]


def pair_of(reference: int, target: int, grid: str = "g0") -> Pair:
    return Pair(
        id=content_id("pair", f"p{reference}", f"p{target}"), grid=grid, reference_panel=f"p{reference}",
        target_panel=f"p{target}", reference=tiny.picture(seed=reference), target=tiny.picture(seed=target),
        reference_caption=f"cat {reference}", target_caption=f"cat {target}", subject="cat", first_details="one",
        second_details="two", comparison="", judge=Model(name="", revision=""),
    )  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two grids; of the first one pair kept and one refused, of the second one kept and one that failed."""
    writer = DatasetWriter(tmp_path / "data")
    kept = [pair_of(0, 1), pair_of(1, 0), pair_of(4, 5, "g1"), pair_of(5, 4, "g1")]
    rejects = [
        Reject(pair=pair_of(0, 2), outcome="rejected", reason="not the same individual"),
        Reject(pair=pair_of(4, 6, "g1"), outcome="failed", reason="no verdict: empty reply"),
    ]
    shards = [writer.write_shard("pairs", 0, kept), writer.write_shard("rejects", 0, rejects)]
    writer.finish(shards, {}, {})
    return tmp_path / "data"


def test_pairs_are_read_by_row(dataset: Path, tmp_path: Path) -> None:
    rows = PairRows(dataset, tmp_path / "cache")
    assert len(rows) == 4 and rows[2] == pair_of(4, 5, "g1") and rows[-1] == pair_of(5, 4, "g1")
    assert rows.ids == [pair.id for pair in rows]
    with pytest.raises(IndexError):
        rows[4]


def test_without_a_filter_the_refused_pairs_are_there_in_both_orders(dataset: Path, tmp_path: Path) -> None:
    rows = PairRows(dataset, tmp_path / "cache", refused="not the same individual")
    panels = [(pair.reference_panel, pair.target_panel) for pair in rows]
    assert panels == [("p0", "p1"), ("p1", "p0"), ("p0", "p2"), ("p2", "p0"), ("p4", "p5"), ("p5", "p4")]
    turned = rows[3]
    assert turned.reference.tobytes() == tiny.picture(seed=2).tobytes() and turned.target_caption == "cat 0"
    assert turned.id == rows.ids[3] == content_id("pair", "p2", "p0")
    some = PairRows(dataset, tmp_path / "cache", refused="not the same individual", limit=3)
    assert some.ids == rows.ids[:3]
    assert PairRows(dataset, tmp_path / "cache", only={rows.ids[4]}).ids == [rows.ids[4]]


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of what needs no training, two seeds of it."""
    claim = Claim(text="the truth is nearer", method="truth", against="teacher", metric="identity")
    small = dataclasses.replace(
        TABLES["main"], rows=lambda _: ROWS, seeds=lambda _: (0, 1), claims=[claim], costs=False
    )
    monkeypatch.setitem(TABLES, "main", small)


@pytest.fixture
def small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make_table` makes the small one."""
    stand_in(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Scores], list[Finding]]:
    """The folder of the small table, once it is made, and what it says."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as monkeypatch:
        stand_in(monkeypatch)
        return (folder, *make_table("main", SMALL, folder))


def _table(out: Path) -> dict[str, Any]:
    return json.loads((out / "main" / "table.json").read_text())


def test_a_table_says_what_every_number_rests_on(
    small_table: None, made: tuple[Path, list[Scores], list[Finding]], tmp_path: Path
) -> None:
    folder, scores, findings = made
    assert [list(row.seeds) for row in scores] == [[0, 1], [0], [0], [0]]
    whole = _table(folder)
    assert whole["table"] == "main" and whole["commit"]
    assert whole["models"] == runs.sources_of(folder)
    for row in whole["rows"]:
        assert row["low"] <= row["mean"] <= row["high"] and row["n"] >= 1 and row["seeds"]
    counts = {row["metric"]: row["n"] for row in whole["rows"] if row["method"] == "truth"}
    assert counts["identity"] == 3 == sum(counts.get(f"identity/{group}", 0) for group in ("characters", "objects"))
    assert [claim["claim"] for claim in whole["claims"]] == ["the truth is nearer"] == [f.claim for f in findings]
    write_results(folder, tmp_path / "results.md", "dsd evaluate main")
    document = (tmp_path / "results.md").read_text()
    assert json.loads((tmp_path / "results" / "main.json").read_text()) == whole
    assert len(list((tmp_path / "results" / "scores").glob("*.json"))) == len(list((folder / "scores").iterdir())) == 5
    weights = ", ".join(f"{name} {revision}" for name, revision in whole["models"].items())
    assert f"At commit {whole['commit']}, with the weights {weights}." in document
    assert "| truth-decoded |" in document and "(quoted)" in document
    assert "<h2>Claims</h2>" in (folder / "main" / "index.html").read_text()


def test_a_table_so_far_has_the_trainings_that_are_finished(
    small_table: None,
    made: tuple[Path, list[Scores], list[Finding]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match=f"no finished training of {ROWS[0].name}, .*run `dsd evaluate main`"):
        make_table("main", SMALL, tmp_path, so_far=True)
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    more = dataclasses.replace(TABLES["main"], seeds=lambda _: (0, 1, 2), costs=True)
    monkeypatch.setitem(TABLES, "main", more)
    monkeypatch.setattr(CopyReference, "generate", None)
    so_far, _ = make_table("main", SMALL, tmp_path, so_far=True)
    assert so_far == made[1]


def test_a_table_that_is_killed_repeats_no_picture(
    small_table: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, drawn, killed = CopyReference.generate, 0, True

    def counted(self: CopyReference, requests: Any) -> list[Image.Image]:
        nonlocal drawn
        if killed:
            raise KeyboardInterrupt
        drawn += len(requests)
        return original(self, requests)

    monkeypatch.setattr(CopyReference, "generate", counted)
    with pytest.raises(KeyboardInterrupt):
        make_table("main", SMALL, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").rglob("*.png")}
    killed = False
    make_table("main", SMALL, tmp_path)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").rglob("*.png")}
    assert before and before.items() <= after.items()
    assert drawn == sum("/copy-" in str(path) for path in after)
    with pytest.raises(UserError, match=r"holds tables with subjects = 3 \(now 4\)"):
        make_table("main", dataclasses.replace(SMALL, subjects=4), tmp_path)
    models = json.loads((tmp_path / "sources.json").read_text())
    del models["sha256"]
    (tmp_path / "sources.json").write_text(json.dumps(models | {"tiny-dino": "0" * 12}))
    with pytest.raises(UserError, match="revision 000000000000 of tiny-dino"):
        make_table("main", SMALL, tmp_path)


@pytest.mark.slow
def test_what_drawing_costs_is_measured_once_and_apart(
    small_table: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costed = dataclasses.replace(TABLES["main"], rows=lambda _: ROWS[:2], costs=True)
    monkeypatch.setitem(TABLES, "main", costed)
    scores, _ = make_table("main", SMALL, tmp_path)
    for row in scores:
        assert all(len(row.runs[-1][metric]) == SMALL.costed for metric in COSTS)
    seeds = {(row["method"], row["metric"]): row["seeds"] for row in _table(tmp_path)["rows"]}
    assert [seeds[ROWS[0].name, metric] for metric in ("identity", *COSTS)] == [[0, 1], [1], [1], [1]]
    monkeypatch.setattr(CopyReference, "generate", None)
    again, _ = make_table("main", SMALL, tmp_path)
    assert again == scores
    write_results(tmp_path, tmp_path / "results.md", "dsd evaluate main")
    assert f"memory measured on {environment.machine()}" in (tmp_path / "results.md").read_text()
    (costs, *_) = (tmp_path / "costs").glob("copy-*.json")
    costs.unlink()
    half, _ = make_table("main", SMALL, tmp_path, so_far=True)
    assert [set(COSTS) <= set(row.metrics) for row in half] == [True, False]
    assert "peak_mib" not in (tmp_path / "main" / "table.csv").read_text(), "a column is of every row"


@pytest.mark.slow
def test_a_row_s_memory_is_not_what_this_process_holds_and_its_own_process_does_not_chat(
    small_table: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TABLES, "main", dataclasses.replace(TABLES["main"], rows=lambda _: ROWS[1:2], costs=True))
    held = torch.ones(1 << 29)  # 2 GiB
    (copied,), _ = make_table("main", SMALL, tmp_path)
    assert max(copied.runs[-1]["peak_mib"]) < held.nbytes / (1 << 20)
    assert "torch" not in capfd.readouterr().err  # of kernels of other machines that cannot be loaded


@pytest.mark.slow
def test_several_processes_draw_the_same_table(small_table: None, tmp_path: Path) -> None:
    alone, _ = make_table("main", SMALL, tmp_path / "one")
    several, _ = make_table("main", SMALL, tmp_path / "two", workers=2)
    qualities = [[{name: run[name] for name in QUALITIES} for run in row.runs] for row in alone]
    assert [[{name: run[name] for name in QUALITIES} for run in row.runs] for row in several] == [
        [{name: pytest.approx(values, abs=1e-3) for name, values in run.items()} for run in runs] for runs in qualities
    ]
    with pytest.raises(UserError, match="there is no method"):
        rows = [(Row(name="x", method="truths"), 0), (ROWS[0], 0)]
        side_by_side.make(Ingredients(SMALL, tmp_path / "three"), rows, SMALL.train, workers=2)


def test_rows_that_share_a_training_share_its_folder() -> None:
    config = TablesConfig()
    ingredients = Ingredients(config, Path("nowhere"))
    assert {row.source for row in budget_rows(config)} == {"judged", "drawn", "oracle", "alike", "unjudged"}
    full = next(row for row in ablation_rows(config) if row.name == "full")
    judged = next(row for row in budget_rows(config) if row.name == "the teacher's, judged by tiny-vlm")
    assert ingredients.key(full, config.ablation_train) == ingredients.key(judged, config.ablation_train)
    names = [ingredients.key(row, config.ablation_train) for row in ablation_rows(config)]
    assert len(set(names)) == len(names)
    assert {"dreambooth", "ip-adapter", "instantid", "controlnet", "textual-inversion"} <= {
        row.name for row in main_rows(config)
    }


def test_an_ideal_judge_takes_what_is_alike_be_it_kept_or_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingredients, encoder, scale = (
        Ingredients(SMALL, tmp_path),
        identity_encoder(),
        IdentityScale(stranger=0.1, same=0.6),
    )
    monkeypatch.setattr(ingredients, "dataset", lambda source: dataset)
    monkeypatch.setattr("dsd_world.tables.candidates.pair_scale", lambda encoder: scale)
    first, second = (encoder.pooled([tiny.picture(seed=seed) for seed in seeds]) for seeds in ((0, 4, 0), (1, 5, 2)))
    cosines = (first * second).sum(1)
    panels = [("p0", "p1"), ("p4", "p5"), ("p0", "p2")]
    best = {content_id("pair", *panels[int(cosines.argmax())][::order]) for order in (1, -1)}
    assert set(ids_of(ingredients.pairs("alike", 2))) == best
    identities = scale.of_cosines(cosines).tolist()
    same = [pair for pair, identity in zip(panels, identities, strict=True) if identity >= CONSISTENT]
    assert 0 < len(same) < len(panels)
    assert len(ids_of(ingredients.pairs("oracle", None))) == 2 * len(same)
    kept = PairRows(dataset, tmp_path / "cache").ids
    assert len(ingredients.candidates) == len(panels), "each of them once"
    assert all(len(one.ids) == 2 and one.kept == (one.ids[0] in kept) for one in ingredients.candidates)
    assert {one.kept for one in ingredients.candidates} == {True, False}


def test_prior_pictures_show_all_kinds_in_scenes() -> None:
    prompts = prior_prompts()
    assert len(set(prompts)) > 20 and all(prompt.startswith("a ") for prompt in prompts)


def test_the_judge_is_examined_in_all_forms() -> None:
    thinks, direct, votes = examine_judge(tiny_recipe().curate, 24)
    assert (thinks.form, direct.form, votes.form) == ("chain of thought", "direct", "chain of thought, 3 votes")
    assert direct.tokens < thinks.tokens < votes.tokens < 4 * thinks.tokens
    for examined in (thinks, direct, votes):
        assert (
            examined.n == 24
            and examined.curve[-1][0] == 1.0
            and examined.auc.low <= examined.auc.mean
            and examined.auc.mean > 0.5
        )


def test_the_command_says_what_it_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "all", "--quick", "--dry-run", "--results", "x.md"]) == 0
    printed = capsys.readouterr()
    said = printed.out + printed.err
    for words in ("dreambooth", "no captions, no language model", "truth through the autoencoder", "write x.md"):
        assert words in said
    assert main(["evaluate", "--methods", "control-net", "--subjects", "2", "--out", str(tmp_path)]) == 2
    assert 'did you mean "controlnet"' in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png")), "a wrong name is told before anything is drawn"


def test_the_fixed_prompts_lack_kinds_and_patterns_that_are_measured_apart() -> None:
    said = {word for subject in fixed.SUBJECTS for word in subject.split()}
    assert len(fixed.SUBJECTS) == 8 and len(fixed.SCENES) == 4 and len(said & {*KINDS}) == 4
    subjects = DrawnBenchmark(subjects=40, beside_fixed=True).build().subjects
    for subject in subjects:
        words = set(subject.subject.split())
        assert (fixed.OTHER_KINDS in subject.groups) == (not words & said & {*KINDS})
        assert (fixed.OTHER_PATTERNS in subject.groups) == (not words & said & {*PATTERNS})
    assert not any(fixed.OTHER_KINDS in subject.groups for subject in DrawnBenchmark(subjects=4).build().subjects)
