"""Claims about training that is quick by itself: how a batch is worked through, compiled blocks, optimizer steps."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_parts import shake, small_config, task_in

from dsd.attention import Attended
from dsd.config import from_json, to_json
from dsd.errors import UserError
from dsd.generate.compiled import graphs_made
from dsd.recipes.published import flux_dev
from dsd.train import compiled, fitting
from dsd.train.config import TrainConfig
from dsd.train.cost import (
    Activations,
    Choice,
    Cost,
    Counted,
    Device,
    choices,
    is_compiled,
    most_at_once,
    that_fits,
    training_cost,
)
from dsd.train.optim import MuonAndAdamW
from dsd.train.task import TwoFrameTask

GIB = 2**30
NEEDS = {"off": 10.0, "selective": 6.0, "full": 1.0}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSD_CACHE", str(tmp_path / "cache"))


def auto(**changes: object) -> TrainConfig:
    return small_config(gradient_checkpointing="auto", gradient_accumulation="auto", **changes)


@pytest.mark.parametrize(
    ("room", "level", "samples"),
    [
        (200, "off", 20), (100, "off", 10), (55, "off", 5), (11, "off", 1), (9, "selective", 1), (1, "full", 1),
        (0, "full", 1),
    ],
)  # fmt: skip
def test_auto_takes_as_little_checkpointing_and_as_few_parts_as_fit(room: float, level: str, samples: int) -> None:
    choice = that_fits(choices(auto(batch_size=40), 20, NEEDS.__getitem__), room)
    assert (choice.level, choice.samples, choice.samples * choice.parts) == (level, samples, 20)


def test_no_more_are_taken_at_once_than_keep_a_gpu_busy() -> None:
    found = choices(auto(batch_size=40), 40, NEEDS.__getitem__, most_at_once(2560))
    assert found[0].samples == 10 and found[-1].samples == 1
    assert most_at_once(10**6) == 1


def test_what_is_not_auto_stays_as_it_was_told() -> None:
    fixed = small_config(gradient_checkpointing="selective", gradient_accumulation=2)
    assert choices(fixed, 4, NEEDS.__getitem__) == [Choice(level="selective", samples=2, parts=2, needs=12.0)]
    assert from_json(TrainConfig, to_json(auto())) == auto()
    with pytest.raises(UserError, match="gradient_accumulation is 0, but must be at least 1"):
        small_config(gradient_accumulation=0)


def test_what_does_not_fit_when_it_is_tried_gives_way_to_what_needs_less() -> None:
    found = choices(auto(batch_size=4), 4, NEEDS.__getitem__)
    tried: list[tuple[str, int]] = []

    def runs(one: Choice) -> bool | None:
        tried.append((one.level, one.samples))
        return None if one.needs > 7 else True

    choice, trusts = fitting.first_that_runs(found, runs)
    assert (choice.level, choice.samples, trusts) == ("selective", 1, True)
    assert tried == [("off", 4), ("off", 2), ("off", 1), ("selective", 1)], "nothing that needs more is tried after"
    with pytest.raises(UserError, match="does not suffice for full checkpointing, 1 sample at once"):
        fitting.first_that_runs(found, lambda one: None)


class Crowded(TwoFrameTask):
    """Of which more than two samples at once do not fit, whatever was counted."""

    asked: ClassVar[list[int]] = []

    def example(self, size: int, count: int, first: int = 0) -> torch.Tensor:
        self.asked.append(count)
        if count > 2:
            raise torch.OutOfMemoryError
        return super().example(size, count, first)


def test_memory_decides_and_what_was_chosen_is_said_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_in(tmp_path, auto(batch_size=8))
    task.__class__ = Crowded
    Crowded.asked.clear()
    before = {name: value.clone() for name, value in task.tensors().items()}
    allowed = choices(task.config, 8, lambda level: GIB * NEEDS[level])
    fitted = fitting.fit_in(task, allowed, False, fitting.Memory(free=64 * GIB, total=80 * GIB))
    assert (fitted.choice.level, fitted.choice.samples, len(task.parts)) == ("off", 2, 4)
    assert [count for count in Crowded.asked if count > 1] == [4, 2], "8 need more than there is, 4 ran out of memory"
    said = " ".join(capsys.readouterr().err.split())
    assert "no checkpointing, 2 samples at once, blocks as written: needs 36.0 of 80.0 GiB" in said
    assert "(no checkpointing, 8 samples at once: 96.0)" in said
    assert all(torch.equal(task.tensors()[name], value) for name, value in before.items())
    assert all(one.grad is None for one in task.adapter.parameters.values())
    assert fitted.attention.given[0].batch == 2


def test_on_a_cpu_auto_is_what_it_was_bit_for_bit(tmp_path: Path) -> None:
    plain, chosen = task_in(tmp_path, small_config()), task_in(tmp_path, auto())
    fitted = fitting.fit(chosen, 4)
    assert (fitted.choice.level, fitted.choice.parts, fitted.compiled) == ("off", 1, False)
    for step in range(2):
        plain.train_step(step)
        chosen.train_step(step)
    for name, value in plain.tensors().items():
        assert torch.equal(chosen.tensors()[name], value), name


def test_blocks_are_compiled_on_gpus_in_mixed_precision_and_wherever_that_is_asked_for() -> None:
    low = small_config(mixed_precision="bf16")
    assert is_compiled(low, on_gpu=True) and not is_compiled(low, on_gpu=False)
    assert not is_compiled(small_config(), on_gpu=True)
    assert is_compiled(small_config(compile="on"), on_gpu=False)
    assert not is_compiled(small_config(mixed_precision="bf16", compile="off"), on_gpu=True)


@pytest.mark.parametrize("base", [tiny.dev, tiny.sd3])
def test_attention_is_tried_in_the_shapes_of_the_run(base: Any, tmp_path: Path) -> None:
    task = task_in(tmp_path, small_config(base=base(), mixed_precision="bf16"))
    choice = Choice(level="off", samples=3, parts=1, needs=0)
    apart = fitting.attention_of(task, choice)
    image, text = 2 * 4 * 4, tiny.TEXT_TOKENS
    whole = Attended(3, 2, image + text, image + text, 16)
    if base is tiny.sd3:  # CLIP's words stand before T5's, and some layers see the image alone
        assert Attended(3, 2, image, image, 16) in apart.given and len(apart.given) == 2
    else:
        assert apart.given == (whole,)
    assert apart.dtype == "bfloat16" and apart.backward


def test_examples_in_parts_are_the_examples_at_once_and_nothing_is_trained(tmp_path: Path) -> None:
    task = task_in(tmp_path, small_config())
    before = {name: value.clone() for name, value in task.tensors().items()}
    loss, gradients = fitting._written(task, 0, 3)
    with torch.no_grad():
        torch.testing.assert_close(task.example(0, 3), loss)
    assert len(gradients) == len(task.adapter.parameters)
    assert all(torch.equal(task.tensors()[name], value) for name, value in before.items())
    assert all(one.grad is None for one in task.adapter.parameters.values())


@pytest.fixture(scope="module")
def compiled_task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoFrameTask]:
    """With selective checkpointing within the compiled blocks, compared with blocks as they are written."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSD_CACHE", str(folder / "cache"))
        task = task_in(folder, small_config(rank=8, lora_targets="attention", gradient_checkpointing="selective"))
        shake(task)
        torch._dynamo.reset()  # of what other tests compiled of the same code
        choice, before = Choice(level="selective", samples=4, parts=1, needs=0), graphs_made()
        assert fitting.compile_trusted(task, choice, backend="aot_eager")
        assert 2 <= graphs_made() - before <= 4, "all blocks of a kind share what is compiled"
        yield task


def test_steps_sheets_and_held_out_losses_compile_nothing_more(compiled_task: TwoFrameTask) -> None:
    task, made = compiled_task, graphs_made()
    assert compiled.is_compiled(task.backbone)
    for step in range(3):
        task.train_step(step)
    task.evaluate(3)
    tensors = {name: value.clone() for name, value in task.tensors().items()}
    task.restore(tensors)
    task.train_step(3)
    assert task.operations() > 0
    assert graphs_made() == made


def test_compiled_blocks_whose_gradients_differ_are_not_used_and_said(
    compiled_task: TwoFrameTask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    choice, task = Choice(level="off", samples=2, parts=2, needs=0), compiled_task
    right = fitting.compile_and_checkpoint

    def wrong(backbone: Any, level: Any, **_: Any) -> None:
        right(backbone, level, backend="eager")
        for block in backbone.blocks:
            forward = block.forward
            block.forward = lambda *args, _forward=forward, **named: _skewed(_forward(*args, **named))

    monkeypatch.setattr(fitting, "compile_and_checkpoint", wrong)
    assert not fitting.compile_trusted(task, choice)
    assert not compiled.is_compiled(task.backbone)
    said = " ".join(capsys.readouterr().err.split())
    assert "blocks are not compiled: their loss is" in said and "gradients differ by nan" in said


def _skewed(found: Any) -> Any:
    for one in found:
        if one.requires_grad:
            one.register_hook(lambda gradient: gradient * float("nan"))
    return found


class Waits(TorchDispatchMode):
    """Counts how often the program waits for a value, as it would on a GPU."""

    times = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_waits_for_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_in(tmp_path, small_config(optimizer="adamw"))
    monkeypatch.setattr(task.optimizer.adamw, "step", lambda: None)  # on a CPU it reads its own counters
    with Waits() as waits:
        task.train_step(0)
    assert waits.times == 0


@pytest.mark.parametrize("with_matrices", [False, True])
def test_the_norm_of_gradients_is_taken_once_and_clips_as_before(with_matrices: bool) -> None:
    def trained() -> MuonAndAdamW:
        torch.manual_seed(0)
        names = () if with_matrices else ("",)
        return MuonAndAdamW({"m": torch.nn.Linear(8, 8)}, adamw_names=names)

    one, other = trained(), trained()
    for optimizer in (one, other):
        for number, p in enumerate((*optimizer.matrices, *optimizer.rest)):
            p.grad = torch.full_like(p, 3.0 + number)
    kept = [p.grad.clone() for p in one.rest if p.grad is not None]
    other_norm = torch.nn.utils.get_total_norm([p.grad for p in (*other.matrices, *other.rest) if p.grad is not None])
    torch.nn.utils.clip_grad_norm_(other.rest, 1.0)
    clipped = [p.grad.clone() for p in other.rest if p.grad is not None]
    seen: list[torch.Tensor] = []
    assert one.adamw is not None
    one.adamw.step = lambda: seen.extend(p.grad.clone() for p in one.rest)  # pyright: ignore
    assert torch.equal(one.update(1.0), other_norm)
    assert all(torch.equal(a, b) for a, b in zip(seen, clipped, strict=True))
    assert not torch.equal(seen[0], kept[0])


def test_adamw_in_eight_bits_learns_and_its_checkpoint_is_exact(tmp_path: Path) -> None:
    config = small_config(optimizer="adamw8bit", rank=64, full=True, ema_decay=0.0)
    task, resumed = task_in(tmp_path / "a", config), task_in(tmp_path / "b", config)
    with torch.compiler.set_stance("force_eager"):  # torchao compiles a step for each shape
        for step in range(2):
            task.train_step(step)
        tensors = {name: value.clone() for name, value in task.tensors().items()}
        codes = [name for name in tensors if name.endswith(".codes")]
        assert codes and all(tensors[name].dtype == torch.uint8 for name in codes)
        resumed.restore(tensors)
        for one in (task, resumed):
            one.train_step(2)
    after = resumed.tensors()
    assert all(torch.equal(after[name], value) for name, value in task.tensors().items())
    assert not torch.equal(after["weights.x_embedder.weight"], tensors["weights.x_embedder.weight"])


def test_eight_bits_without_the_library_say_which_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UserError, match=r"pip install 'dsd\[speed\]'"):
        task_in(tmp_path, small_config(optimizer="adamw8bit"))


MEASURED = (
    ("off", False, 1, 395, 51.7), ("off", False, 2, 297, 65.5), ("full", False, 1, 612, 41.9),
    ("full", False, 4, 385, 41.9), ("full", False, 8, 374, 46.1), ("off", True, 1, 227, 48.8),
    ("off", True, 2, 213, 59.9),
)  # fmt: skip
"""Checkpointing, compiled, samples at once, ms a sample and GiB: one H200, FLUX.1-dev's shape with averaged weights."""


@pytest.mark.parametrize(("level", "compiles", "samples", "milliseconds", "gib"), MEASURED)
def test_the_plan_is_within_a_fifth_of_what_was_measured(
    level: Any, compiles: bool, samples: int, milliseconds: float, gib: float, costs: dict[Any, Cost]
) -> None:
    found = costs[samples]
    [one] = [one for one in found.others if (one.choice.level, one.compiled) == (level, compiles)]
    assert one.choice.samples == samples
    assert 1000 * one.seconds == pytest.approx(milliseconds, rel=0.2)
    assert one.memory / GIB == pytest.approx(gib, rel=0.2)


@pytest.fixture(scope="module")
def costs() -> dict[int, Cost]:
    config = replace(flux_dev().train, ema_decay=0.999, batch_size=8)
    found = Counted(
        trained=837_980_160, weights=2.0 * 11_901_408_320, autoencoder=0.0, text=0.0,
        operations={"off": 89.04e12, "selective": 104.7e12, "full": 129.7e12},
        activations=Activations(blocks=57, width=3072, tokens=2560, value_bytes=2),
    )  # fmt: skip
    device = Device(speed=0.44 * 989e12, memory=139 * GIB)
    return {
        samples: training_cost(replace(config, gradient_accumulation=8 // samples), found, devices=1, device=device)
        for samples in (1, 2, 4, 8)
    }


def test_a_batch_that_does_not_divide_among_devices_is_refused_by_the_plan_as_by_training() -> None:
    config = small_config(batch_size=8, gradient_accumulation=2)
    config.require_divisible(4)
    with pytest.raises(UserError, match="batch_size 8 does not divide among 3 processes x 2"):
        config.require_divisible(3)


def test_a_sharded_run_is_planned_by_its_share(costs: dict[int, Cost]) -> None:
    found = Counted(
        trained=1000, weights=0.0, autoencoder=0.0, text=0.0,
        operations={"off": 1.0, "selective": 1.0, "full": 1.0},
        activations=Activations(blocks=10, width=1, tokens=1, value_bytes=4),
    )  # fmt: skip
    held = {}
    for parallel in ("ddp", "fsdp"):
        config = small_config(batch_size=8, optimizer="adamw", parallel=parallel)
        memory = training_cost(config, found, devices=8, device=Device(speed=1.0)).memory
        held[parallel] = memory["trained weights, gradients, optimizer"]
    assert held["fsdp"] == held["ddp"] / 8


def test_an_example_that_memory_and_kernels_are_tried_on_sees_its_reference(tmp_path: Path) -> None:
    task = task_in(tmp_path, small_config(image_dropout=1.0))
    kept = task_in(tmp_path / "other", small_config(image_dropout=0.0))
    assert torch.equal(task.example(0, 2), kept.example(0, 2))
