"""Muon for matrices with AdamW for the rest, as one optimizer pair that a training step drives.

`torch.optim.Muon` does not serve: it takes matrices one at a time, in bfloat16 (on CPUs ten times slower for small
ones, ten to thirty times for all where there is no bfloat16), and no convolutions; here those of a shape are a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dsd.train import checkpoint, eight_bits


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices by the quintic Newton-Schulz iteration.

    Args:
        matrices: ``(batch, rows, columns)``.
        iterations: of Jordan et al. 2024 (Muon), whose coefficients these are.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = x.size(1) > x.size(2)
    x = x.mT if tall else x
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), over all parameters of at least two dimensions.

    Args:
        parameters: matrices or convolution kernels.
        lr: step length; an update has a spectral norm of about 1 times ``sqrt(max(1, rows / columns))``.
        momentum: Nesterov momentum.
        weight_decay: decoupled.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Takes one step along the orthogonalised momentum."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[tuple(p.flatten(1).shape)].append(p)
            for (rows, columns), parameters in by_shape.items():
                self._step_shape(group, parameters, max(1.0, rows / columns) ** 0.5)

    def _step_shape(self, group: dict, parameters: list[Tensor], scale: float) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        update = orthogonalised(torch.stack([u.flatten(1) for u in ahead])) * scale
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(
            parameters, [u.view_as(p) for u, p in zip(update, parameters, strict=True)], alpha=-group["lr"]
        )


class MuonAndAdamW:
    """Muon on the matrices of a model and AdamW on everything else, with one learning-rate factor for both.

    Args:
        modules: whose trainable parameters are optimised, by name (the names order the state).
        adamw_names: substrings of parameter names that go to AdamW though they are matrices (embeddings, modulation,
            input and output layers).
        muon_lr, adamw_lr: learning rates at factor 1.
        weight_decay: of Muon's matrices.
        adamw_weight_decay: of AdamW's parameters.
        betas: of AdamW.
        clip: norm that AdamW's gradients are clipped to (Muon's updates have a norm of their own).
        in_eight_bits: whether AdamW's state takes a byte a value.

    Raises:
        UserError: it shall be in eight bits, and what does that is not installed.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        *,
        adamw_names: tuple[str, ...] = (),
        muon_lr: float = 0.02,
        adamw_lr: float = 2e-3,
        weight_decay: float = 0.0,
        adamw_weight_decay: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        clip: float = 1.0,
        in_eight_bits: bool = False,
    ) -> None:
        named = [(f"{m}.{n}", p) for m, module in modules.items() for n, p in module.named_parameters()]
        trainable = [(n, p) for n, p in named if p.requires_grad]
        is_matrix = {n: p.ndim >= 2 and not any(word in n for word in adamw_names) for n, p in trainable}
        self.rest = [p for n, p in trainable if not is_matrix[n]]
        self.matrices = [p for n, p in trainable if is_matrix[n]]
        self.muon_lr, self.adamw_lr, self.clip = muon_lr, adamw_lr, clip
        self.muon = Muon(self.matrices, lr=muon_lr, weight_decay=weight_decay) if self.matrices else None
        settings: dict[str, Any] = {"lr": adamw_lr, "betas": betas, "weight_decay": adamw_weight_decay}
        self.adamw = _adamw(self.rest, settings, in_eight_bits) if self.rest else None

    def step(self, loss: Tensor, factor: float) -> Tensor:
        """Back-propagates a loss and takes a step with both learning rates times ``factor``; see `update`."""
        loss.backward()
        return self.update(factor)

    def update(self, factor: float) -> Tensor:
        """Takes a step along the gradients that have gathered, with both learning rates times ``factor``.

        Returns:
            The norm of all gradients, before those of AdamW are clipped.
        """
        matrices, rest = ([p.grad for p in part if p.grad is not None] for part in (self.matrices, self.rest))
        norm = nn.utils.get_total_norm([*matrices, *rest])
        if self.muon is not None:
            self.muon.param_groups[0]["lr"] = self.muon_lr * factor
            self.muon.step()
            self.muon.zero_grad()
        if self.adamw is not None:
            _set_rate(self.adamw, self.adamw_lr * factor)
            nn.utils.clip_grads_with_norm_(self.rest, self.clip, nn.utils.get_total_norm(rest) if matrices else norm)
            self.adamw.step()
            self.adamw.zero_grad()
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """The state of both optimizers, for a checkpoint."""
        muon = checkpoint.optimizer_tensors(self.muon, "muon") if self.muon is not None else {}
        adamw = checkpoint.optimizer_tensors(self.adamw, "adamw") if self.adamw is not None else {}
        return muon | adamw

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` returned."""
        if self.muon is not None:
            checkpoint.restore_optimizer(self.muon, tensors, "muon")
        if self.adamw is not None:
            checkpoint.restore_optimizer(self.adamw, tensors, "adamw")


def _adamw(parameters: list[nn.Parameter], settings: dict[str, Any], in_eight_bits: bool) -> torch.optim.Optimizer:
    if in_eight_bits:
        return eight_bits.adamw(parameters, **settings)
    on_gpu = all(p.is_cuda for p in parameters)
    return torch.optim.AdamW(parameters, **settings, fused=on_gpu or None)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate, which some optimizers keep in a tensor."""
    group = optimizer.param_groups[0]
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
