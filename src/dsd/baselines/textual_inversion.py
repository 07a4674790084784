"""Textual Inversion: a new word is learnt for each subject, and nothing else (Gal et al., ICLR 2023, arXiv 2208.01618).

The word's vectors, in both text encoders, are fitted to the reference by the frozen model's own flow-matching loss,
started from the mean of the subject's words.

Deviations: where several encoders read, the word has a vector in each; the reference is learnt under its caption
in place of a list of neutral sentences, where a model that captions is at hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dsd.backbones.protocol import Text
from dsd.baselines.fitting import Captioner, Fit, one_subject
from dsd.baselines.protocol import Request
from dsd.baselines.setting import Setting
from dsd.baselines.text_only import TextOnly, teacher
from dsd.chat.registry import load_chat
from dsd.config import to_json
from dsd.curate.seeds import derive_seed
from dsd.images import to_tensor


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """How a word is learnt. The defaults are those of diffusers' script; nobody here has run them at full size.

    Attributes:
        vectors: of the word, in each encoder; the paper has one.
        steps: optimizer steps.
        batch: noise levels of the reference a step.
        learning_rate: of AdamW, constant.
        guidance: embedded guidance value, for guidance-distilled models; others ignore it.
        seed: of everything random.
    """

    vectors: int = 1
    steps: int = 3000
    batch: int = 4
    learning_rate: float = 5e-4
    guidance: float = 1.0
    seed: int = 0


class _Word:
    """A new word in one text encoder: tokens of its own, whose vectors are written over what the embedding says."""

    def __init__(self, tokenizer: Any, encoder: Any, pieces: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        tokenizer.add_tokens(list(pieces))
        encoder.resize_token_embeddings(max(len(tokenizer), encoder.get_input_embeddings().num_embeddings))
        encoder.requires_grad_(False)
        self.embedding: Any = encoder.get_input_embeddings()
        self.ids: list[int] = tokenizer.convert_tokens_to_ids(list(pieces))
        self.vectors: nn.Parameter | None = None
        self.embedding.register_forward_hook(self._write)

    def start(self, words: str) -> nn.Parameter:
        """Begins from the mean of words that are known."""
        known = self.tokenizer(words, add_special_tokens=False, return_tensors="pt").input_ids[0]
        mean = self.embedding.weight[known.to(self.embedding.weight.device)].mean(0)
        self.vectors = nn.Parameter(mean.detach().float().repeat(len(self.ids), 1))
        return self.vectors

    def _write(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        if self.vectors is None:
            return output
        for number, token in enumerate(self.ids):
            output = torch.where((inputs[0] == token)[..., None], self.vectors[number].to(output.dtype), output)
        return output


@dataclass(kw_only=True)
class TextualInversion:
    """Learns a word for one subject at a time, and draws with it.

    Attributes:
        model: the text-to-image model, whose tokenizers learn new tokens.
        captioner: says what a reference shows; None to learn it under ``a WORD``.
        inversion: how the word is learnt.
        name: the row's name.
        subjects_at_once: see `SubjectMethod`.
    """

    model: TextOnly
    captioner: Captioner | None = None
    inversion: Inversion = field(default_factory=Inversion)
    name: str = "textual-inversion"
    subjects_at_once: int = 1
    _words: tuple[_Word, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        pipeline: Any = self.model.pipeline
        encoders = self.model.backbone.text_encoders
        self._words = tuple(_Word(tokenizer, encoder, self._pieces) for tokenizer, encoder in encoders)
        pipeline.transformer.requires_grad_(False)

    @property
    def fingerprint(self) -> str:
        """See `SubjectMethod`."""
        captioner = "" if self.captioner is None else self.captioner.chat.revision
        settings = hashlib.sha256(f"{to_json(self.inversion)}{captioner}".encode()).hexdigest()[:12]
        return f"{self.model.fingerprint}-{settings}"

    def prepare(self, requests: Sequence[Request]) -> None:
        """Learns the word for the one subject that the requests are of."""
        subject, inversion = one_subject(requests), self.inversion
        caption = f"a {subject.subject}" if self.captioner is None else self.captioner(subject)
        prompts = [self._named(caption, subject)] * inversion.batch
        parameters = [word.start(subject.subject) for word in self._words]
        fit = Fit(
            model=self.model, parameters=parameters, learning_rate=inversion.learning_rate, steps=inversion.steps,
            guidance=inversion.guidance,
        )  # fmt: skip
        reference = fit.backbone.encode(to_tensor(subject.reference, self.model.drawing.size))
        latents = reference.expand(inversion.batch, -1, -1, -1)
        weights = torch.full((inversion.batch,), 1 / inversion.batch, device=latents.device)

        def batch() -> tuple[Tensor, Text, Tensor]:
            return latents, fit.encoded(prompts), weights

        fit.run(batch, torch.Generator().manual_seed(derive_seed(inversion.seed, "fit", subject.subject_id)))

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        """One picture a request, its subject called by the new word."""
        return self.model.generate([dataclasses.replace(r, prompt=self._named(r.prompt, r)) for r in requests])

    @property
    def _pieces(self) -> list[str]:
        return [f"<subject-{number}>" for number in range(self.inversion.vectors)]

    def _named(self, prompt: str, request: Request) -> str:
        return prompt.replace(request.subject, " ".join(self._pieces))


def textual_inversion(setting: Setting) -> TextualInversion:
    """The row of Textual Inversion."""
    captioner = None if setting.captioner is None else Captioner(chat=load_chat(setting.captioner))
    inversion = dataclasses.replace(setting.fits.get("textual-inversion", Inversion()), seed=setting.seed)
    return TextualInversion(model=teacher(setting), captioner=captioner, inversion=inversion, name=setting.name)
