"""DreamBooth: the text-to-image model itself is fine-tuned on each subject (Ruiz et al., CVPR 2023, arXiv 2208.12242).

The reference is learnt with an identifier before the subject's words, beside pictures that the model drew without it
before (prior preservation, equation 2), by the model's own flow-matching objective. All weights of the transformer are
trained, as in the paper, or a LoRA on attention and feed-forward layers, as diffusers' scripts do it
(DreamBooth-LoRA).

Deviations: one reference in place of three to five, because every method here is given one; text encoders stay frozen;
the class is the subject in the benchmark's own words; the reference is learnt under its caption, as is usual.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig
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
from dsd.train.adapter import target_names

_LORA = "subject"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a model is fitted to a subject.

    The defaults are steps and batch of diffusers' scripts with the rate that is usual with AdamW, which nobody
    here has run at that size.

    Attributes:
        identifier: a rare word to put before the subject's words; empty for none, for models that have no word to
            spare: the words themselves then come to mean the subject.
        rank: of the LoRA; 0 trains all weights of the transformer.
        steps: optimizer steps.
        batch: noise levels of the reference a step, and as many prior pictures.
        learning_rate: of AdamW, constant.
        prior_prompts: for one picture each that the model draws before it is trained; ``{subject}`` stands for the
            subject's words, and where there is none the pictures serve every subject.
        prior_weight: of their loss (lambda in equation 2).
        guidance: embedded guidance value, for guidance-distilled models; others ignore it.
        seed: of everything random.
    """

    identifier: str = "sks"
    rank: int = 0
    steps: int = 500
    batch: int = 1
    learning_rate: float = 1e-5
    prior_prompts: tuple[str, ...] = ("a {subject}",) * 16
    prior_weight: float = 1.0
    guidance: float = 1.0
    seed: int = 0


@dataclass(kw_only=True)
class DreamBooth:
    """Fits the transformer to one subject at a time, and draws with it.

    Attributes:
        model: the text-to-image model, whose transformer is trained in place and put back before the next subject.
        captioner: says what a reference shows; None to learn it under ``a SUBJECT``.
        tuning: how it is fitted.
        name: the row's name.
        subjects_at_once: see `SubjectMethod`.
    """

    model: TextOnly
    captioner: Captioner | None = None
    tuning: Tuning = field(default_factory=Tuning)
    name: str = "dreambooth"
    subjects_at_once: int = 1
    _prior: list[tuple[str, Image.Image]] | None = field(default=None, init=False, repr=False)
    _untouched: dict[str, Tensor] = field(init=False, repr=False)
    _targets: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        state = self._transformer.state_dict() if self.tuning.rank == 0 else {}
        self._untouched = {name: value.clone() for name, value in state.items()}
        layers = self.model.backbone.layers
        parts = (*layers.attention, *layers.feed_forward)
        linear = target_names(self._transformer, layers, "all-linear") if self.tuning.rank else ()
        self._targets = tuple(name for name in linear if any(part in name for part in parts))

    @property
    def fingerprint(self) -> str:
        """See `SubjectMethod`."""
        captioner = "" if self.captioner is None else self.captioner.chat.revision
        settings = hashlib.sha256(f"{to_json(self.tuning)}{captioner}".encode()).hexdigest()[:12]
        return f"{self.model.fingerprint}-{settings}"

    def prepare(self, requests: Sequence[Request]) -> None:
        """Fine-tunes on the reference of the one subject that the requests are of."""
        subject = one_subject(requests)
        self._put_back()
        prompts = [prompt.format(subject=subject.subject) for prompt in self.tuning.prior_prompts]
        if self._prior is None or [prompt for prompt, _ in self._prior] != prompts:
            self._prior = list(zip(prompts, self._prior_pictures(subject, prompts), strict=True))
        self._fit(subject, self._prior)

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        """One picture a request, its subject called by the identifier."""
        return self.model.generate([dataclasses.replace(r, prompt=self._named(r.prompt, r)) for r in requests])

    @property
    def _transformer(self) -> Any:
        return self.model.pipeline.transformer

    def _named(self, prompt: str, request: Request) -> str:
        """The prompt with the identifier before the subject's words."""
        return prompt.replace(request.subject, f"{self.tuning.identifier} {request.subject}".strip())

    def _prior_pictures(self, like: Request, prompts: Sequence[str]) -> list[Image.Image]:
        """What the model draws before it is trained; the same for every subject when the prompts are."""
        seeds = [derive_seed(self.tuning.seed, "prior", number) for number in range(len(prompts))]
        requests = zip(prompts, seeds, strict=True)
        return self.model.generate([dataclasses.replace(like, prompt=prompt, seed=seed) for prompt, seed in requests])

    def _put_back(self) -> None:
        """The transformer as it was before any subject."""
        if self.tuning.rank == 0:
            self._transformer.load_state_dict(self._untouched)
        elif _LORA in getattr(self._transformer, "peft_config", {}):
            self._transformer.delete_adapters(_LORA)

    def _trainable(self) -> list[nn.Parameter]:
        """What is trained, switched on; everything else off."""
        transformer = self._transformer
        transformer.requires_grad_(self.tuning.rank == 0)
        if self.tuning.rank > 0:
            rank = self.tuning.rank
            config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(self._targets))
            transformer.add_adapter(config, _LORA)
        return [parameter for parameter in transformer.parameters() if parameter.requires_grad]

    def _fit(self, subject: Request, prior: Sequence[tuple[str, Image.Image]]) -> None:
        tuning, size = self.tuning, self.model.drawing.size
        generator = torch.Generator().manual_seed(derive_seed(tuning.seed, "fit", subject.subject_id))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(tuning.seed, "lora", subject.subject_id) % (1 << 32))
            parameters = self._trainable()
        fit = Fit(
            model=self.model, parameters=parameters, learning_rate=tuning.learning_rate, steps=tuning.steps,
            guidance=tuning.guidance,
        )  # fmt: skip
        reference = fit.backbone.encode(to_tensor(subject.reference, size)).expand(tuning.batch, -1, -1, -1)
        others = fit.backbone.encode(to_tensor([picture for _, picture in prior], size))
        caption = f"a {subject.subject}" if self.captioner is None else self.captioner(subject)
        length = self.model.drawing.max_sequence_length
        named = fit.backbone.encode_text([self._named(caption, subject)] * tuning.batch, length)
        plain = fit.backbone.encode_text([prompt for prompt, _ in prior], length)
        weights = torch.tensor([1.0] * tuning.batch + [tuning.prior_weight] * tuning.batch) / tuning.batch

        def batch() -> tuple[Tensor, Text, Tensor]:
            drawn = torch.randint(len(others), (tuning.batch,), generator=generator).to(others.device)
            texts = Text.concat([named, plain.take(drawn)])
            return torch.cat([reference, others[drawn]]), texts, weights.to(others.device)

        fit.run(batch, generator)
        self._transformer.requires_grad_(False)


LORA = Tuning(rank=16, learning_rate=1e-4)
"""As `Tuning`, of diffusers' DreamBooth-LoRA script."""


def dreambooth(setting: Setting) -> DreamBooth:
    """The row of DreamBooth."""
    return _method(setting, setting.fits.get("dreambooth", Tuning()))


def dreambooth_lora(setting: Setting) -> DreamBooth:
    """The row of DreamBooth-LoRA."""
    return _method(setting, setting.fits.get("dreambooth-lora", LORA))


def _method(setting: Setting, tuning: Tuning) -> DreamBooth:
    captioner = None if setting.captioner is None else Captioner(chat=load_chat(setting.captioner))
    tuning = dataclasses.replace(tuning, prior_prompts=setting.prior_prompts or tuning.prior_prompts, seed=setting.seed)
    return DreamBooth(model=teacher(setting), captioner=captioner, tuning=tuning, name=setting.name)
