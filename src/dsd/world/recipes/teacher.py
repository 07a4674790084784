"""tiny-flux: a stock `FluxPipeline` trained as a plain text-to-image model on single panels, strips and sheets."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from dsd import flow
from dsd.backbones.flux import FluxBackbone
from dsd.backbones.protocol import Text
from dsd.errors import UserError
from dsd.files import atomic_folder
from dsd.images import contact_sheet
from dsd.log import progress
from dsd.models import resolve
from dsd.train import checkpoint
from dsd.train.loop import learning_rate_factor, step_generator
from dsd.train.optim import MuonAndAdamW
from dsd.world.captions import PANEL_TEXT_TOKENS, SHEET_TEXT_TOKENS, panel_captions
from dsd.world.draw import draw_panels
from dsd.world.individuals import Split, sample_individuals, sample_scenes
from dsd.world.recipes.autoencoder import LATENT_CHANNELS
from dsd.world.sheets import draw_sheets
from dsd.world.tokenizers import clip_tokenizer, t5_tokenizer

WIDTH, HEADS, DOUBLE_BLOCKS, SINGLE_BLOCKS = 128, 4, 2, 5
TEXT_WIDTH = 64
TEXT_DROPOUT = 0.1
EMA_DECAY = 0.999
_ADAMW = ("x_embedder", "context_embedder", "proj_out", "time_text_embed", ".linear.", "shared", "embed",
          "relative_attention_bias")  # fmt: skip
AUTOENCODER = "autoencoder/model"
_FURTHER = 1 << 17  # first individual of a run that goes on from a finished model


@dataclass(frozen=True)
class Part:
    """One kind of training picture.

    Attributes:
        name: of its cache file.
        layout: rows and columns of panels.
        count: pictures in the cache.
        batch: pictures in a step.
        text_tokens: padded length of its captions.
    """

    name: str
    layout: tuple[int, int]
    count: int
    batch: int
    text_tokens: int


PANELS = Part("panels", (1, 1), 16_000, 32, PANEL_TEXT_TOKENS)
SHEETS = Part("sheets", (2, 2), 5_000, 8, SHEET_TEXT_TOKENS)
STRIPS = Part("strips", (1, 2), 3_000, 16, SHEET_TEXT_TOKENS)
CYCLE = (PANELS, SHEETS, PANELS, SHEETS, STRIPS)


def new_pipeline(vae: AutoencoderKL) -> FluxPipeline:
    """An untrained tiny FLUX around a trained autoencoder: stock classes only."""
    t5, clip = t5_tokenizer(SHEET_TEXT_TOKENS), clip_tokenizer(SHEET_TEXT_TOKENS)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip), hidden_size=TEXT_WIDTH, intermediate_size=2 * TEXT_WIDTH, projection_dim=TEXT_WIDTH,
            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=SHEET_TEXT_TOKENS,
            bos_token_id=clip.bos_token_id, eos_token_id=clip.eos_token_id, pad_token_id=clip.pad_token_id,  # pyright: ignore[reportArgumentType]
        )
    )  # fmt: skip
    text_2 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5), d_model=TEXT_WIDTH, d_kv=16, d_ff=2 * TEXT_WIDTH, num_layers=2, num_heads=4,
            dropout_rate=0.0, feed_forward_proj="gated-gelu", is_encoder_decoder=False,
        )
    )  # fmt: skip
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4 * LATENT_CHANNELS, num_layers=DOUBLE_BLOCKS, num_single_layers=SINGLE_BLOCKS,
        attention_head_dim=WIDTH // HEADS, num_attention_heads=HEADS, joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH, guidance_embeds=False, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    _initialise(transformer)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_image_seq_len=64, max_image_seq_len=256, base_shift=0.0,
        max_shift=math.log(1.5),
    )  # fmt: skip
    return FluxPipeline(scheduler, vae, text, clip, text_2, t5, transformer)


def _initialise(transformer: nn.Module) -> None:
    """Xavier matrices, zero biases, zero modulation and zero output, as diffusion transformers start (DiT)."""
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            elif "bias" in name:
                parameter.zero_()
            if ".linear.weight" in name and "norm" in name:
                parameter.zero_()
        transformer.proj_out.weight.zero_()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]


class LatentCache:
    """Latents and captions of one part, encoded once and kept in the run's folder.

    Args:
        folder: of all caches of the run.
        part: what is drawn.
        backbone: encodes the pictures.
        split: whose individuals.
        count: pictures.
        first: number of the first individual.
    """

    def __init__(
        self, folder: Path, part: Part, backbone: FluxBackbone, split: Split, count: int, first: int = 0
    ) -> None:
        path = folder / f"{part.name}-{split}"
        if not path.exists():
            _write_cache(path, part, backbone, split, torch.arange(first, first + count, device=backbone.device))
        self.latents = load_file(str(path / "latents.safetensors"))["latents"]
        self.captions = (path / "captions.txt").read_text().splitlines()


@torch.no_grad()
def _write_cache(path: Path, part: Part, backbone: FluxBackbone, split: Split, numbers: Tensor) -> None:
    latents, captions = [], []
    blocks = numbers.split(max(1, 96 // (part.layout[0] * part.layout[1])))
    for index in progress(blocks, description=f"encoding {part.name}", total=len(blocks)):
        if part.layout == (1, 1):
            individuals, scenes = sample_individuals(split, index), sample_scenes(split, index)
            images, texts = draw_panels(individuals, scenes), panel_captions(individuals, scenes)
        else:
            sheets = draw_sheets(split, index, part.layout)
            images, texts = sheets.images, sheets.captions
        latents.append(torch.cat([backbone.encode(x) for x in images.split(16)]).half().cpu())
        captions += texts
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(path) as temporary:
        save_file({"latents": torch.cat(latents)}, str(temporary / "latents.safetensors"))
        (temporary / "captions.txt").write_text("\n".join(captions) + "\n")


class TeacherTask:
    """Rectified flow on cached latents, text encoders and transformer together.

    Args:
        run: the run's folder; the autoencoder is taken from the sibling run, else from the package.
        steps: optimizer steps in all.
        seed: of everything random.
        start: a trained pipeline to go on from, at half the learning rate and on other individuals.
    """

    def __init__(self, run: Path, steps: int, seed: int = 1, start: FluxPipeline | None = None) -> None:
        folder = run.parent / AUTOENCODER
        source = folder if folder.exists() else Path(resolve("embedded:tiny-flux")) / "vae"
        if not source.exists():
            raise UserError(f"no autoencoder in {folder}: run `dsd world train autoencoder` first")
        torch.manual_seed(seed)
        self.run, self.steps, self.seed = run, steps, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        vae = AutoencoderKL.from_pretrained(source, torch_dtype=torch.float32)
        if start is None:
            self.pipeline = new_pipeline(vae).to(self.device)
        else:
            self.pipeline = start.to(self.device)
            self.pipeline.vae = vae.to(self.device)  # pyright: ignore[reportArgumentType]
        self.backbone = FluxBackbone.from_pipeline(self.pipeline)
        first = 0 if start is None else _FURTHER
        self.parts = {p.name: LatentCache(run / "cache", p, self.backbone, "training", p.count, first) for p in CYCLE}
        self.held = {
            p.name: LatentCache(run / "cache", p, self.backbone, "validation", 256 // p.layout[0] // p.layout[1])
            for p in CYCLE
        }
        self.trained = {
            "transformer": self.pipeline.transformer,
            "text_encoder": self.pipeline.text_encoder,
            "text_encoder_2": self.pipeline.text_encoder_2,
        }
        for module in self.trained.values():
            module.train().requires_grad_(True)
        self.averages = {name: copy.deepcopy(module).requires_grad_(False) for name, module in self.trained.items()}
        self.optimizer = MuonAndAdamW(
            self.trained, adamw_names=_ADAMW, muon_lr=0.015, weight_decay=0.01, betas=(0.9, 0.98)
        )
        self.highest_rate = 1.0 if start is None else 0.5

    def _loss(self, part: Part, latents: Tensor, captions: list[str], generator: torch.Generator) -> Tensor:
        sides = [side * self.backbone.pixels_per_latent for side in latents.shape[2:]]
        shift = self.backbone.resolution_shift.shift(self.backbone.tokens_per(*sides))
        sigma = flow.sample_sigmas(len(latents), "logit-normal", shift, generator).to(self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        tokens, pooled, _ = self.backbone.pipeline.encode_prompt(captions, None, max_sequence_length=part.text_tokens)
        text = Text(tokens, pooled)  # not encode_text: gradients reach the encoders  # pyright: ignore[reportArgumentType]
        velocity = self.backbone.velocity(flow.noisy_latents(latents, noise, sigma), sigma, text)
        return (velocity - flow.velocity(latents, noise)).square().mean()

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """One step on a batch of the kind whose turn it is."""
        part = CYCLE[step % len(CYCLE)]
        cache, generator = self.parts[part.name], step_generator(self.seed, step)
        rows = torch.randint(len(cache.captions), (part.batch,), generator=generator)
        dropped = torch.rand(part.batch, generator=generator) < TEXT_DROPOUT
        captions = [
            "" if drop else cache.captions[row] for row, drop in zip(rows.tolist(), dropped.tolist(), strict=True)
        ]
        loss = self._loss(part, cache.latents[rows].float().to(self.device), captions, generator)
        self.optimizer.step(loss, self.highest_rate * learning_rate_factor(step, self.steps, warmup=100))
        self._average(step)
        return {f"loss_{part.name}": loss.detach()}

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for name, module in self.trained.items():
            torch._foreach_lerp_(list(self.averages[name].parameters()), list(module.parameters()), 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, averages and optimizer state."""
        found = self.optimizer.tensors()
        for name, module in self.trained.items():
            found |= checkpoint.module_tensors(module, f"trained.{name}")
            found |= checkpoint.module_tensors(self.averages[name], f"average.{name}")
        return {k: v.clone() for k, v in found.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back a checkpoint."""
        for name, module in self.trained.items():
            checkpoint.restore_module(module, tensors, f"trained.{name}")
            checkpoint.restore_module(self.averages[name], tensors, f"average.{name}")
        self.optimizer.restore(tensors)

    def averaged_pipeline(self) -> FluxPipeline:
        """The pipeline with the averaged weights."""
        parts = {**self.pipeline.components, **self.averages}
        return FluxPipeline(**{k: v for k, v in parts.items() if k not in ("image_encoder", "feature_extractor")})

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Held-out loss of each part with the averaged weights; writes pictures of held-out captions."""
        trained, averaged = self.backbone, self.averaged_pipeline()
        self.backbone = FluxBackbone.from_pipeline(averaged)
        figures = {}
        for part in dict.fromkeys(CYCLE):
            cache, generator = self.held[part.name], step_generator(self.seed + 1, 0)
            losses = [
                self._loss(part, z.float().to(self.device), texts, generator)
                for z, texts in zip(cache.latents.split(part.batch), _chunks(cache.captions, part.batch), strict=True)
            ]
            figures[f"held_loss_{part.name}"] = float(torch.stack(losses).mean())
        self.backbone = trained
        self._write_pictures(averaged, step)
        return figures

    def _write_pictures(self, pipeline: FluxPipeline, step: int) -> None:
        pipeline.set_progress_bar_config(disable=True)
        rows = []
        for part, count, size in ((PANELS, 10, (64, 64)), (SHEETS, 5, (128, 128))):
            prompts = self.held[part.name].captions[:count]
            rows.append(
                pipeline(
                    prompts, negative_prompt=[""] * count, true_cfg_scale=2.5, height=size[0], width=size[1],
                    num_inference_steps=16, max_sequence_length=part.text_tokens,
                    generator=torch.Generator().manual_seed(0),
                ).images  # pyright: ignore[reportAttributeAccessIssue]
            )  # fmt: skip
        contact_sheet(rows).save(self.run / f"sheet-{step:07d}.png")

    def score(self, figures: dict[str, float]) -> float:
        """Less loss is better."""
        return -sum(figures.values())

    def export(self, folder: Path, card: str) -> None:
        """Writes the `FluxPipeline` folder in float16."""
        pipeline = copy.deepcopy(self.averaged_pipeline()).to(dtype=torch.float16)
        for module in (pipeline.vae, pipeline.transformer):
            module.register_to_config(_name_or_path="")  # else the folder it was loaded from
        pipeline.save_pretrained(folder)
        (folder / "README.md").write_text(card)


def _chunks(values: list[str], size: int) -> list[list[str]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def build(run: Path, *, steps: int) -> TeacherTask:
    """The task for a run of ``steps`` steps."""
    return TeacherTask(run, steps)


def go_on(run: Path, *, steps: int, start: Path) -> TeacherTask:
    """The task that trains a finished pipeline further."""
    pipeline = FluxPipeline.from_pretrained(start, torch_dtype=torch.float32, use_safetensors=True)
    return TeacherTask(run, steps, seed=2, start=pipeline)
