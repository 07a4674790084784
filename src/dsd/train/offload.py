"""A frozen base whose blocks stay in the memory of the CPU and come to the device one after the other, to train on.

torch's FSDP2 does it, in a group of one process: a block comes while the one before it computes, in the forward pass
and again in the backward pass, and goes when it is done. Layer hooks made for drawing do not serve: in the backward
pass, where blocks are computed again, they bring blocks back and let none go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

from dsd.backbones.stock import StockBackbone
from dsd.errors import UserError
from dsd.train.config import TrainConfig

_AT_ONCE = 3
"""Blocks on the device: the one that computes, the next on its way, the last one not yet given back."""


def require_alone(config: TrainConfig, processes: int) -> None:
    """Makes sure that blocks are streamed in one process alone.

    Raises:
        UserError: there are several.
    """
    if config.offload != "none" and processes > 1:
        raise UserError(
            f"train.offload {config.offload} streams blocks in a single process, but {processes} train together; "
            "give none, or start one process"
        )


@contextmanager
def alone(config: TrainConfig) -> Iterator[None]:
    """The group of one process that blocks are streamed in; nothing where they are not.

    Args:
        config: of the run.
    """
    if config.offload == "none" or distributed.is_initialized():  # a launcher of one process has made it
        yield
        return
    distributed.init_process_group(store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def stream_blocks(backbone: StockBackbone, trained: Iterable[nn.Parameter], device: torch.device) -> None:
    """Leaves what is frozen of a transformer's blocks on the CPU, to be streamed, and moves all else to the device.

    Args:
        backbone: on the CPU, with its adapter attached.
        trained: parameters that stay on the device, the optimizer's.
        device: where it trains.
    """
    blocks, stays = backbone.blocks, set(trained)
    streamed = {parameter for block in blocks for parameter in block.parameters()} - stays
    for part in backbone.pipeline.components.values():
        if isinstance(part, nn.Module):
            _move(part, device, streamed)
    outside = {parameter for parameter in backbone.transformer.parameters() if parameter not in streamed}
    mesh, policy = init_device_mesh(device.type, (1,)), CPUOffloadPolicy(pin_memory=device.type == "cuda")
    for module in (*blocks, backbone.transformer):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, offload_policy=policy, ignored_params=outside)


def streamed_bytes(backbone: StockBackbone, each: int) -> float:
    """What the weights of a transformer that is not trained take on the device, by count, where blocks are streamed.

    Args:
        backbone: with its adapter attached; may be on the meta device.
        each: bytes of a weight.
    """
    blocks = [_frozen(block) for block in backbone.blocks]
    return float(each * (_frozen(backbone.transformer) - sum(blocks) + min(sum(blocks), _AT_ONCE * max(blocks))))


def _frozen(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad)


def _move(part: nn.Module, device: torch.device, but: set[nn.Parameter]) -> None:
    for tensor in (*part.parameters(), *part.buffers()):
        if tensor not in but:
            tensor.data = tensor.data.to(device)
