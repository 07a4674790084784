"""`dsd plan`: numbers that nothing can be planned with are told, and so is what training would refuse."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from training_parts import dataset_in, small_config, task_in

from dsd.backbones.cost import shape_of
from dsd.cli.main import main
from dsd.cli.plan import Plan
from dsd.errors import UserError
from dsd.recipes.registry import recipe
from dsd.train.cost import Device, counted, training_cost

GOOD = Plan(train=recipe("tiny").train, tflops=1.0, pairs=1)
HUGE = 10**400


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("devices", (0, -1, HUGE, True)),
        ("tflops", (0.0, -5.0, 1e-320, math.nan, math.inf)),
        ("utilization", (0.0, 1e-320, 5.0, math.nan)),
        ("card", (0.0, -5.0, math.nan, math.inf)),
        ("pairs", (0, -1, HUGE)),
        ("gpu_hour_price", (-1.0, math.nan, math.inf)),
        ("frame", ((0, 0), (-16, 16), (1_000_000, 1_000_000), (HUGE, 16))),
    ],
)
def test_a_number_that_nothing_can_be_planned_with_is_told(field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(UserError, match=rf"^{field} is .{{1,170}}, but ") as error:
            replace(GOOD, **{field: value})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--frame", "7", "7"], "7x7 pixels (height x width) does not fit this model"),
        (["--train.frame-size", "7", "7"], "7x7 pixels (height x width) does not fit this model"),
        (["--train.max-sequence-length", "100000"], "train.max_sequence_length is 100000, but must be at most 512"),
        (["--train.offload", "blocks", "--devices", "2"], "streams blocks in a single process, but 2 train together"),
        (["--train.base-precision", "fp8"], "train.mixed_precision is no; give bf16"),
        (["--devices", "3"], "does not divide among 3 processes"),
        (["--train.flavour", "cached"], "the flavour cached is not available"),
        (["--train.lora-targets"], "train.lora_targets is empty"),
    ],
)
def test_what_training_refuses_is_not_planned(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny.sd3() if "cached" in words else tiny.schnell()
    capsys.readouterr()  # what building it said
    assert main(["plan", "tiny", "--train.base", base, *words]) == 2
    told = capsys.readouterr()
    assert said in told.err and told.err.count("\n") == 1 and not told.out


def test_the_size_that_is_trained_at_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "tiny", "--train.base", tiny.schnell()]

    def operations(*more: str) -> float:
        assert main([*words, *more]) == 0
        found = re.search(r"arithmetic +(\S+) operations", capsys.readouterr().out)
        assert found is not None
        return float(found[1])

    dataset_in(tmp_path / "dataset")  # of 32 x 32 pixels
    small = operations("--train.frame-size", "32", "32")
    assert operations("--data", str(tmp_path / "dataset")) == small < operations("--train.frame-size", "64", "64")


def test_nothing_is_planned_for_data_without_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metadata.jsonl").touch()
    assert main(["plan", "tiny", "--train.base", tiny.schnell(), "--data", str(tmp_path)]) == 2
    assert "the data holds no example" in capsys.readouterr().err


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_checkpoint_takes_the_disk_that_is_planned(decay: float, tmp_path: Path) -> None:
    config = small_config(ema_decay=decay, optimizer="adamw", gradient_accumulation=1)
    found = counted(config, shape_of(config.base), (32, 32))
    planned = training_cost(config, found, devices=1, device=Device(speed=1.0)).checkpoint
    task = task_in(tmp_path, config)
    task.train_step(0)
    assert planned == pytest.approx(sum(tensor.nbytes for tensor in task.tensors().values()), rel=0.05)
