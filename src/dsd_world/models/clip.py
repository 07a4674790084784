"""tiny-clip: does the picture agree with the words. A stock `VisionTextDualEncoderModel` for evaluation only.

The vision side is a residual network under a small vision transformer (DPT's hybrid encoder): dense convolutions find
a mouth of a few pixels soon, where patches and depthwise ones had not after fifty thousand panels. The text side is
CLIP's encoder. Trained with CLIP's loss (Radford et al. 2021) on drawn panels. Every second batch holds many subjects;
the others hold a few, each in scenes that differ in one word: in the place, the position or the mood.

Words come first: a quarter of the run reads nothing but each caption's words off the picture's features, by linear
layers that are no part of the finished model. With CLIP's loss from the start, the large gradients of places and
positions leave moods, patterns and accessories at chance.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    DPTConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)

from dsd.devices import batch_factor, default_device
from dsd.train import checkpoint
from dsd.train.loop import learning_rate_factor, step_generator
from dsd.train.optim import MuonAndAdamW
from dsd_world.benchmark import DISTRACTORS, distractor_phrases
from dsd_world.captions import panel_captions, scene_phrases, subject_phrases
from dsd_world.draw import PANEL_SIZE, draw_panels
from dsd_world.individuals import (
    MOODS,
    PLACES,
    POSITIONS,
    Individuals,
    Scenes,
    Split,
    sample_individuals,
    sample_scenes,
)
from dsd_world.models.dino import image_processor
from dsd_world.models.soften import softened
from dsd_world.models.stored import rounded
from dsd_world.tokenizers import t5_tokenizer
from dsd_world.words import WORDS, confirmed_words, word_losses

BATCH = 8 * batch_factor()
"""Subjects a batch, in nine scenes each."""
TEXT_TOKENS = 24
VALIDATION_SUBJECTS = 256
_COMBINATIONS = torch.tensor([(*where, mood) for where in ((0, 0), (1, 0), (0, 1)) for mood in range(3)])
_SCENES = len(_COMBINATIONS)
_WIDTHS, _DEPTHS, _STRIDE = [32, 64, 128], [1, 2, 2], 16
_TEXT_WIDTH = 96
_WORDS_FIRST = 0.25  # share of the run


def new_model() -> VisionTextDualEncoderModel:
    """The untrained pair of encoders."""
    tokenizer: Any = t5_tokenizer(TEXT_TOKENS)
    residual = {
        "model_type": "resnet",
        "embedding_size": _WIDTHS[0],
        "hidden_sizes": _WIDTHS,
        "depths": _DEPTHS,
        "layer_type": "basic",
        "out_features": ["stage1", "stage2", "stage3"],
    }
    vision = DPTConfig(
        is_hybrid=True,
        backbone_config=residual,
        backbone_featmap_shape=[1, _WIDTHS[-1], PANEL_SIZE // _STRIDE, PANEL_SIZE // _STRIDE],
        image_size=PANEL_SIZE,
        patch_size=_STRIDE,
        hidden_size=_WIDTHS[-1],
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=2 * _WIDTHS[-1],
        pooler_act="linear",
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_TEXT_WIDTH,
        intermediate_size=2 * _TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_TOKENS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = VisionTextDualEncoderConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=_TEXT_WIDTH
    )
    return VisionTextDualEncoderModel(config)


def combined_scenes(split: Split, subjects: Int[Tensor, " n"]) -> Scenes:
    """Nine scenes for each subject: every mood at one place and position, at another place, and at another position.

    Args:
        split: whose seeds draw the scenes.
        subjects: numbers of the subjects.

    Returns:
        ``9 n`` scenes; what words do not tell (shift, size, lean, light) is drawn anew for each.
    """
    offsets = torch.arange(_SCENES, device=subjects.device)
    scenes = sample_scenes(split, (subjects[:, None] * _SCENES + offsets).flatten())
    chosen = _COMBINATIONS.to(subjects.device).repeat(len(subjects), 1)

    def spread(values: Tensor, options: int, column: int) -> Tensor:
        """The first scene's word, plus the chosen number of steps that the subject's number decides."""
        step = (subjects % (options - 1) + 1).repeat_interleave(_SCENES)
        return (values[::_SCENES].repeat_interleave(_SCENES) + chosen[:, column] * step) % options

    return dataclasses.replace(
        scenes,
        place=spread(scenes.place, len(PLACES), 0),
        position=spread(scenes.position, len(POSITIONS), 1),
        mood=spread(scenes.mood, len(MOODS), 2),
    )


class ClipTask:
    """Trains tiny-clip; see `dsd_world.training.Recipe`."""

    def __init__(self, steps: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.steps, self.seed = steps, seed
        self.device = torch.device(default_device())
        self.tokenizer = t5_tokenizer(TEXT_TOKENS)
        self.model: Any = new_model()
        self.model.to(self.device)
        self.readout = nn.Linear(_TEXT_WIDTH, sum(len(word.options) for word in WORDS.values())).to(self.device)
        self.optimizer = MuonAndAdamW(
            {"model": self.model, "readout": self.readout},
            adamw_names=(
                "normalization",
                "embedder.embedder",
                "text_model.embeddings",
                "cls_token",
                "position_embeddings",
                "projection.weight",
                "logit_scale",
                "readout",
            ),
            adamw_lr=3e-3,
            weight_decay=0.01,
        )

    def _batch(self, step: int) -> tuple[Individuals, Scenes]:
        """As many panels of a few subjects, or, while words come first and in every second step, one of many."""
        if step < _WORDS_FIRST * self.steps or step % 2 == 0:
            index = torch.arange(BATCH * _SCENES, device=self.device) + step * BATCH * _SCENES
            return sample_individuals("training", index), sample_scenes("training", index)
        subjects = torch.arange(step * BATCH, (step + 1) * BATCH, device=self.device)
        return sample_individuals("training", subjects).repeat_interleave(_SCENES), combined_scenes(
            "training", subjects
        )

    def texts(self, captions: list[str]) -> Float[Tensor, "n d"]:
        """Normalised features of captions."""
        tokens = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt").to(self.device)
        return F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=1)

    def images(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Features of pictures in [-1, 1], not yet normalised."""
        return self.model.get_image_features(pictures).pooler_output

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """One step on fresh panels; a caption that stands twice in the batch is no distractor of itself."""
        self.model.train()
        who, scenes = self._batch(step)
        captions = panel_captions(who, scenes)
        pictures = softened(draw_panels(who, scenes), step_generator(self.seed, step), share=0.5, sigma=1.0)
        features = self.images(pictures)
        similarity = F.normalize(features, dim=1) @ self.texts(captions).T
        logits = similarity * self.model.logit_scale.exp().clamp(max=60)
        logits = logits.masked_fill(_repeats(captions).to(self.device), float("-inf"))
        labels = torch.arange(len(logits), device=self.device)
        contrast = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        words = word_losses(self.readout(features), list(WORDS), who, scenes)
        read = torch.stack(list(words.values())).sum()
        loss = read if step < _WORDS_FIRST * self.steps else read + contrast
        self.optimizer.step(loss, learning_rate_factor(step, self.steps, decay_from=0.5))
        return {"loss": contrast.detach(), **{name: value.detach() for name, value in words.items()}}

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state."""
        modules = checkpoint.module_tensors(self.model, "model") | checkpoint.module_tensors(self.readout, "readout")
        return modules | self.optimizer.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back a checkpoint."""
        checkpoint.restore_module(self.model, tensors, "model")
        checkpoint.restore_module(self.readout, tensors, "readout")
        self.optimizer.restore(tensors)

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """On held-out subjects: accuracy among eight scenes that differ in one word, crisp and blurred, and the share
        of words of each kind that are confirmed."""
        self.model.eval()
        subjects = VALIDATION_SUBJECTS
        index = torch.arange(subjects, device=self.device)
        who, scenes = sample_individuals("validation", index), sample_scenes("validation", index)
        pictures = draw_panels(who, scenes)
        blur = softened(pictures, step_generator(self.seed, 0), share=1.0, sigma=1.0)
        subject, right = subject_phrases(who), scene_phrases(who, scenes)
        options = [(right[i], *distractor_phrases(who, scenes, i)) for i in range(subjects)]
        texts = self.texts([f"a {subject[i]} {scene}" for i in range(subjects) for scene in options[i]])
        texts = texts.view(subjects, 1 + DISTRACTORS, -1)
        figures: dict[str, float] = {}
        for name, batch in (("accuracy", pictures), ("accuracy_blurred", blur)):
            scores = torch.einsum("nd,nkd->nk", F.normalize(self.images(batch), dim=1), texts)
            figures[name] = (scores.argmax(1) == 0).float().mean().item()
        for kind, found in confirmed_words(F.normalize(self.images(pictures), dim=1), who, scenes, self.texts).items():
            figures[f"confirmed_{kind}"] = sum(found) / len(found)
        return figures

    def score(self, figures: dict[str, float]) -> float:
        """Mean of all figures."""
        return sum(figures.values()) / len(figures)

    def export(self, folder: Path, card: str) -> None:
        """Writes the pair with its processor, as `AutoModel` and `AutoProcessor` read them."""
        rounded(self.model).save_pretrained(folder)
        VisionTextDualEncoderProcessor(image_processor(), self.tokenizer).save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


def build(run: Path, *, steps: int) -> ClipTask:
    """The task for a run of ``steps`` steps."""
    return ClipTask(steps)


def _repeats(captions: list[str]) -> Bool[Tensor, "n n"]:
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    index = torch.tensor([numbers[caption] for caption in captions])
    return (index[:, None] == index[None, :]) & ~torch.eye(len(captions), dtype=torch.bool)
