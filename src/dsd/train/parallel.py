"""What processes that train together hold of a model, and how their gradients become one.

``ddp``: each process holds the whole model; gradients are averaged while the backward pass still runs (torch's
`DistributedDataParallel`). ``fsdp``: each holds a part of the rows of every weight, frozen and trained (torch's
`fully_shard`, FSDP2); a block's weights are gathered when it is their turn, and its gradients are averaged into shards.
Both give the mean over the whole batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from dsd.backbones.stock import StockBackbone
from dsd.data.latents import Samples
from dsd.errors import UserError, cut
from dsd.log import console
from dsd.train.adapter import Adapter
from dsd.train.compiled import as_written
from dsd.train.config import TrainConfig
from dsd.train.step import Draw, Objective, losses
from dsd.train.stopping import is_first, is_group, of_all, place


def require_alike(of: Mapping[str, str]) -> None:
    """Makes sure that all processes train the same.

    Args:
        of: what decides the run, by name.

    Raises:
        UserError: they do not, as when machines have other data or another base under the same name.
    """
    for number, other in enumerate(of_all(dict(of))):
        for name, value in other.items():
            if of.get(name) != value:
                raise UserError(
                    f"process {number} has {name} = {cut(value)}, where process {place()[0]} has "
                    f"{cut(str(of.get(name)))}; give all processes the same settings, data and base"
                )


Model = Callable[[Objective, Samples, Draw], dict[str, Tensor]]


def is_to_be_sharded(config: TrainConfig) -> bool:
    """Whether several processes are to hold shards; one alone holds everything."""
    return is_group() and config.parallel == "fsdp"


def is_sharded(module: nn.Module) -> bool:
    """Whether a module's weights are shards, of which other processes hold the rest."""
    return is_group() and isinstance(module, FSDPModule)


def shard(backbone: StockBackbone, adapter: Adapter, accelerator: Accelerator) -> Adapter:
    """Leaves each process its shards of a transformer, on its device; the transformer stays the same object.

    Args:
        backbone: with its adapter attached; its transformer may still be on the CPU.
        adapter: what is trained of it.
        accelerator: device and processes.

    Returns:
        The adapter, whose parameters are shards now.

    Raises:
        UserError: the base is quantised.
    """
    transformer = backbone.transformer
    for name, parameter in transformer.named_parameters():
        if not parameter.is_floating_point() or type(parameter.data) is not Tensor:
            raise UserError(
                f"train.parallel is 'fsdp', but {name} is quantised ({parameter.dtype}), and fsdp shards plain numbers "
                "only; give train.parallel ddp, or a base that is not quantised"
            )
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in backbone.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(transformer, mesh=mesh, reshard_after_forward=True)  # a pass without gradients leaves no old weights
    for name, part in backbone.pipeline.components.items():
        if name != "transformer" and isinstance(part, nn.Module):
            part.to(accelerator.device)
    parameters = dict(transformer.named_parameters())
    return replace(adapter, parameters={name: parameters[name] for name in adapter.parameters})


def gathered(backbone: StockBackbone) -> nn.Module:
    """A transformer whose weights are whole, in the first process; all that hold shards of it have to ask."""
    transformer = backbone.transformer
    if not is_sharded(transformer):
        return transformer
    weights = get_model_state_dict(transformer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    with torch.device("meta"):
        empty = backbone.transformer_class().from_config(transformer.config)
    if is_first():
        empty.load_state_dict(weights, assign=True)
    return empty


class Averaged:
    """The losses of a backbone, whose backward pass leaves gradients that are means over all processes.

    Args:
        backbone: with its adapter attached, and sharded if it is to be.
        example: losses by a model, called as `losses` is, on a sample that is not trained on.
    """

    def __init__(self, backbone: StockBackbone, example: Callable[[Model], Tensor]) -> None:
        self._backbone, self._example = backbone, example
        self._replicates = is_group() and not is_sharded(backbone.transformer)

    def __call__(self, objective: Objective, samples: Samples, draw: Draw) -> dict[str, Tensor]:
        """`dsd.train.step.losses`; to be called, and followed by the backward pass, within `part`."""
        model = self._replicated if self._replicates else partial(losses, self._backbone)
        return model(objective, samples, draw)

    def part(self, *, last: bool) -> AbstractContextManager[object]:
        """Around a part of a process's share of a batch, forward and backward: gradients are averaged in the last.

        Those of shards are averaged in each part, so that no process holds whole gradients.
        """
        return self._replicated.no_sync() if self._replicates and not last else nullcontext()

    @cached_property
    def _replicated(self) -> DistributedDataParallel:
        """Sums gradients in the order in which they come, as it finds in its first pass: one that is not trained on,
        so that the first step of a resumed run sums as an unbroken one's. Weights are equal from the start."""
        with as_written():
            self._example(partial(losses, self._backbone)).backward()
        trained = [parameter for parameter in self._backbone.transformer.parameters() if parameter.requires_grad]
        unused = any(parameter.grad is None for parameter in trained)
        self._backbone.transformer.zero_grad()
        model = DistributedDataParallel(
            _Losses(self._backbone), init_sync=False, forward_sync_buffers=False, gradient_as_bucket_view=True,
            find_unused_parameters=unused,
        )  # fmt: skip
        with as_written():  # what is compiled is compiled for the sizes of training alone
            self._example(model).backward()
        self._backbone.transformer.zero_grad()
        return model


class _Losses(nn.Module):
    """The losses as a module, as `DistributedDataParallel` wants them; the transformer itself stays as it is."""

    def __init__(self, backbone: StockBackbone) -> None:
        super().__init__()
        self.transformer = backbone.transformer
        self._backbone = backbone

    def forward(self, objective: Objective, samples: Samples, draw: Draw) -> dict[str, Tensor]:
        return losses(self._backbone, objective, samples, draw)


@contextmanager
def one_voice() -> Iterator[None]:
    """Silences all processes but the first."""
    before = console.quiet
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* returned a view tensor")  # which nobody writes to
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # shards that each reads for itself
        if not is_first():
            console.quiet = True
            warnings.simplefilter("ignore")
        try:
            yield
        finally:
            console.quiet = before
