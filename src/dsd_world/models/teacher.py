"""tiny-flux: a stock `FluxPipeline` trained as a plain text-to-image model on single panels, strips and sheets.

In the first half of the run a middle block is also aligned to what tiny-vlm's vision tower sees in the same place, see
`dsd_world.models.alignment`; that it should end early is found by Wang et al. 2025 (HASTE, arXiv 2505.16792).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from einops import rearrange
from jaxtyping import Bool, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from dsd import flow
from dsd.backbones.flux.backbone import FluxBackbone
from dsd.backbones.protocol import Text
from dsd.devices import by_device, default_device
from dsd.files import atomic_folder
from dsd.images import contact_sheet
from dsd.log import progress
from dsd.models import revision_of
from dsd.train import checkpoint
from dsd.train.loop import learning_rate_factor, step_generator
from dsd.train.optim import MuonAndAdamW
from dsd_world.captions import PANEL_TEXT_TOKENS, SHEET_TEXT_TOKENS, panel_captions
from dsd_world.draw import draw_panels
from dsd_world.individuals import Split, sample_individuals, sample_scenes
from dsd_world.models.alignment import Alignment, Tower, standardised
from dsd_world.models.autoencoder import LATENT_CHANNELS
from dsd_world.models.siblings import trained
from dsd_world.models.stored import rounded
from dsd_world.sheets import draw_sheets, join_panels
from dsd_world.tokenizers import clip_tokenizer, t5_tokenizer

WIDTH, HEADS, DOUBLE_BLOCKS, SINGLE_BLOCKS = 128, 4, 2, 5
TEXT_WIDTH = 64
TEXT_DROPOUT = 0.1
EMA_DECAY = 0.999
PANEL_SHIFT, SHEET_SHIFT = 2.5, 3.0
MUON_LR = 0.03
ALIGNED_BLOCK, ALIGNMENT, ALIGNED_UNTIL = 1, 1.0, 0.5
"""The single-stream block that is aligned, the weight of its loss, and the share of the run that it ends after."""
_ADAMW = ("x_embedder", "context_embedder", "transformer.proj_out", "time_text_embed", ".linear.", "shared", "embed",
          "relative_attention_bias")  # fmt: skip
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


PANELS = Part("panels", (1, 1), by_device(16_000, 120_000), by_device(32, 512), PANEL_TEXT_TOKENS)
SHEETS = Part("sheets", (2, 2), by_device(5_000, 30_000), by_device(8, 128), SHEET_TEXT_TOKENS)
STRIPS = Part("strips", (1, 2), by_device(3_000, 10_000), by_device(16, 128), SHEET_TEXT_TOKENS)
CYCLE = (PANELS, SHEETS, PANELS, SHEETS, STRIPS)
_DRAWN_AT_ONCE, _ENCODED_AT_ONCE = by_device(96, 2048), by_device(16, 256)  # panels
HELD_PANELS = 256
_SAMPLING_STEPS = 16  # of samples


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
    return FluxPipeline(new_scheduler(), vae, text, clip, text_2, t5, transformer)


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Sigmas shifted towards noise.

    Nearly all of a panel's energy lies in its mean colour, which shows through the noise up to a sigma of about 0.9:
    below it place and colours can be read off the latents, and only above it they must come from the words.
    """
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_image_seq_len=64, max_image_seq_len=256, base_shift=math.log(PANEL_SHIFT),
        max_shift=math.log(SHEET_SHIFT),
    )  # fmt: skip


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


@dataclass(frozen=True)
class TokenIds:
    """Captions as both tokenizers of FLUX read them, padded.

    Attributes:
        clip: ``(n, 48)``.
        t5: ``(n, text_tokens)``.
    """

    clip: Int[Tensor, "n length"]
    t5: Int[Tensor, "n text_tokens"]

    @classmethod
    def of(cls, pipeline: FluxPipeline, captions: list[str], text_tokens: int) -> TokenIds:
        """Tokenises captions as `FluxPipeline.encode_prompt` does, onto the pipeline's device."""
        lengths = ((pipeline.tokenizer, pipeline.tokenizer_max_length), (pipeline.tokenizer_2, text_tokens))
        clip, t5 = (
            tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
            for tokenizer, length in lengths
        )
        return cls(clip.to(pipeline.device), t5.to(pipeline.device))

    def take(self, rows: Tensor) -> TokenIds:
        """Some rows."""
        return TokenIds(self.clip[rows], self.t5[rows])

    def dropped(self, rows: Bool[Tensor, " n"], empty: TokenIds) -> TokenIds:
        """The same with the empty caption in some rows."""
        column = rows[:, None]
        return TokenIds(torch.where(column, empty.clip, self.clip), torch.where(column, empty.t5, self.t5))

    def encoded(self, pipeline: FluxPipeline) -> Text:
        """What `FluxPipeline.encode_prompt` gives of them, through which gradients reach both text encoders."""
        pooled = pipeline.text_encoder(self.clip, output_hidden_states=False).pooler_output
        return Text(pipeline.text_encoder_2(self.t5, output_hidden_states=False)[0], pooled)


class LatentCache:
    """Latents, features and captions of one part, made once, kept in the run's folder and held on the device.

    Args:
        folder: of all caches of the run.
        part: what is drawn.
        backbone: encodes the pictures.
        tower: gives what sees the panels, when it is needed.
        split: whose individuals.
        count: pictures.
        first: number of the first individual.

    Attributes:
        latents: ``(count, c, h, w)``, float16.
        features: of the tower, a place a token, ``(count, d, h / 2, w / 2)``, float16.
        captions: a text a picture.
        ids: of the captions, tokenised once.
        empty: of the empty caption.
    """

    def __init__(
        self,
        folder: Path,
        part: Part,
        backbone: FluxBackbone,
        tower: Callable[[], Tower],
        split: Split,
        count: int,
        first: int = 0,
    ) -> None:
        path = folder / f"{part.name}-{split}"
        if not path.exists():
            numbers = torch.arange(first, first + count, device=backbone.device)
            _write_cache(path, part, backbone, tower(), split, numbers)
        tensors = load_file(str(path / "tensors.safetensors"))
        self.latents, self.features = (tensors[name].to(backbone.device) for name in ("latents", "features"))
        self.captions = (path / "captions.txt").read_text(encoding="utf-8").splitlines()
        self.ids, self.empty = (
            TokenIds.of(backbone.pipeline, texts, part.text_tokens) for texts in (self.captions, [""])
        )


@torch.no_grad()
def _write_cache(path: Path, part: Part, backbone: FluxBackbone, tower: Tower, split: Split, numbers: Tensor) -> None:
    latents, features, captions = [], [], []
    rows, columns = part.layout
    blocks = numbers.split(max(1, _DRAWN_AT_ONCE // (rows * columns)))
    for index in progress(blocks, description=f"encoding {part.name}", total=len(blocks)):
        if part.layout == (1, 1):
            individuals, scenes = sample_individuals(split, index), sample_scenes(split, index)
            images, texts = draw_panels(individuals, scenes), panel_captions(individuals, scenes)
        else:
            sheets = draw_sheets(split, index, part.layout)
            images, texts = sheets.images, sheets.captions
        latents.append(torch.cat([backbone.encode(x) for x in images.split(_ENCODED_AT_ONCE)]).half().cpu())
        panels = rearrange(images, "n c (r h) (k w) -> (n r k) c h w", r=rows, k=columns)
        features.append(join_panels(tower(panels), part.layout).half().cpu())
        captions += texts
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(path) as temporary:
        tensors = {"latents": torch.cat(latents), "features": standardised(torch.cat(features).float()).half()}
        save_file(tensors, str(temporary / "tensors.safetensors"))
        (temporary / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")


class TeacherTask:
    """Rectified flow on cached latents, text encoders and transformer together.

    Args:
        run: the run's folder; autoencoder and vision tower come from the runs beside it, else from the package.
        steps: optimizer steps in all.
        seed: of everything random.
        start: a trained pipeline to go on from, on other individuals.
    """

    def __init__(self, run: Path, steps: int, seed: int = 1, start: FluxPipeline | None = None) -> None:
        torch.manual_seed(seed)
        self.run, self.steps, self.seed = run, steps, seed
        self.device = torch.device(default_device())
        vae = AutoencoderKL.from_pretrained(trained(run, "autoencoder"), dtype=torch.float32)
        if start is None:
            self.pipeline = new_pipeline(vae).to(self.device)
        else:
            self.pipeline = start.to(self.device)
            self.pipeline.vae = vae.to(self.device)  # pyright: ignore[reportArgumentType]
        self.backbone = FluxBackbone.from_pipeline(self.pipeline)
        self.parts, self.held = self._caches(first=0 if start is None else _FURTHER)
        self.trained = {
            "transformer": self.pipeline.transformer,
            "text_encoder": self.pipeline.text_encoder,
            "text_encoder_2": self.pipeline.text_encoder_2,
        }
        for module in self.trained.values():
            module.train().requires_grad_(True)
        self.averages = {name: copy.deepcopy(module).requires_grad_(False) for name, module in self.trained.items()}
        features = self.parts[PANELS.name].features.shape[1]
        block = self.pipeline.transformer.single_transformer_blocks[ALIGNED_BLOCK]
        self.alignment = Alignment(block, WIDTH, features).to(self.device)
        self.optimizer = MuonAndAdamW(
            {**self.trained, "alignment": self.alignment},
            adamw_names=_ADAMW,
            muon_lr=MUON_LR,
            weight_decay=0.01,
            betas=(0.9, 0.98),
        )

    def _caches(self, first: int) -> tuple[dict[str, LatentCache], dict[str, LatentCache]]:
        """Of training individuals from number ``first`` on, and of held-out ones."""
        folder, tower = self.run / "cache", functools.cache(lambda: Tower(trained(self.run, "vlm"), self.device))
        return (
            {p.name: LatentCache(folder, p, self.backbone, tower, "training", p.count, first) for p in CYCLE},
            {
                p.name: LatentCache(folder, p, self.backbone, tower, "validation", HELD_PANELS // math.prod(p.layout))
                for p in CYCLE
            },
        )

    def _loss(self, latents: Tensor, ids: TokenIds, generator: torch.Generator) -> Tensor:
        sides = [side * self.backbone.pixels_per_latent for side in latents.shape[2:]]
        shift = self.backbone.shift(self.backbone.tokens_per(*sides), _SAMPLING_STEPS)
        sigma = flow.sample_sigmas(len(latents), "logit-normal", shift, generator)
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        text = ids.encoded(self.backbone.pipeline)

        def model(noisy: Tensor, sigma: Tensor) -> Tensor:
            return self.backbone.velocity(noisy[:, None], sigma, text)[:, 0]

        return flow.matching_errors(model, latents, noise, sigma).mean()

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """One step on a batch of the kind whose turn it is."""
        part = CYCLE[step % len(CYCLE)]
        cache, generator = self.parts[part.name], step_generator(self.seed, step, self.device)
        rows = torch.randint(len(cache.captions), (part.batch,), generator=generator, device=self.device)
        dropped = torch.rand(part.batch, generator=generator, device=self.device) < TEXT_DROPOUT
        ids = cache.ids.take(rows).dropped(dropped, cache.empty)
        loss = self._loss(cache.latents[rows].float(), ids, generator)
        metrics: dict[str, float | Tensor] = {f"loss_{part.name}": loss.detach()}
        if step < ALIGNED_UNTIL * self.steps:
            alignment = self.alignment(cache.features[rows].float())
            metrics["alignment"] = alignment.detach()
            loss = loss + ALIGNMENT * alignment
        self.optimizer.step(loss, learning_rate_factor(step, self.steps, warmup=100))
        self._average(step)
        return metrics

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for name, module in self.trained.items():
            torch._foreach_lerp_(list(self.averages[name].parameters()), list(module.parameters()), 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, averages and optimizer state."""
        found = self.optimizer.tensors() | checkpoint.module_tensors(self.alignment, "alignment")
        for name, module in self.trained.items():
            found |= checkpoint.module_tensors(module, f"trained.{name}")
            found |= checkpoint.module_tensors(self.averages[name], f"average.{name}")
        return {k: v.clone() for k, v in found.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back a checkpoint."""
        for name, module in self.trained.items():
            checkpoint.restore_module(module, tensors, f"trained.{name}")
            checkpoint.restore_module(self.averages[name], tensors, f"average.{name}")
        checkpoint.restore_module(self.alignment, tensors, "alignment")
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
            cache, generator = self.held[part.name], step_generator(self.seed + 1, 0, self.device)
            rows = torch.arange(len(cache.captions), device=self.device).split(part.batch)
            losses = [self._loss(cache.latents[some].float(), cache.ids.take(some), generator) for some in rows]
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
                    num_inference_steps=_SAMPLING_STEPS, max_sequence_length=part.text_tokens,
                    generator=torch.Generator().manual_seed(0),
                ).images  # pyright: ignore[reportAttributeAccessIssue]
            )  # fmt: skip
        contact_sheet(rows).save(self.run / f"sheet-{step:07d}.png")

    def score(self, figures: dict[str, float]) -> float:
        """Less loss is better."""
        return -sum(figures.values())

    def export(self, folder: Path, card: str) -> None:
        """Writes the `FluxPipeline` folder, see `save_pipeline`."""
        save_pipeline(self.averaged_pipeline(), folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


def save_pipeline(pipeline: FluxPipeline, folder: Path) -> None:
    """Writes a pipeline's folder, rounded to float16, from which it draws whether or not a dtype is named.

    Left to themselves diffusers reads all files as float32, and transformers as what they hold.
    """
    half = copy.deepcopy(pipeline).to(dtype=torch.float16)
    half.text_encoder, half.text_encoder_2 = rounded(half.text_encoder), rounded(half.text_encoder_2)
    for module in (half.vae, half.transformer):
        module.register_to_config(_name_or_path="")  # else the folder it was loaded from
    half.save_pretrained(folder)


def build(run: Path, *, steps: int) -> TeacherTask:
    """The task for a run of ``steps`` steps."""
    return TeacherTask(run, steps)


def go_on(run: Path, *, steps: int, start: Path) -> TeacherTask:
    """The task that trains a finished pipeline further, with draws that depend on it."""
    pipeline = FluxPipeline.from_pretrained(start, dtype=torch.float32, use_safetensors=True, scheduler=new_scheduler())
    return TeacherTask(run, steps, seed=int(revision_of(start)[:6], 16), start=pipeline)
