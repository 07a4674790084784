"""Claims about the judge's figures and its calibration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dsd.chat.local import LocalChat
from dsd.curate.tasks.identity import IDENTITY
from dsd.models import resolve
from dsd_world.details import PARTS
from dsd_world.examined_pairs import equal_word_pairs, one_part_pairs
from dsd_world.judge_quality import Judged, candidate_pairs, examine, judged
from dsd_world.models.calibration import best_threshold, calibrate


@pytest.mark.parametrize(
    ("confidence", "same", "low", "high"),
    [
        ([-3.0, -1.0, 2.0, 4.0], [False, False, True, True], -1.0, 2.0),
        ([5.0, 6.0, 1.0, 2.0], [True, True, False, False], 2.0, 5.0),
        ([0.0, 1.0, 2.0, 3.0, 4.0], [False, True, False, True, True], 0.0, 3.0),
        ([1.0, 2.0], [True, True], 0.0, 1.0),
        ([1.0, 2.0], [False, False], 2.0, 3.0),
    ],
)
def test_the_threshold_is_right_most_often(confidence: list[float], same: list[bool], low: float, high: float) -> None:
    assert low <= best_threshold(confidence, same) <= high


def test_a_judges_figures_equal_those_counted_by_hand() -> None:
    verdicts = Judged(
        same=[True, True, False, None, True, False],
        confidence=[0.9, 0.8, 0.3, 0.5, 0.6, 0.1],
        misquoting=[(True, 0), (False, 1), (False, 2), (True, 4)],
    )
    found = examine("direct", verdicts, [True, True, True, True, False, False])
    assert (found.n, found.failed) == (6, 1)
    assert found.accuracy.mean == pytest.approx(3 / 6)
    assert found.precision is not None
    assert found.precision.mean == pytest.approx(2 / 3)
    assert found.recall is not None
    assert found.recall.mean == pytest.approx(2 / 3)
    assert found.auc.mean == pytest.approx((2 + 2 + 1 + 1) / 8)
    assert found.misquoting is not None
    assert found.misquoting.mean == pytest.approx(2 / 4)
    assert found.curve[0] == (0.25, 1.0)
    assert found.curve[-1] == (1.0, pytest.approx(4 / 6, abs=1e-4))


def test_the_precision_of_a_judge_that_accepts_nothing_is_undefined() -> None:
    found = examine("direct", Judged(same=[False, False], confidence=[0.3, 0.2]), [True, False], groups=["a", "b"])
    assert (found.precision, found.misquoting) == (None, None)
    assert found.as_dict()["precision"] is None
    assert found.recall is not None
    assert found.recall.mean == 0.0


def test_a_calibrated_judge_decides_at_its_threshold(tmp_path: Path) -> None:
    held = equal_word_pairs("validation", torch.arange(24))
    folder = tmp_path / "vlm"
    shutil.copytree(resolve("embedded:tiny-vlm"), folder)
    biases = calibrate(folder, held)
    first = (folder / "generation_config.json").read_text()
    assert len(json.loads(first)["sequence_bias"]) == 2
    assert calibrate(folder, held) == pytest.approx(biases, abs=1e-3)  # of which three decimals are kept
    pairs = candidate_pairs(equal_word_pairs("evaluation", torch.arange(24)))
    for chain_of_thought in (True, False):
        found = judged(
            LocalChat(str(folder)), IDENTITY.load_templates("compact"), pairs, chain_of_thought=chain_of_thought
        )
        sure = [i for i, score in enumerate(found.confidence) if abs(score - 0.5) > 0.01]
        assert len(sure) > 20
        assert [found.same[i] for i in sure] == [found.confidence[i] > 0.5 for i in sure]
        assert bool(found.misquoting) is chain_of_thought


@pytest.mark.parametrize("part", PARTS)
def test_one_part_pairs_leave_out_whom_nothing_tells_apart(part: str) -> None:
    pairs = one_part_pairs("evaluation", torch.arange(12), part)
    assert 0 < len(pairs.same) <= 12
    assert not any(pairs.same)
    assert len(pairs.first) == len(pairs.second) == len(pairs.same)
    other = one_part_pairs("evaluation", torch.arange(12), PARTS[PARTS.index(part) - 1])
    assert len(other.same) != len(pairs.same) or not torch.equal(other.second, pairs.second)
