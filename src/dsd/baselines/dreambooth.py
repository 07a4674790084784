"""DreamBooth: the text-to-image model itself is fine-tuned on each subject (Ruiz et al., CVPR 2023, arXiv 2208.12242).

The reference is learnt under "a [identifier] [subject]", beside pictures that the model drew under "a [subject]" before
(prior preservation, equation 2), by the model's own flow-matching objective. All weights of the transformer are
trained, as in the paper, or a LoRA on its attention, as diffusers' scripts for FLUX do it (DreamBooth-LoRA).

Deviations: one reference in place of three to five, because every method here is given one; text encoders stay frozen;
the class is the subject in the benchmark's own words.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig
from PIL import Image
from torch import Tensor, nn

from dsd import flow
from dsd.backbones.flux import FluxBackbone
from dsd.backbones.protocol import Text
from dsd.baselines.protocol import Drawing, Request
from dsd.baselines.text_only import TextOnly
from dsd.config import to_json
from dsd.curate.seeds import derive_seed
from dsd.images import to_tensor
from dsd.train.adapter import target_names

_LORA = "subject"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a model is fitted to a subject. The defaults fit the embedded tiny-flux.

    Attributes:
        identifier: the rare word that comes to mean the subject.
        rank: of the LoRA; 0 trains all weights of the transformer.
        steps: optimizer steps.
        batch: noise levels of the reference a step, and as many prior pictures.
        learning_rate: of AdamW, constant.
        prior_prompts: under which the model draws before it is trained, ``{subject}`` standing for the subject's words.
        prior_pictures: for each of them.
        prior_weight: of their loss (lambda in equation 2).
        guidance: embedded guidance value, for guidance-distilled models; others ignore it.
        seed: of everything random.
    """

    identifier: str = "sks"
    rank: int = 0
    steps: int = 100
    batch: int = 4
    learning_rate: float = 3e-4
    prior_prompts: tuple[str, ...] = ("a {subject}",)
    prior_pictures: int = 16
    prior_weight: float = 1.0
    guidance: float = 1.0
    seed: int = 0


@dataclass(kw_only=True)
class DreamBooth:
    """Fits the transformer to one subject at a time, and draws with it.

    Attributes:
        model: the text-to-image model, whose transformer is trained in place and put back before the next subject.
        tuning: how it is fitted.
        name: the row's name.
        subjects_at_once: see `SubjectMethod`.
    """

    model: TextOnly
    tuning: Tuning = field(default_factory=Tuning)
    name: str = "dreambooth"
    subjects_at_once: int = 1
    _untouched: dict[str, Tensor] = field(init=False, repr=False)
    _targets: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        state = self._transformer.state_dict() if self.tuning.rank == 0 else {}
        self._untouched = {name: value.clone() for name, value in state.items()}
        self._targets = target_names(self._transformer, "attention")

    @classmethod
    def load(
        cls, base: str, drawing: Drawing, tuning: Tuning | None = None, *, name: str = "dreambooth"
    ) -> DreamBooth:
        """Loads a FLUX folder, hub id or `embedded:NAME`."""
        return cls(model=TextOnly.load(base, drawing), tuning=tuning or Tuning(), name=name)

    @property
    def fingerprint(self) -> str:
        """See `SubjectMethod`."""
        settings = hashlib.sha256(to_json(self.tuning).encode()).hexdigest()[:12]
        return f"{self.model.fingerprint}-{settings}"

    def prepare(self, requests: Sequence[Request]) -> None:
        """Fine-tunes on the reference of the one subject that the requests are of."""
        subject = requests[0]
        assert all(request.subject_id == subject.subject_id for request in requests), "one subject at a time"
        self._put_back()
        prompts = [prompt.format(subject=subject.subject) for prompt in self.tuning.prior_prompts]
        prompts = [prompt for prompt in prompts for _ in range(self.tuning.prior_pictures)]
        prior = self.model.generate([self._prior_request(subject, *numbered) for numbered in enumerate(prompts)])
        self._fit(subject, prompts, prior)

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        """One picture a request, its subject called by the identifier."""
        named = [
            dataclasses.replace(request, prompt=request.prompt.replace(request.subject, self._named(request.subject)))
            for request in requests
        ]
        return self.model.generate(named)

    @property
    def _transformer(self) -> Any:
        return self.model.pipeline.transformer

    def _named(self, subject: str) -> str:
        return f"{self.tuning.identifier} {subject}"

    def _prior_request(self, subject: Request, number: int, prompt: str) -> Request:
        seed = derive_seed(self.tuning.seed, "prior", subject.subject_id, number)
        return dataclasses.replace(subject, prompt=prompt, seed=seed)

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

    def _fit(self, subject: Request, prompts: Sequence[str], prior: Sequence[Image.Image]) -> None:
        tuning, size = self.tuning, self.model.drawing.size
        backbone = FluxBackbone.from_pipeline(self.model.pipeline)
        generator = torch.Generator().manual_seed(derive_seed(tuning.seed, "fit", subject.subject_id))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(tuning.seed, "lora", subject.subject_id) % (1 << 32))
            parameters = self._trainable()
        optimizer = torch.optim.AdamW(parameters, lr=tuning.learning_rate)
        reference = backbone.encode(to_tensor(subject.reference, size))
        others = backbone.encode(to_tensor(prior, size))
        length = self.model.drawing.max_sequence_length
        named = backbone.encode_text([f"a {self._named(subject.subject)}"] * tuning.batch, length)
        plain = backbone.encode_text(prompts, length)
        for _ in range(tuning.steps):
            drawn = torch.randint(len(others), (tuning.batch,), generator=generator)
            latents = torch.cat([reference.expand(tuning.batch, -1, -1, -1), others[drawn]])
            errors = self._errors(backbone, latents, _joined(named, plain, drawn), generator)
            loss = errors[: tuning.batch].mean() + tuning.prior_weight * errors[tuning.batch :].mean()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        self._transformer.requires_grad_(False)

    def _errors(
        self, backbone: FluxBackbone, latents: Float[Tensor, "b c h w"], text: Text, generator: torch.Generator
    ) -> Float[Tensor, " b"]:
        """Mean squared error of each latent's velocity."""
        height, width = self.model.drawing.size
        shift = backbone.resolution_shift.shift(backbone.tokens_per(height, width))
        sigma = flow.sample_sigmas(len(latents), "logit-normal", shift, generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        noisy = flow.noisy_latents(latents, noise, sigma)
        predicted = backbone.velocity(noisy, sigma, text, guidance=self.tuning.guidance)
        return (predicted.float() - flow.velocity(latents, noise)).square().flatten(1).mean(1)


def _joined(first: Text, second: Text, rows: Tensor) -> Text:
    """All prompts of the one and some rows of the other."""
    rows = rows.to(second.tokens.device)
    tokens = torch.cat([first.tokens, second.tokens[rows]])
    if first.pooled is None or second.pooled is None:
        return Text(tokens, None)
    return Text(tokens, torch.cat([first.pooled, second.pooled[rows]]))
