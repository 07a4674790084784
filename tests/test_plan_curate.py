"""`dsd plan curate`: what a curation takes, counted on a past funnel, with every assumption said."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import curation_parts as parts
import pytest
import tiny

from dsd.cli.main import main
from dsd.cli.plan_curate import PlanCurate
from dsd.curate import cost
from dsd.curate.estimate import Estimate, Means, estimate
from dsd.curate.funnel import Funnel
from dsd.curate.past import Past, estimated_rows, read_past
from dsd.curate.trial import not_here, run_trial
from dsd.data.records import Model, Pair
from dsd.data.store import DatasetWriter
from dsd.errors import UserError
from dsd.recipes.registry import all_recipes, recipe

FUNNEL = Funnel(
    captions=10,
    grid_prompts=8,
    prompts_failed={"not in the schema": 2},
    sheets=6,
    sheets_refused={"no edge": 2},
    candidates=36,
    kept=12,
    rejected={"not the same individual": 20, "nearly the same picture": 3},
    failed={"no description: empty": 1},
    pairs=24,
)
MEANS = Means(
    gpus=1, machines=1, tflops=1.0, utilization=0.5, reply_seconds=1.0, gpu_hour_price=None, million_tokens_price=None
)
SERVED = "openai:m@http://127.0.0.1:9/v1"


def _said(*words: str, capsys) -> str:
    assert main(["plan", "curate", *words]) == 0
    return capsys.readouterr().out


def _value(said: str, name: str) -> str:
    return next(line.removeprefix(name).strip() for line in said.splitlines() if line.startswith(f"{name} "))


def _count(said: str, name: str) -> int:
    return int(_value(said, name).split()[0].replace(",", ""))


def _served(**changes: object) -> Estimate:
    config = parts.config("captions.txt", SERVED, templates="default", unit_size=10, **changes)
    return estimate(config, 24, Past(funnel=FUNNEL, told_by="as told"), MEANS, None)


def test_every_count_follows_from_the_funnel():
    config = replace(recipe("flux-dev").curate, unit_size=10)
    found = cost.amounts(config, 2400, FUNNEL)
    assert (found.captions, found.units, found.writes) == (1000, 100, 1000)
    assert (found.sheets, found.cut, found.panels) == (800, 600, 4 * 600)
    assert (found.candidates, found.kept, found.pairs, found.rejects) == (6 * 600, 1200, 2400, 2400)
    assert (
        found.judged == found.judgements == 3600 - 300 - 100
    )  # near-copies and undescribed panels are not asked about


def test_pairs_are_made_by_whole_units_and_never_too_few():
    config = replace(recipe("flux-dev").curate, unit_size=10)
    for wanted in (1, 23, 24, 25, 399_999):
        found = cost.amounts(config, wanted, FUNNEL)
        assert found.captions == 10 * found.units and found.pairs >= wanted > found.pairs - 24


def test_without_pairs_the_recipe_s_own_units_are_planned(capsys):
    config = recipe("tiny").curate
    said = _said("tiny", "--no-calibrate", capsys=capsys)
    assert _count(said, "captions") == config.units * config.unit_size
    assert _count(said, "candidates") == 6 * _count(said, "sheets cut")
    assert _count(said, "description calls") == 4 * _count(said, "sheets cut")


def test_the_paper_s_pairs_are_a_hundred_thousand_sheets_and_a_million_calls(capsys):
    said = _said("flux-dev", "--pairs", "400000", "--gpus", "8", "--machines", "2", capsys=capsys)
    assert _count(said, "sheets drawn") == _count(said, "grid-prompt calls") == 100_000
    assert _count(said, "description calls") + _count(said, "judge calls") == 1_000_000
    assert "GPU-hours" in said and "wall time" in said and "8 device(s) on each of 2 machine(s)" in said
    assert "assumed: a caption gives 4 pairs" in said and "FLUX.1-dev does not compute on this machine" in said
    assert "--curate.units 1000" in said and "\nmoney" not in said and "no prices are given" in said


def test_votes_multiply_judge_calls_alone():
    one, five = _served(), _served(votes=5)
    assert five.amounts.judgements == 5 * one.amounts.judgements and five.amounts.panels == one.amounts.panels
    assert five.disk == one.disk and five.seconds > one.seconds


def test_fixed_subjects_and_sheets_from_elsewhere_need_no_writer():
    themes = ("a", "b", "c", "d")
    assert _served(subjects=("a cat",), themes=themes).amounts.writes == 0
    taken = dict(_served(sheets_from="elsewhere").rows)
    assert taken["grid-prompt calls"] == "0" and taken["GPU-hours"] == "0" and "sheets taken" in taken


def test_guidance_doubles_the_teacher_s_work_and_the_count_is_torch_s():
    config = parts.config("captions.txt", SERVED)
    alone, guided = replace(config, true_guidance=1.0), replace(config, true_guidance=2.0)
    assert cost.teacher_operations(guided) == 2 * cost.teacher_operations(alone) > 0
    assert cost.teacher_operations(replace(guided, steps=4)) == 2 * cost.teacher_operations(guided)


def test_money_is_hours_and_tokens_at_their_prices_and_each_is_said_when_it_is_left_out():
    config = parts.config("captions.txt", SERVED, templates="default", unit_size=10)
    past = Past(funnel=FUNNEL, told_by="as told")
    asked = cost.tokens(config, cost.amounts(config, 24, FUNNEL))
    priced = replace(MEANS, million_tokens_price=(2.0, 8.0))
    found = estimate(config, 24, past, priced, None)
    expected = sum(2.0 * one.given + 8.0 * one.replied for one in asked.values()) / 1e6
    assert dict(found.rows)["money"].startswith(f"{expected:,.2f} ")
    assert any("hours are not in the money" in sentence for sentence in found.assumptions)
    both = estimate(config, 24, past, replace(priced, gpu_hour_price=3.0), None)
    assert "devices 0.00" in dict(both.rows)["money"]


@pytest.mark.parametrize(("side", "tokens"), [(28, 1), (64, 9), (512, 19 * 19)])
def test_a_panel_counts_as_whole_squares_of_pixels_and_makes_a_question_longer(side, tokens):
    config = parts.config("captions.txt", SERVED, panel_size=side)
    assert cost.picture_tokens(config) == tokens
    amount = cost.amounts(config, 24, FUNNEL)
    shown = amount.panels + 2 * amount.judgements
    least = cost.tokens(replace(config, panel_size=1), amount)["judge"].given
    assert cost.tokens(config, amount)["judge"].given == pytest.approx(least + shown * (tokens - 1))
    assert least > shown


def test_embedded_models_cost_no_tokens(capsys):
    said = _said("tiny", "--no-calibrate", "--million-tokens-price", "5", "15", capsys=capsys)
    assert "tokens 0.00" in _value(said, "money")


def test_more_machines_take_less_time_and_the_same_work(capsys):
    one = _said("flux-dev", "--pairs", "4000", capsys=capsys)
    ten = _said("flux-dev", "--pairs", "4000", "--machines", "10", capsys=capsys)
    assert _value(one, "GPU-hours") == _value(ten, "GPU-hours") and _value(one, "wall time") != _value(ten, "wall time")


def test_a_past_funnel_is_counted_on_and_named(tmp_path, capsys):
    file = tmp_path / "funnel.json"
    file.write_text(json.dumps(FUNNEL.to_dict()))
    said = _said("tiny", "--no-calibrate", "--pairs", "24", "--funnel", str(file), capsys=capsys)
    assert (
        _count(said, "captions") == 16
        and f"a caption gives 2.4 pairs, and 33% of the candidates are kept, as in {file}" in said
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (FUNNEL.to_dict() | {"pairs": 0, "kept": 0, "rejected": {"x": 35}}, "nothing to train on"),
        ({}, "nothing to train on"),
        (FUNNEL.to_dict() | {"candidates": 12, "kept": 2, "rejected": {"x": 9}}, "is no funnel of the task identity"),
        (FUNNEL.to_dict() | {"captions": "10"}, "no whole numbers"),
        (FUNNEL.to_dict() | {"captions": -10}, "no whole numbers"),
        (FUNNEL.to_dict() | {"rejected": [3]}, "no whole numbers"),
        (FUNNEL.to_dict() | {"more": 1}, "funnel.json"),
        ([1], "funnel.json"),
    ],
)  # fmt: skip
def test_a_funnel_that_nothing_can_be_planned_by_is_refused(content, words, tmp_path, capsys):
    file = tmp_path / "funnel.json"
    file.write_text(json.dumps(content))
    for given in (file, tmp_path):
        assert main(["plan", "curate", "tiny", "--no-calibrate", "--pairs", "24", "--funnel", str(given)]) == 2
        said = capsys.readouterr().err
        assert words in said and said.startswith("dsd: error: ") and said.count("\n") == 1


def test_a_funnel_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["plan", "curate", "tiny", "--funnel", str(tmp_path / "nowhere")]) == 2
    assert "there is no funnel" in capsys.readouterr().err


def test_films_are_planned_by_a_funnel_of_films():
    config = parts.config("captions.txt", SERVED, references=2, unit_size=10)
    found = cost.amounts(config, 4, replace(FUNNEL, films=4))
    assert (found.captions, found.films, found.pairs) == (10, 4, 24)
    with pytest.raises(UserError, match="films are planned"):
        _require(FUNNEL, config)


def _require(funnel: Funnel, config: object) -> None:
    from dsd.curate.past import require_useful

    require_useful(funnel, config, "f")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pairs", 0), ("pairs", -5), ("gpus", 0), ("machines", 0), ("tflops", 0.0), ("tflops", math.nan),
        ("utilization", 0.0), ("utilization", 1.5), ("utilization", math.nan), ("reply_seconds", 0.0),
        ("gpu_hour_price", -1.0), ("gpu_hour_price", math.nan), ("million_tokens_price", (1.0, -2.0)),
        ("million_tokens_price", (math.inf, 2.0)),
    ],
)  # fmt: skip
def test_a_bad_number_is_told(field, value):
    good: dict[str, object] = {"curate": recipe("tiny").curate, "tflops": 1.0, "recipe": "tiny"}
    with pytest.raises(UserError, match=f"^{field} is "):
        PlanCurate(**(good | {field: value}))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], 'needs a name next: "tiny", '),
        (["flux-dve"], 'did you mean "flux-dev"?'),
        (["--pairs", "3"], "needs a name next"),
        (["tiny", "--piars", "3"], 'did you mean "--pairs"?'),
        (["tiny", "--pairs", "0"], "at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(words, hint, capsys):
    assert main(["plan", "curate", *words]) == 2
    said = capsys.readouterr().err
    assert hint in said and said.count("\n") == 1


def test_the_known_funnel_of_a_recipe_adds_up():
    for found in all_recipes().values():
        if found.funnel is not None:
            _require(found.funnel, found.curate)


def test_nothing_is_calibrated_with_models_that_compute_elsewhere():
    config = recipe("tiny").curate
    assert not not_here(config)
    assert SERVED in not_here(replace(config, judge=SERVED))
    assert "FLUX.1-dev" in not_here(recipe("flux-dev").curate)
    assert "runs/x" in not_here(replace(config, sheets_from="runs/x"))


def test_a_calibration_is_a_curation_that_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = parts.config("nowhere.txt", "embedded:tiny-vlm", unit_size=1, templates="compact")
    trial = run_trial(config)
    assert not list(tmp_path.iterdir())
    assert trial.captions == 2 and trial.own_captions and set(trial.seconds) == {"write", "draw", "judge"}
    assert all(seconds > 0 for seconds in trial.seconds.values())
    trial.funnel.reconcile(6)
    found = estimate(config, 24, Past(funnel=FUNNEL, told_by="as told"), MEANS, trial)
    assert found.seconds == pytest.approx(trial.start + found.amounts.captions * sum(trial.seconds.values()))
    said = " ".join(found.assumptions)
    assert "calibration" in said and "captions of its own" in said
    halved = estimate(config, 24, Past(funnel=FUNNEL, told_by="as told"), replace(MEANS, gpus=2), trial)
    assert halved.seconds - trial.start == pytest.approx((found.seconds - trial.start) / 2)


def test_disk_is_rows_at_their_measured_sizes():
    config = parts.config("captions.txt", SERVED)
    rows = estimated_rows(config).measured({"pairs": 700, "grids": 90}, {"pairs": 7, "grids": 3})
    assert (rows.pairs, rows.grids) == (100, 30) and rows.rejects == estimated_rows(config).rejects
    found = cost.amounts(replace(config, unit_size=10), 24, FUNNEL)
    assert cost.disk(found, rows) == 24 * 100 + 10 * 30 + 24 * rows.rejects + rows.unit


def test_lossy_pictures_take_less_room():
    assert _served(image_format="webp").disk < _served(image_format="jpeg").disk < _served().disk


def test_rows_beside_a_past_funnel_are_measured(tmp_path):
    config = parts.config("captions.txt", SERVED)
    funnel = {
        "captions": 1,
        "grid_prompts": 1,
        "sheets": 1,
        "candidates": 6,
        "kept": 4,
        "pairs": 8,
        "rejected": {"x": 2},
    }
    found = read_past(_dataset(tmp_path, funnel), config)
    shard = tmp_path / "pairs/00000.parquet"
    assert found.rows is not None and found.rows.pairs == shard.stat().st_size / 2
    assert found.rows.grids == estimated_rows(config).grids  # of which there are none
    assert read_past(tmp_path / "funnel.json", config).rows is None


def _dataset(folder: Path, funnel: dict[str, object]) -> Path:
    judge = Model(name="a judge", revision="1")
    pairs = [
        Pair(
            id=f"{number}", grid="g", reference_panel="a", target_panel="b", reference=tiny.picture(),
            target=tiny.picture(), reference_caption="a cat", target_caption="a cat", subject="cat",
            first_details="red", second_details="red", comparison="", judge=judge,
        )
        for number in range(2)
    ]  # fmt: skip
    writer = DatasetWriter(folder)
    writer.finish([writer.write_shard("pairs", 0, pairs)], {}, funnel)
    return folder
