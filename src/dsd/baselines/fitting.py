"""What methods share that fit a text-to-image model to one subject before they draw it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsd import flow
from dsd.attention import in_right_attention
from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone
from dsd.baselines.protocol import Request
from dsd.baselines.text_only import TextOnly
from dsd.chat.protocol import ChatFailure, ChatModel
from dsd.chat.templates import Templates
from dsd.curate.schemas import PanelDescription
from dsd.curate.seeds import derive_seed
from dsd.curate.tasks.identity import IDENTITY


@dataclass(kw_only=True)
class Captioner:
    """Says in a sentence what a reference shows, in the words in which the benchmark speaks of the subject.

    A picture is learnt best under the caption that it would have had in the model's own training; the model that
    captions panels in curation gives it.

    Attributes:
        chat: a vision-language model.
        templates: of the question.
    """

    chat: ChatModel
    templates: Templates = field(default_factory=lambda: IDENTITY.load_templates("compact"))

    def __call__(self, request: Request) -> str:
        """The caption; ``a SUBJECT`` where the model gives none."""
        template = self.templates["describe"]
        seed = derive_seed(0, "reference", request.subject_id)
        question = template.request({"image": request.reference}, PanelDescription, seed=seed)
        (reply,) = self.chat.reply([question])
        if isinstance(reply, ChatFailure):
            return f"a {request.subject}"
        said = cast(PanelDescription, reply)
        scene = said.caption.partition(said.subject)[2].strip()
        return f"a {request.subject} {scene}".strip()


@dataclass(kw_only=True)
class Fit:
    """Descends on the model's own flow-matching loss of a few pictures.

    Attributes:
        model: the text-to-image model.
        parameters: what is trained.
        learning_rate: of AdamW, constant.
        steps: optimizer steps.
        guidance: embedded guidance value, for guidance-distilled models.
    """

    model: TextOnly
    parameters: Sequence[nn.Parameter]
    learning_rate: float
    steps: int
    guidance: float
    backbone: StockBackbone = field(init=False)

    def __post_init__(self) -> None:
        self.backbone = self.model.backbone

    @in_right_attention
    def run(
        self,
        batch: Callable[[], tuple[Float[Tensor, "b c h w"], Text, Float[Tensor, " b"]]],
        generator: torch.Generator,
    ) -> None:
        """Takes all steps.

        Args:
            batch: gives latents, their texts, and how much each counts in the loss.
            generator: of noise and noise levels.
        """
        optimizer = torch.optim.AdamW(self.parameters, lr=self.learning_rate)
        for _ in range(self.steps):
            latents, text, weights = batch()
            (self.errors(latents, text, generator) * weights).sum().backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    def errors(self, latents: Float[Tensor, "b c h w"], text: Text, generator: torch.Generator) -> Float[Tensor, " b"]:
        """Mean squared error of each latent's velocity."""
        drawing = self.model.drawing
        shift = self.backbone.shift(self.backbone.tokens_per(*drawing.size), drawing.sampling.steps)
        sigma = flow.sample_sigmas(len(latents), "logit-normal", shift, generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)

        def model(noisy: Tensor, sigma: Tensor) -> Tensor:
            return self.backbone.velocity(noisy[:, None], sigma, text, guidance=self.guidance)[:, 0]

        return flow.matching_errors(model, latents, noise, sigma).flatten(1).mean(1)

    def encoded(self, prompts: Sequence[str]) -> Text:
        """Encoded prompts through which gradients flow."""
        return self.backbone.encoded(prompts, self.model.drawing.max_sequence_length)


def one_subject(requests: Sequence[Request]) -> Request:
    """The first of requests that are all of one subject."""
    assert len({request.subject_id for request in requests}) == 1, "one subject at a time"
    return requests[0]
