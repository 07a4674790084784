"""Claims about intervals, paired tests and corrections, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from dsd.evaluate.bootstrap import (
    bootstrap,
    bootstrap_auc,
    bootstrap_difference,
    bootstrap_runs,
    holm,
    sign_flip_test,
)
from dsd.evaluate.claims import Claim, examine
from dsd.evaluate.metrics.diversity import vendi
from dsd.evaluate.scores import Scores

WIDE = [0.0, 5.0, -3.0, 1.0, 2.0, -4.0] * 3


def test_one_training_has_the_interval_of_its_subjects() -> None:
    alone, among = bootstrap(WIDE), bootstrap_runs([WIDE])
    assert among.mean == pytest.approx(alone.mean)
    assert (among.low, among.high) == pytest.approx((alone.low, alone.high), abs=0.15)


def test_trainings_that_differ_widen_the_interval() -> None:
    flat = [0.5] * 12
    assert bootstrap_runs([flat, flat]).low == pytest.approx(0.5)
    found = bootstrap_runs([[0.4] * 12, [0.6] * 12])
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.4, 0.6))


def test_what_two_methods_share_by_subject_is_no_part_of_the_difference() -> None:
    found = bootstrap_difference([[x + 1.1 for x in WIDE]], [[x + 1.0 for x in WIDE]])
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    scaled = bootstrap_difference([[1.0] * 4], [[0.5] * 4, [0.7] * 4], factor=0.5)
    assert scaled.mean == pytest.approx(0.7)
    assert (scaled.low, scaled.high) == pytest.approx((0.65, 0.75))


def test_the_area_under_the_curve_counts_ties_half() -> None:
    found = bootstrap_auc([0.9, 0.8, 0.4], [0.1, 0.4])
    assert found.mean == pytest.approx(5.5 / 6) and found.low < found.mean <= found.high <= 1.0
    assert bootstrap_auc([1.0, 1.0], [0.0]).low == pytest.approx(1.0)


def test_the_randomisation_test_is_the_exact_one() -> None:
    assert sign_flip_test([1.0] * 5) == pytest.approx(2 / 32, abs=0.01)
    assert sign_flip_test([1.0, -1.0, 1.0, -1.0]) == pytest.approx(1.0, abs=0.01)
    assert sign_flip_test([0.0] * 6) == 1.0
    assert sign_flip_test([0.3, 0.5, 0.4] * 8) < 0.001


def test_holm_s_correction() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_a_claim_needs_its_interval_and_its_corrected_p() -> None:
    few = Scores(name="few", runs=[{"x": [1.0, 1.0, 1.0]}])
    other = Scores(name="other", runs=[{"x": [0.0, 0.0, 0.0]}])
    claims = [Claim(text=m, method="few", against="other", metric=m) for m in ("x", "of no subject")]
    (found,) = examine([few, other], claims)
    assert found.difference.low > 0 and found.p > 0.05 and not found.holds, "three subjects prove nothing"


def test_the_vendi_score_counts_different_pictures() -> None:
    same = torch.ones(1, 3, 1, 1)
    assert vendi([same]).item() == pytest.approx(1, abs=1e-4)
    different = torch.eye(3)[None, :, :, None]
    assert vendi([different]).item() == pytest.approx(3, abs=1e-4)
    two = torch.eye(3)[None, [0, 0, 1], :, None]
    assert vendi([two]).item() == pytest.approx(3 / 2 ** (2 / 3), abs=1e-4), "shares of 2/3 and 1/3"


def test_rows_of_several_trainings_keep_their_seeds() -> None:
    one, two = (Scores(name="a", runs=[{"x": [value] * 4}], seeds=(seed,)) for value, seed in ((0.2, 0), (0.4, 7)))
    row = Scores.together([one, two])
    assert list(row.seeds) == [0, 7] and row.values["x"] == pytest.approx([0.3] * 4)
    assert row.estimate("x").mean == pytest.approx(0.3)
