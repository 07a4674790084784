"""Each cached latent and caption is its pair's own: after shuffles, two epochs, sizes in turn, a resume."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import tiny
import torch
from accelerate import Accelerator
from latent_parts import SIZES, key, latents_of, told_apart
from PIL import Image, ImageDraw
from training_parts import SimplePair, simple_pairs, small_config

from dsd.backbones.registry import load_backbone
from dsd.backbones.stock import StockBackbone
from dsd.data.latents import LatentCache, build_cache
from dsd.train import trainer
from dsd.train.batches import Batches, turn_of
from dsd.train.loop import step_generator
from dsd.train.task import TwoFrameTask
from dsd.train.trainer import train

BATCH = 4


@pytest.fixture(scope="module")
def backbone() -> StockBackbone:
    return load_backbone(tiny.schnell(), transformer=False)


def task_of(folder: Path, pairs: list[SimplePair], text: Literal["whole", "live"] = "whole", **changes) -> TwoFrameTask:
    config = small_config(batch_size=BATCH, text_cache=text, held_out=1, **changes)
    backbone = load_backbone(config.base)
    build_cache(pairs, backbone, folder / "latents", key(text=text), shard_samples=5)
    return TwoFrameTask(
        config, backbone, trainer.attach(config, backbone), LatentCache(folder / "latents"), Accelerator(), folder
    )


def require_own(task: TwoFrameTask, pairs: list[SimplePair], step: int, backbone: StockBackbone) -> list[int]:
    """Looks at what a step trains on, and returns its rows."""
    seen = []
    for number in range(len(task.parts)):
        part = task._ahead.take(step * len(task.parts) + number)
        (samples, _), own = task._on_device(part), [pairs[row] for row in part.rows]
        size = task.cache.sizes[part.size]
        text = backbone.encode_text([pair.target_caption for pair in own], tiny.TEXT_TOKENS)
        for place, wanted in enumerate(([pair.reference for pair in own], [pair.target for pair in own])):
            torch.testing.assert_close(
                samples.frames[:, place], latents_of(backbone, wanted, size), atol=1e-4, rtol=1e-3
            )
        torch.testing.assert_close(samples.text.tokens, text.tokens, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(samples.text.pooled, text.pooled, atol=1e-5, rtol=1e-4)
        seen += part.rows
    return seen


@pytest.mark.parametrize("text", ["whole", "live"])
@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES], ids=["one size", "three sizes"])
def test_every_batch_of_two_epochs_is_of_its_own_pictures_and_words(
    sizes: tuple[tuple[int, int], ...], text: Literal["whole", "live"], tmp_path: Path, backbone: StockBackbone
) -> None:
    pairs = told_apart(30, sizes)
    task = task_of(tmp_path, pairs, text, steps=100, gradient_accumulation=2)
    epochs = [require_own(task, pairs, step, backbone) for step in range(2 * 24 // BATCH)]
    resumed = task_of(tmp_path, pairs, text, steps=100, gradient_accumulation=2)
    for step in (7, 3, 11):
        assert require_own(resumed, pairs, step, backbone) == epochs[step]
    if len(sizes) > 1:
        for half in (epochs[:6], epochs[6:]):
            assert Counter(row for batch in half for row in batch) == Counter(range(24)), "each once an epoch"


def test_batches_of_one_size_are_drawn_as_they_always_were() -> None:
    rows = [3, 5, 8, 13, 21]
    for step in range(5):
        generator = step_generator(9, step)
        picks = torch.randint(len(rows), (BATCH,), generator=generator).tolist()
        batch, after = Batches.of(rows, [0] * 22, BATCH, seed=9).at(step)
        assert batch.rows == [rows[pick] for pick in picks]
        assert torch.equal(torch.rand(3, generator=after), torch.rand(3, generator=generator))


@pytest.mark.parametrize("counts", [(5, 3), (1, 17), (7, 7, 1), (100, 1, 30, 4)])
def test_rows_of_all_sizes_are_seen_equally_often(counts: tuple[int, ...]) -> None:
    sizes = [size for size, count in enumerate(counts) for _ in range(count)]
    batches = Batches.of(range(len(sizes)), sizes, BATCH, seed=1)
    seen: Counter[int] = Counter()
    for step in range(len(sizes)):
        batch, _ = batches.at(step)
        assert {sizes[row] for row in batch.rows} == {batch.size}
        seen.update(batch.rows)
        for size in range(len(counts)):
            often = [seen[row] for row in range(len(sizes)) if sizes[row] == size]
            assert max(often) - min(often) <= 1
    assert set(seen.values()) == {BATCH}


def test_turns_are_dealt_evenly_at_every_moment() -> None:
    shares, had = {0: 5, 1: 3, 2: 11}, Counter()
    for step in range(60):
        who, turn = turn_of(shares, step)
        assert turn == had[who]
        had[who] += 1
        for name, share in shares.items():
            assert abs(had[name] - (step + 1) * share / 19) < 1.5


def test_another_seed_shuffles_otherwise() -> None:
    sizes = [0] * 20 + [1] * 20
    first, second = (
        [Batches.of(range(40), sizes, BATCH, seed).at(step)[0].rows for step in range(10)] for seed in (0, 1)
    )
    assert first != second


def circles(count: int, size: tuple[int, int]) -> list[SimplePair]:
    """Pairs of a white disc in the middle of a dark picture of a (height, width)."""
    image = Image.new("RGB", (size[1], size[0]), "black")
    radius, x, y = 0.3 * min(size), size[1] / 2, size[0] / 2
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius - 1, y + radius - 1), fill="white")
    pair = simple_pairs(1)[0]
    return [replace(pair, id=f"{size}-{n}", grid=f"{size}-{n}", reference=image, target=image) for n in range(count)]


@pytest.mark.parametrize(
    "settings", [{"frame_size": (64, 64)}, {"buckets": ((64, 64), (48, 96), (96, 48))}], ids=["frame_size", "buckets"]
)
def test_a_circle_stays_round(settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, seen = load_backbone(tiny.schnell(), transformer=False), []
    encode = backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda images: (seen.append(images), encode(images))[1])
    pairs = [*circles(2, (100, 200)), *circles(2, (200, 100)), *circles(2, (128, 120))]
    build_cache(pairs, backbone, tmp_path, key(**settings))
    discs = [picture.mean(0) > 0 for images in seen for picture in images if picture.max() > 0]
    assert len(discs) == 3
    for disc in discs:
        assert abs(int(disc.any(0).sum()) - int(disc.any(1).sum())) <= 1
    wanted = [(64, 64)] if "frame_size" in settings else [(48, 96), (64, 64), (96, 48)]
    assert LatentCache(tmp_path).sizes == wanted


def test_a_run_of_mixed_sizes_draws_its_sheet_and_goes_on_to_the_bit(tmp_path: Path) -> None:
    adapter = train(small_config(steps=6), told_apart(18), tmp_path)
    content = (adapter / "adapter.safetensors").read_bytes()
    sheet = (tmp_path / "samples" / "step-0000006.png").read_bytes()
    shutil.rmtree(adapter)
    shutil.rmtree(tmp_path / "samples")
    shutil.rmtree(tmp_path / "checkpoints" / "step-0000006")
    train(small_config(steps=6), told_apart(18), tmp_path)
    assert (adapter / "adapter.safetensors").read_bytes() == content
    assert (tmp_path / "samples" / "step-0000006.png").read_bytes() == sheet
