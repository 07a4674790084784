"""Claims about gradient checkpointing: the same gradients of less memory and more arithmetic, in steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from training_parts import shake, small_config, task_in

from dsd.backbones.cost import shape_of
from dsd.train.adapter import attach
from dsd.train.checkpointing import checkpoint_gradients
from dsd.train.config import Checkpointing
from dsd.train.loop import step_generator
from dsd.train.step import draw, losses
from dsd.train.task import TwoFrameTask

LEVELS: tuple[Checkpointing, ...] = ("off", "selective", "full")


class Kept(TorchDispatchMode):
    """Results that are still held when a block of code ends, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        found = function(*arguments, **(named or {}))
        for one in tree_leaves(found):
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                self._seen[StorageWeakRef(storage)] = storage.nbytes()
        return found

    @property
    def bytes(self) -> int:
        return sum(size for reference, size in self._seen.items() if not reference.expired())


def passed(task: TwoFrameTask, level: Checkpointing) -> tuple[float, float, list[torch.Tensor]]:
    """Operations of both passes, bytes that are kept between them, and all gradients."""
    samples, drawn = task.cache.samples([0, 1, 2]), draw(task.objective, 3, step_generator(0, 0))
    checkpoint_gradients(task.backbone, level)
    parameters = task.adapter.parameters.values()
    for parameter in parameters:
        parameter.grad = None
    with FlopCounterMode(display=False) as counter:
        with Kept() as kept:
            loss = losses(task.backbone, task.objective, samples, drawn)["loss"]
        held = kept.bytes
        loss.backward()
    return counter.get_total_flops(), held, [one.grad.clone() for one in parameters if one.grad is not None]


@pytest.mark.parametrize("base", [tiny.schnell, tiny.dev, tiny.sd3, tiny.flux2])
def test_less_is_kept_more_is_computed_and_gradients_are_the_same(base, tmp_path: Path) -> None:
    task = task_in(tmp_path, small_config(base=base(), rank=8, lora_targets="attention"))
    shake(task)
    operations, kept, gradients = zip(*(passed(task, level) for level in LEVELS), strict=True)
    assert operations[0] < operations[1] < operations[2]
    assert kept[0] > 1.1 * kept[1] > 1.2 * kept[2]
    for level in (1, 2):
        assert len(gradients[level]) == len(gradients[0]) > 10
        assert all(torch.equal(one, other) for one, other in zip(gradients[0], gradients[level], strict=True))


def test_what_flux_dev_takes_a_sample_is_what_torch_counts() -> None:
    """The published adapter on a canvas of 512x1024, 512 tokens of text, all blocks recomputed."""
    shape = shape_of("black-forest-labs/FLUX.1-dev")
    shape.backbone.widen()
    attach(shape.backbone.transformer, shape.backbone.layers, rank=512, targets="attention", seed=0)
    checkpoint_gradients(shape.backbone, "full")
    assert shape.training_operations((512, 512), 2, 512) / 1e12 == pytest.approx(129.7, abs=0.1)


@pytest.mark.parametrize("base", [tiny.dev, tiny.sd3, tiny.flux2])
def test_equal_blocks_are_counted_as_if_each_had_run(base: Callable[[], str]) -> None:
    shape = shape_of(base())
    backbone = shape.backbone
    backbone.widen()
    checkpoint_gradients(backbone, "selective")
    transformer = backbone.transformer
    before = [len(transformer.get_submodule(name)) for name in backbone.layers.blocks]
    quickly = shape.training_operations((32, 32), 2, tiny.TEXT_TOKENS)
    for name in backbone.layers.blocks:
        blocks = transformer.get_submodule(name)
        for number, block in enumerate(blocks):
            block.register_parameter(f"own_{number}", nn.Parameter(torch.zeros(0, device="meta")))
    assert shape.training_operations((32, 32), 2, tiny.TEXT_TOKENS) == quickly
    assert [len(transformer.get_submodule(name)) for name in backbone.layers.blocks] == before
