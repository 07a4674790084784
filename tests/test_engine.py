"""What the engine promises those who order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from dsd.backbones.adapter import save_adapter
from dsd.backbones.registry import load_backbone
from dsd.errors import UserError
from dsd.generate.engine import Engine, Progress, QueueFull, Stopping
from dsd.generate.orders import Order
from dsd.generate.references import Black
from dsd.generate.two_frame import TwoFramePipeline


@pytest.fixture(scope="module")
def pipeline() -> TwoFramePipeline:
    folder = tiny.scratch() / "engine-adapter"
    transformer = load_backbone(tiny.dev(), text=False, vae=False).transformer
    save_adapter(folder, tiny.random_updates(transformer), tiny.metadata(tiny.dev(), frame_size=(32, 32)))
    pipe = TwoFramePipeline.from_pretrained(tiny.dev(), folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def engine(pipeline: TwoFramePipeline) -> Iterator[Engine]:
    engine = Engine(pipeline, most_at_once=4, most_waiting=8)
    yield engine
    engine.stop()


def order(**changes: Any) -> Order:
    settings: dict[str, Any] = {"prompt": "a red cat", "references": (tiny.picture(),), "seed": 1, "steps": 3}
    return Order(**(settings | changes))


def test_orders_of_all_kinds_are_drawn_as_the_pipeline_draws_them(engine: Engine, pipeline: TwoFramePipeline) -> None:
    orders = [
        order(seed=seed, prompt=f"a cat {seed}", steps=2 + seed, text_scale=1.0 + seed, width=32 + 8 * (seed % 2))
        for seed in range(6)
    ]
    futures = [engine.submit(one) for one in orders]
    for one, future in zip(orders, futures, strict=True):
        (wanted,) = pipeline(
            one.prompt, one.references[0], width=one.width, num_inference_steps=one.steps, text_scale=one.text_scale,
            generator=torch.Generator().manual_seed(one.seed),
        ).images  # fmt: skip
        (drawn,) = future.result(timeout=60).pictures
        assert np.abs(np.asarray(drawn, dtype=float) - np.asarray(wanted, dtype=float)).max() <= 1


def test_a_black_frame_is_encoded_once_a_size_and_the_picture_keeps_its_bits(pipeline: TwoFramePipeline) -> None:
    alone = Engine(pipeline)
    encoded: list[tuple[int, ...]] = []
    hook = pipeline.vae.encoder.register_forward_hook(lambda _, given, __: encoded.append(tuple(given[0].shape)))
    try:
        first, again = (alone.submit(order()).result(timeout=60).pictures[0].tobytes() for _ in range(2))
        assert first == again and encoded == [(1, 3, 32, 32)] * 3  # black, and the reference twice
        alone.submit(order(width=40)).result(timeout=60)
        assert encoded[3:] == [(1, 3, 32, 40)] * 2
    finally:
        hook.remove()
        alone.stop()
    assert pipeline.kept is None
    (anew,) = pipeline(
        "a red cat", tiny.picture(), num_inference_steps=3, generator=torch.Generator().manual_seed(1)
    ).images
    assert anew.tobytes() == first


def test_black_frames_of_few_sizes_are_kept(pipeline: TwoFramePipeline) -> None:
    kept = Black(most=2)
    found = {width: kept.of(pipeline.backbone, (8, width)) for width in (8, 16, 24)}
    assert kept.of(pipeline.backbone, (8, 24)) is found[24]
    anew = kept.of(pipeline.backbone, (8, 8))
    assert anew is not found[8] and torch.equal(anew, found[8])


def test_an_order_says_how_far_it_is_and_shows_it(engine: Engine) -> None:
    seen: list[tuple[int, int, tuple[int, int]]] = []

    def on_step(progress: Progress) -> None:
        seen.append((progress.step, progress.steps, progress.preview().size))

    engine.submit(order(), on_step=on_step).result(timeout=60)
    assert seen == [(1, 3, (32, 32)), (2, 3, (32, 32)), (3, 3, (32, 32))]


def test_who_has_left_is_dropped_between_steps_and_the_others_go_on(engine: Engine) -> None:
    steps: list[int] = []
    left = threading.Event()

    def on_step(progress: Progress) -> None:
        steps.append(progress.step)
        left.set()

    leaver = engine.submit(order(steps=500), on_step=on_step, gone=left.is_set)
    stayer = engine.submit(order(seed=2))
    assert stayer.result(timeout=60).pictures[0].size == (32, 32)
    with pytest.raises(CancelledError):
        leaver.result(timeout=60)
    assert len(steps) < 5
    never = engine.submit(order(), gone=lambda: True, on_step=lambda progress: steps.append(99))
    with pytest.raises(CancelledError):
        never.result(timeout=60)
    assert 99 not in steps


def test_a_cancelled_future_frees_its_place(engine: Engine) -> None:
    begun = threading.Event()
    future = engine.submit(order(steps=5000), on_step=lambda progress: begun.set())
    assert begun.wait(60) and future.cancel()
    engine.submit(order()).result(timeout=60)
    assert engine.running == 0


def test_the_queue_is_bounded_and_orders_are_taken_together_or_not_at_all(engine: Engine) -> None:
    hold = threading.Event()
    first = engine.submit(order(), on_step=lambda progress: hold.wait(60))
    while engine.waiting:
        pass
    engine.submit_all([order()] * 8)
    with pytest.raises(QueueFull):
        engine.submit(order())
    hold.set()
    first.result(timeout=60)


def test_the_order_that_fails_is_told_and_the_others_are_drawn(engine: Engine) -> None:
    def on_step(progress: Progress) -> None:
        raise ValueError("who watches")

    bad, good = engine.submit(order(), on_step=on_step), engine.submit(order(seed=2))
    with pytest.raises(ValueError, match="who watches"):
        bad.result(timeout=60)
    assert good.result(timeout=60).pictures[0].size == (32, 32)
    late = engine.submit(order(width=12))  # not checked
    with pytest.raises(UserError, match="multiples"):
        late.result(timeout=60)
    assert engine.is_alive


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 12}, "multiples of 8"),
        ({"prompt": " ", "references": ()}, "prompt is empty"),
        ({"references": (tiny.picture(), tiny.picture())}, "trained with 1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1 << 64}, "must be from 0"),
        ({"steps": 0}, "num_inference_steps"),
        ({"text_scale": float("nan")}, "scale is (inf|nan), but must be"),
    ],
)
def test_what_is_wrong_with_an_order_is_found_without_work(engine: Engine, changes: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        engine.check(order(**changes))


def test_stopping_finishes_what_it_can_and_drops_the_rest(pipeline: TwoFramePipeline) -> None:
    engine = Engine(pipeline, most_at_once=2)
    short, endless = engine.submit(order()), engine.submit(order(steps=10_000))
    engine.stop(finish_within=2)
    assert short.result(timeout=1).pictures[0].size == (32, 32)
    assert endless.cancelled() and not engine.is_alive
    with pytest.raises(Stopping):
        engine.submit(order())


def test_words_alone_are_drawn_too(engine: Engine) -> None:
    assert engine.submit(order(references=())).result(timeout=60).pictures[0].size == (32, 32)
    assert engine.facts.size == (32, 32) and engine.facts.multiple == 8 and engine.facts.references == 1
