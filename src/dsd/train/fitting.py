"""How a run works through its batches on the device that it found: chosen by its free memory, tried, and said.

Nothing of this is trained with: both passes are made on a few samples, and their gradients are forgotten.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from dsd.attention import TRAINS, Apart, Seen, right_attention
from dsd.backbones.stock import StockBackbone
from dsd.errors import UserError, cut, reason_of
from dsd.generate.compiled import Kept, cache_folder, key, load_cache
from dsd.log import console
from dsd.train.adapter import Adapter
from dsd.train.checkpointing import checkpoint_gradients, compile_and_checkpoint
from dsd.train.config import TrainConfig
from dsd.train.cost import USABLE, Activations, Choice, choices, is_compiled, most_at_once, state_bytes, that_fits
from dsd.train.parallel import is_sharded

_TOLERANCE = {"bf16": 0.1, "no": 1e-3}
"""How far gradients of compiled blocks may be from those of blocks as they are written, as a share of their norm."""
GIB = 2**30


class Passes(Protocol):
    """What is fitted: a task that can make both passes on some samples without training on them."""

    @property
    def config(self) -> TrainConfig: ...

    @property
    def backbone(self) -> StockBackbone: ...

    @property
    def adapter(self) -> Adapter: ...

    @property
    def accelerator(self) -> Accelerator: ...

    def sizes(self) -> dict[int, int]:
        """Numbers of the sizes that are trained on, and the image tokens of a sample of each."""
        ...

    def example(self, size: int, count: int, first: int = 0) -> Tensor:
        """The loss on samples of a size, from one on; the same whenever it is asked for."""
        ...

    def work_in(self, parts: int) -> None:
        """Sets in how many parts this process works through its share of a batch."""
        ...


@dataclass(frozen=True)
class Memory:
    """A GPU's memory in bytes.

    Attributes:
        free: that this process can still take.
        total: that there is.
    """

    free: float
    total: float

    @staticmethod
    def of(device: torch.device) -> Memory:
        """As it is now."""
        free, total = torch.cuda.mem_get_info(device)
        return Memory(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total)


@dataclass(frozen=True)
class Fit:
    """What was chosen.

    Attributes:
        choice: how a share is worked through.
        compiled: whether blocks are compiled.
        attention: what attention has to be right for.
    """

    choice: Choice
    compiled: bool
    attention: Apart


def fit(task: Passes, share: int) -> Fit:
    """Chooses how a task works through its share of a batch, tries that on a GPU, and sets it.

    Args:
        task: built; nothing has been trained yet.
        share: samples of a step that this process works through.

    Raises:
        UserError: not even what needs least memory fits.
    """
    config, device = task.config, task.accelerator.device
    on_gpu = device.type == "cuda"
    compiles = is_compiled(config, on_gpu=on_gpu)
    kept = _activations(task)
    most = most_at_once(kept.tokens) if on_gpu else None
    allowed = choices(config, share, lambda level: kept.of(level, compiled=compiles), most)
    if not on_gpu:
        choice = allowed[0]
        checkpoint_gradients(task.backbone, choice.level)
        trusts = compiles and compile_trusted(task, choice)
        task.work_in(choice.parts)
        return Fit(choice, trusts, TRAINS)
    if is_sharded(task.backbone.transformer) or config.offload != "none":
        # A pass that memory does not suffice for would leave weights under way.
        return fit_by_count(task, allowed, Memory.of(device))
    return fit_in(task, allowed, compiles, Memory.of(device))


def fit_in(task: Passes, allowed: list[Choice], compiles: bool, memory: Memory) -> Fit:
    """Chooses what fits into memory, tries it, steps down where it does not fit after all, and says what it is.

    Args:
        task: built; nothing has been trained yet.
        allowed: to choose from, the quickest first.
        compiles: whether blocks are to be compiled.
        memory: that there is.
    """
    reserve = state_bytes(task.config, sum(one.numel() for one in task.adapter.parameters.values()))
    start = _most(task, allowed.index(that_fits(allowed, USABLE * memory.free - reserve)))
    choice, trusts = first_that_runs(allowed[start:], lambda one: _tried(task, one, compiles, reserve))
    task.work_in(choice.parts)

    def needs(one: Choice) -> str:
        return f"{(memory.total - memory.free + reserve + one.needs) / GIB:.1f}"

    words = f"{choice.said}, blocks {'compiled' if trusts else 'as written'}: "
    words += f"needs {needs(choice)} of {memory.total / GIB:.1f} GiB"
    if choice is not allowed[0]:
        words += f" ({allowed[0].said}: {needs(allowed[0])})"
    _say(task, words)
    return Fit(choice, trusts, attention_of(task, choice))


def fit_by_count(task: Passes, allowed: list[Choice], memory: Memory) -> Fit:
    """Chooses by count alone what fits into memory beside weights that come and go, and says what it is.

    Args:
        task: built; its blocks are sharded or streamed.
        allowed: to choose from, the quickest first.
        memory: that there is.
    """
    whole = state_bytes(task.config, sum(one.numel() for one in task.adapter.parameters.values()))
    blocks = [sum(one.numel() * one.element_size() for one in block.parameters()) for block in task.backbone.blocks]
    reserve = whole / task.accelerator.num_processes + 2 * max(blocks)
    choice = allowed[_most(task, allowed.index(that_fits(allowed, USABLE * memory.free - reserve)))]
    checkpoint_gradients(task.backbone, choice.level)
    task.work_in(choice.parts)
    _say(task, f"{choice.said}, blocks as written: needs {choice.needs / GIB:.1f} GiB beside the weights")
    return Fit(choice, False, attention_of(task, choice))


def first_that_runs(found: Sequence[Choice], runs: Callable[[Choice], bool | None]) -> tuple[Choice, bool]:
    """The first choice that runs in the memory there is; each later one that is tried needs less.

    Args:
        found: to try, in order.
        runs: None where the memory does not suffice, else whether compiled blocks are to be trusted.

    Raises:
        UserError: none does.
    """
    needs = float("inf")
    for one in found:
        if one.needs >= needs:
            continue
        trusts = runs(one)
        if trusts is not None:
            return one, trusts
        needs = one.needs
    least = min(found, key=lambda one: one.needs)
    raise UserError(
        f"this GPU's free memory does not suffice for {least.said}, the least of what was tried; give "
        "--train.gradient-checkpointing auto and --train.gradient-accumulation auto, a smaller rank, smaller frames, "
        "or a larger GPU"
    )


def compile_trusted(task: Passes, choice: Choice, **options: object) -> bool:
    """Compiles blocks and compares what they give with blocks as they are written, for each size; says what is wrong.

    Args:
        task: whose blocks they are; they stay compiled where they are right.
        choice: how they will be used.
        **options: see `dsd.train.compiled.compile_blocks`.
    """
    folder, device = cache_folder(), task.accelerator.device
    config = task.config
    facts = ("training", config.rank, config.lora_targets, config.full, config.mixed_precision, config.base_precision,
             choice.level)  # fmt: skip
    path = folder / f"{key(task.backbone.transformer, device, *facts)}.compiled"
    load_cache(path)
    wanted = {size: _written(task, size, choice.samples) for size in task.sizes()}
    compile_and_checkpoint(task.backbone, choice.level, **options)
    for size, (loss, gradients) in wanted.items():
        wrong = _wrong(task, size, choice.samples, loss, gradients)
        if wrong:
            _say(task, f"blocks are not compiled: {wrong}")
            checkpoint_gradients(task.backbone, choice.level)
            return False
    Kept(path).save()
    return True


def _written(task: Passes, size: int, count: int) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of blocks as they are written, a sample at a time with full checkpointing: what fits best."""
    checkpoint_gradients(task.backbone, "full")
    with _forgotten(task):
        losses = []
        for number in range(count):
            loss = task.example(size, 1, number)
            (loss / count).backward()
            losses.append(loss.detach())
        return torch.stack(losses).mean(), [one.cpu() for one in _gradients(task)]


def _wrong(task: Passes, size: int, count: int, wanted: Tensor, gradients: list[Tensor]) -> str | None:
    """What is wrong with compiled blocks, if anything is, in words."""
    allowed = _TOLERANCE[task.config.mixed_precision]
    with _forgotten(task):
        try:
            loss = task.example(size, count)
            loss.backward()
            square = torch.zeros((), dtype=torch.float64)
            for one, other in zip(_gradients(task), gradients, strict=True):
                square += (one.cpu() - other).double().square().sum()
            norm = torch.stack([one.double().norm() for one in gradients]).norm()
            error = float(square.sqrt() / norm) if norm else float(square.sqrt())
            difference = float((loss.detach() - wanted).abs() / wanted.abs())
        except TorchDynamoException as reason:
            return f"the compiler fails ({cut(reason_of(reason))})"
        except torch.AcceleratorError as reason:  # after which a GPU computes nothing more in this process
            raise UserError(
                f"compiled blocks crash on this GPU ({cut(reason_of(reason))}); give --train.compile off"
            ) from reason
    if not (error <= allowed and difference <= allowed):  # NaN is not
        return (
            f"their loss is {float(loss.detach()):.5g} (as written {float(wanted):.5g}), and their gradients differ by "
            f"{error:.2g} of their norm"
        )
    return None


def _tried(task: Passes, choice: Choice, compiles: bool, reserve: float) -> bool | None:
    """Whether compiled blocks are right, with the memory that a step takes; None where that does not suffice.

    Processes that train together come to the same answer, and ask each other at the same places.
    """
    with right_attention(task.accelerator.device, attention_of(task, choice)):
        checkpoint_gradients(task.backbone, choice.level)
        if compiles:
            trusts = _in_memory(task, reserve, lambda: compile_trusted(task, choice))
            if _most(task, int(trusts is None)):
                return None
            if not _most(task, int(not trusts)):
                return True
            checkpoint_gradients(task.backbone, choice.level)
        fits = _in_memory(task, reserve, lambda: _pass(task, choice))
        return None if _most(task, int(fits is None)) else False


def _in_memory(task: Passes, reserve: float, work: Callable[[], bool]) -> bool | None:
    """What some work gives, with the memory taken that a step takes beside it; None where that does not suffice."""
    gradients = sum(one.numel() for one in task.adapter.parameters.values()) * 4
    held, gave = None, None
    try:
        held = torch.empty(int(max(0, reserve - gradients)), dtype=torch.uint8, device=task.accelerator.device)
        gave = work()
    except torch.OutOfMemoryError:
        gave = None
    del held
    if gave is None:
        gc.collect()
        if task.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
    return gave


def _pass(task: Passes, choice: Choice) -> bool:
    """Both passes, for each size."""
    for size in task.sizes():
        with _forgotten(task):
            task.example(size, choice.samples).backward()
    return True


def attention_of(task: Passes, choice: Choice) -> Apart:
    """What attention will be given."""
    with torch.no_grad(), Seen() as seen:
        for size in task.sizes():
            task.example(size, 1)
    given = tuple(dict.fromkeys(one.of(choice.samples) for one in seen.all))
    return Apart(
        given, "bfloat16" if task.config.mixed_precision == "bf16" else "float32", device=str(task.accelerator.device)
    )


def _activations(task: Passes) -> Activations:
    return Activations.by(task.config, task.backbone, max(task.sizes().values()))


def _gradients(task: Passes) -> list[Tensor]:
    return [one.grad if one.grad is not None else torch.zeros_like(one) for one in task.adapter.parameters.values()]


@contextmanager
def _forgotten(task: Passes) -> Iterator[None]:
    """Forgets gradients at the end."""
    try:
        yield
    finally:
        task.backbone.transformer.zero_grad()


def _most(task: Passes, value: int) -> int:
    """The largest that any of the processes has."""
    if task.accelerator.num_processes == 1:
        return value
    every = task.accelerator.gather(torch.tensor([value], device=task.accelerator.device))
    assert isinstance(every, Tensor)
    return int(every.max())


def _say(task: Passes, words: str) -> None:
    if task.accelerator.is_main_process:
        console.print(words)
