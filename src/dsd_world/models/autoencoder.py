"""The autoencoder of tiny-flux: a stock `AutoencoderKL`, f4 with 8 channels, trained on drawn panels."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from dsd.devices import batch_factor, default_device
from dsd.images import contact_sheet, to_pil
from dsd.train import checkpoint
from dsd.train.loop import learning_rate_factor, step_generator
from dsd.train.optim import MuonAndAdamW
from dsd_world.draw import draw_panels
from dsd_world.individuals import sample_individuals, sample_scenes
from dsd_world.sheets import draw_sheets

BATCH = 8 * batch_factor()  # panels, or their pixels in sheets
LATENT_CHANNELS = 8
PIXELS_PER_LATENT = 4
_KL_WEIGHT = 1e-4
_DRAWN_AT_ONCE = 32  # batches; drawing many panels together is cheaper
_HELD_PANELS, _HELD_SHEETS = 192, 48
_SHEETS_EVERY = 4  # steps; sheets have edges and gutters that no panel has


def new_autoencoder() -> AutoencoderKL:
    """A stock autoencoder with zero-initialised residual branches and a small initial posterior variance."""
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
        block_out_channels=(16, 32, 64),  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    with torch.no_grad():
        model.encoder.conv_out.weight[LATENT_CHANNELS:].zero_()
        model.encoder.conv_out.bias[LATENT_CHANNELS:].fill_(-6)  # pyright: ignore[reportOptionalSubscript]
        for module in model.modules():
            if isinstance(module, ResnetBlock2D):
                module.conv2.weight.zero_()
                module.conv2.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
    return model


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], of the mean squared error over the whole batch."""
    return 10 * math.log10(4 / F.mse_loss(a, b).item())


class AutoencoderTask:
    """Reconstruction: L1 + MSE + a small Kullback-Leibler term.

    Args:
        run: the run's folder.
        steps: optimizer steps in all.
        seed: of everything random.
        start: a trained autoencoder whose *decoder* is trained further, at half the learning rate; what was trained
            on its latents keeps them.
    """

    def __init__(self, run: Path, steps: int, seed: int = 0, start: AutoencoderKL | None = None) -> None:
        torch.manual_seed(seed)
        self.run, self.steps, self.seed = run, steps, seed
        self.device = torch.device(default_device())
        self.model = (start or new_autoencoder()).to(self.device)  # pyright: ignore[reportArgumentType]
        self.model.train()
        self.fresh = start is None
        self.model.encoder.requires_grad_(self.fresh)
        self.optimizer = MuonAndAdamW({"vae": self.model}, adamw_names=("conv_in", "conv_out"))
        held = torch.arange(_HELD_PANELS, device=self.device)
        self.held = draw_panels(sample_individuals("validation", held), sample_scenes("validation", held))
        self.held_sheets = draw_sheets("validation", torch.arange(_HELD_SHEETS, device=self.device)).images
        self.block = -1
        self.drawn, self.sheets = self.held, self.held_sheets

    def _batch(self, step: int) -> Tensor:
        block, place = divmod(step, _DRAWN_AT_ONCE)
        if block != self.block:
            numbers = torch.arange(BATCH * _DRAWN_AT_ONCE, device=self.device) + block * BATCH * _DRAWN_AT_ONCE
            self.drawn = draw_panels(sample_individuals("training", numbers), sample_scenes("training", numbers))
            self.sheets = draw_sheets("training", numbers[:: 4 * _SHEETS_EVERY]).images
            self.block = block
        if place % _SHEETS_EVERY == _SHEETS_EVERY - 1:
            return self.sheets.split(BATCH // 4)[place // _SHEETS_EVERY]
        return self.drawn[place * BATCH : (place + 1) * BATCH]

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """One step on eight fresh panels, every fourth on two sheets."""
        images = self._batch(step)
        posterior = self.model.encode(images).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        noise = torch.randn(posterior.mean.shape, generator=step_generator(self.seed, step)).to(self.device)
        restored = self.model.decode(posterior.mean + posterior.std * noise).sample  # pyright: ignore[reportAttributeAccessIssue]
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = F.l1_loss(restored, images) + F.mse_loss(restored, images) + _KL_WEIGHT * kl
        highest = 1.0 if self.fresh else 0.5
        self.optimizer.step(loss, highest * learning_rate_factor(step, self.steps))
        return {"loss": loss.detach(), "kl": kl.detach()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state."""
        return checkpoint.module_tensors(self.model, "model") | self.optimizer.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back a checkpoint."""
        checkpoint.restore_module(self.model, tensors, "model")
        self.optimizer.restore(tensors)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Images through the bottleneck, from the posterior's mean, clamped to [-1, 1]."""
        parts = [self.model.decode(self.model.encode(x).latent_dist.mean).sample for x in images.split(48)]  # pyright: ignore[reportAttributeAccessIssue]
        return torch.cat(parts).clamp(-1, 1)

    def evaluate(self, step: int) -> dict[str, float]:
        """PSNR on held-out panels and sheets; writes a contact sheet of originals over reconstructions."""
        panels, sheets = self.reconstruct(self.held), self.reconstruct(self.held_sheets)
        shown = contact_sheet([to_pil(self.held[:10]), to_pil(panels[:10])])
        shown.save(self.run / f"sheet-{step:07d}.png")
        return {"psnr_panels": psnr(panels, self.held), "psnr_sheets": psnr(sheets, self.held_sheets)}

    def score(self, figures: dict[str, float]) -> float:
        """Mean of both ratios in dB."""
        return (figures["psnr_panels"] + figures["psnr_sheets"]) / 2

    def export(self, folder: Path, card: str) -> None:
        """Writes the diffusers folder in float16, with the latents' measured mean and scale in its config."""
        if self.fresh:
            latents = torch.cat([self.model.encode(x).latent_dist.mean for x in self.held.split(48)]).detach()  # pyright: ignore[reportAttributeAccessIssue]
            self.model.register_to_config(
                shift_factor=round(latents.mean().item(), 4), scaling_factor=round(1 / latents.std().item(), 4)
            )
        self.model.register_to_config(_name_or_path="")  # else the folder it was loaded from
        self.model.half().save_pretrained(folder)
        self.model.float()
        (folder / "README.md").write_text(card, encoding="utf-8")


def build(run: Path, *, steps: int) -> AutoencoderTask:
    """The task for a run of ``steps`` steps."""
    return AutoencoderTask(run, steps)


def go_on(run: Path, *, steps: int, start: Path) -> AutoencoderTask:
    """The task that trains the decoder of a pipeline's autoencoder further."""
    vae = AutoencoderKL.from_pretrained(start, subfolder="vae", dtype=torch.float32, use_safetensors=True)
    return AutoencoderTask(run, steps, seed=1, start=vae)
