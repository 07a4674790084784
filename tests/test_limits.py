"""Numbers of settings that nothing can be done with are a sentence as soon as they are given."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from dsd.cli.drawing import Model
from dsd.cli.evaluate import evaluate_of
from dsd.cli.main import main
from dsd.curate.config import CurateConfig
from dsd.curate.executors.local import Local
from dsd.curate.executors.pools import Pools
from dsd.errors import UserError
from dsd.limits import require_within
from dsd.recipes.registry import recipe
from dsd.sampling import Sampling
from dsd.serve.settings import Limits, Settings
from dsd_world.cli.world import TrainModel
from dsd_world.demo_config import DemoConfig
from dsd_world.tables.config import TablesConfig

HUGE = 10**400
CURATE: CurateConfig = recipe("tiny").curate
EVALUATE = evaluate_of("tiny", recipe("tiny"))
COUNTS = (0, -1, HUGE, True)
SCALES = (math.nan, math.inf, -math.inf, 1e38)


@pytest.mark.parametrize(
    ("config", "fields", "values"),
    [
        (CURATE, ("units", "unit_size", "votes", "chat_batch", "teacher_batch", "panel_size", "steps"), COUNTS),
        (CURATE, ("sheet_text_tokens",), (0, 513)),
        (CURATE, ("guidance", "true_guidance"), SCALES),
        (Sampling(), ("steps",), COUNTS),
        (Sampling(), ("text_scale", "image_scale", "guidance"), SCALES),
        (Model(adapter="a"), ("steps",), COUNTS),
        (Model(adapter="a"), ("text_scale", "image_scale", "guidance"), SCALES),
        (EVALUATE, ("repeats", "pictures", "write", "steps"), COUNTS),
        (EVALUATE, ("teacher_guidance", "text_scale", "image_scale"), SCALES),
        (Limits(), ("body_mib", "header_seconds"), (0, *SCALES)),
        (Limits(), ("pictures", "drawn_pixels", "per_minute"), COUNTS),
        (Settings(), ("drain_seconds",), (-1.0, *SCALES)),
        (Pools(), ("idle_seconds", "start_seconds"), (-1.0, *SCALES)),
        (DemoConfig(), ("subjects",), COUNTS),
        (TablesConfig(), ("subjects", "ablation_pairs", "face_steps", "sheets"), COUNTS),
        (TrainModel(name="dino"), ("steps",), COUNTS),
        (TrainModel(name="dino"), ("hours",), (0.0, *SCALES)),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "__dataclass_fields__") else None,
)
def test_a_number_out_of_range_is_told(config: Any, fields: tuple[str, ...], values: tuple[Any, ...]) -> None:
    for name in fields:
        for value in values:
            with pytest.raises(UserError, match=rf"^(the limit )?{name} is .{{1,170}}, but must be ") as error:
                replace(config, **{name: value})
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", COUNTS)
def test_a_number_of_workers_is_one(workers: int) -> None:
    with pytest.raises(UserError, match=r"^workers is "):
        Local(workers)


def test_sides_that_no_picture_has_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["generate", "--n", str(HUGE)], ["generate", "--n", "0"], ["convert", "--frame", str(HUGE), "8"]):
        assert main([*words]) == 2
        said = capsys.readouterr().err
        assert f"{words[1]} is " in said and len(said) < 400 and said.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "x is 0, but must be at least 1"),
        (True, "x is True, but must be a number of at least 1"),
        (math.nan, "x is nan, but must be a number of at least 1"),
        (10**10, "x is 10000000000, but must be at most 1,000,000,000"),
    ],
)
def test_what_is_wanted_is_said(value: float, said: str) -> None:
    with pytest.raises(UserError) as error:
        require_within("x", value, 1)
    assert str(error.value) == said
