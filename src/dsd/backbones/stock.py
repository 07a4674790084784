"""What all families share: the components of a stock diffusers pipeline, driven with spatial latents of frames."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, Self

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dsd.backbones.cached import KEPT, Recording, Reference
from dsd.backbones.protocol import Layers, Text
from dsd.errors import UserError
from dsd.flow import ResolutionShift
from dsd.limits import MOST_TEXT_TOKENS
from dsd.sampling import Flavour
from dsd.weights import config_of, load_pipeline


class StockBackbone:
    """A text-to-image model as the method sees it: spatial latents of frames in, their velocity out.

    It drives the components of a stock pipeline, whose own code encodes text; a family says what is its own. Components
    that a job does not need may be left out of `from_pretrained`; calling what needs them is then an error.

    Attributes:
        family: The name of the family in the registry; that of its folder.
        layers: Where things are in its transformer.
        pipeline_class: The family's stock text-to-image pipeline.
        vae_class: The class of its autoencoder.
        text_components: The pipeline's components that encode text.
        optional_text: Those of them that it draws without.
        patch: Height and width in latents of one token.
        control_pipeline: The family's stock pipeline that reads an adapter by `load_lora_weights`, where there is one.
        keeping: For each list of blocks, the attention processor that keeps keys and values (`dsd.backbones.cached`);
            none of families that cannot be cached.
        shift_knows_steps: Whether `shift` depends on the number of denoising steps.
    """

    family: str
    layers: Layers
    pipeline_class: Any
    vae_class: Any
    text_components: tuple[str, ...]
    optional_text: tuple[str, ...] = ()
    patch: int = 2
    control_pipeline: Any = None
    keeping: Mapping[str, Any] = MappingProxyType({})
    shift_knows_steps: bool = False

    def __init__(self, pipeline: Any, vae_config: Mapping[str, Any]) -> None:
        self.pipeline = pipeline
        self.vae_config = dict(vae_config)
        self.resolution_shift = ResolutionShift.from_scheduler(pipeline.scheduler.config)
        self._held: tuple[torch.device, torch.dtype] | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        transformer: bool = True,
        text: bool = True,
        vae: bool = True,
    ) -> Self:
        """Loads a folder in the layout of the family's pipeline, or a hub id.

        Args:
            name: The folder, or the hub id.
            device: Where to compute.
            dtype: Precision of the weights.
            transformer: Whether to load the transformer.
            text: Whether to load the text encoders.
            vae: Whether to load the autoencoder.
        """
        parts = {("transformer",): transformer, cls.text_components: text, ("vae",): vae}
        absent = [name for names, wanted in parts.items() if not wanted for name in names]
        pipeline = load_pipeline(cls.pipeline_class, name, dtype=dtype, absent=absent)
        vae_config: Any = pipeline.vae.config if vae else config_of(cls.vae_class, name, subfolder="vae")
        return cls(pipeline.to(device), vae_config)

    @classmethod
    def from_pipeline(cls, pipeline: Any) -> Self:
        """Drives the components of a pipeline that is loaded already; nothing is copied."""
        return cls(pipeline, pipeline.vae.config)

    @classmethod
    def transformer_class(cls) -> Any:
        """The class of the network that is trained."""
        return cls.pipeline_class._get_signature_types()["transformer"][0]

    @property
    def transformer(self) -> Any:
        """The network that is trained; a stock diffusers model."""
        return _present(self.pipeline.transformer, "transformer")

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return _present(self.pipeline.vae, "vae")

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks, in the order in which they are called."""
        return [block for name in self.layers.blocks for block in self.transformer.get_submodule(name)]

    @property
    def device(self) -> torch.device:
        """Where the networks compute, also when the pipeline offloads them in between."""
        return self.pipeline._execution_device if self._held is None else self._held[0]

    @property
    def dtype(self) -> torch.dtype:
        """Precision that the transformer takes."""
        return self.transformer.dtype if self._held is None else self._held[1]

    def held(self) -> Self:
        """This backbone for one drawing, during which nothing is moved: where it computes is looked up once.

        Each look goes through all modules of all components, milliseconds that small models and short steps feel.
        """
        held = copy.copy(self)
        held._held = self.device, self.dtype
        return held

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.vae_config["latent_channels"]

    @property
    def pixels_per_latent(self) -> int:
        """Height and width in pixels of one latent."""
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @property
    def pixels_per_token(self) -> int:
        """Height and width in pixels of one token; every picture's sides are multiples of it."""
        return self.patch * self.pixels_per_latent

    @property
    def takes_guidance(self) -> bool:
        """Whether the model is guidance-distilled, so that `velocity` needs `guidance`."""
        return bool(self.transformer.config.get("guidance_embeds", False))

    @property
    def is_widened(self) -> bool:
        """Whether the patch embedding takes a condition beside the noisy latents."""
        return self.transformer.config["in_channels"] == 2 * self._plain_channels

    @property
    def is_cached(self) -> bool:
        """Whether it attends to what is kept of given frames; see `dsd.backbones.cached`."""
        kinds = tuple(self.keeping.values())
        return bool(kinds) and all(isinstance(one, kinds) for one in self.transformer.attn_processors.values())

    @property
    def takes_references(self) -> bool:
        """Whether it was made one that is shown given frames, in whatever flavour."""
        return self.is_widened or self.is_cached

    @classmethod
    def require(cls, flavour: Flavour) -> None:
        """Makes sure that models of the family can be shown given frames so.

        Raises:
            UserError: They cannot.
        """
        if flavour == "cached" and not cls.keeping:
            raise UserError(
                f'the flavour cached is not available for models of the family "{cls.family}"; set train.flavour to '
                "canvas"
            )

    def prepare(self, flavour: Flavour) -> None:
        """Makes it a model that is shown given frames; one that is already stays as it is.

        Raises:
            UserError: Models of the family cannot be shown them so.
        """
        self.require(flavour)
        if flavour == "canvas":
            self.widen()
            return
        transformer = self.transformer
        kinds = {name: kind for name in transformer.attn_processors for blocks, kind in self.keeping.items()
                 if name.startswith(f"{blocks}.")}  # fmt: skip
        transformer.set_attn_processor({name: kind(number) for number, (name, kind) in enumerate(kinds.items())})

    def tokens_per(self, height: int, width: int) -> int:
        """Image tokens of one frame of so many pixels."""
        return (height // self.pixels_per_token) * (width // self.pixels_per_token)

    def check_size(self, height: int, width: int) -> None:
        """Makes sure that a picture's sides in pixels are whole numbers of tokens.

        Raises:
            UserError: They are not; the message names the closest size that works.
        """
        step = self.pixels_per_token
        if height < step or width < step or height % step or width % step:
            near = tuple(max(step, (side + step // 2) // step * step) for side in (height, width))
            raise UserError(
                f"a picture of {height}x{width} pixels (height x width) does not fit this model: both sides must be "
                f"multiples of {step}, the closest size is {near[0]}x{near[1]}"
            )

    @classmethod
    def check_frame(cls, vae_config: Mapping[str, Any], height: int, width: int) -> None:
        """As `check_size`, of a model of which nothing is read but its autoencoder's config.

        Raises:
            UserError: See there.
        """
        unread = cls.__new__(cls)
        unread.vae_config = dict(vae_config)
        unread.check_size(height, width)

    def shift(self, tokens: int, steps: int) -> float:
        """How far the family shifts sigmas, for `dsd.flow.shift_sigmas`, in training and in sampling.

        Args:
            tokens: Image tokens of all frames together.
            steps: Denoising steps of sampling, which some families' shift depends on.
        """
        return self.resolution_shift.shift(tokens)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str], max_tokens: int, further: Sequence[Sequence[str]] = ()) -> Text:
        """Prompts by the pipeline's own encoders, padded or cut to ``max_tokens``; the empty one is "no text".

        Args:
            prompts: For the first encoder, and for all others that `further` has nothing for.
            max_tokens: From 1 to 512.
            further: For each further encoder (``prompt_2``, ``prompt_3``), as many prompts.

        Raises:
            UserError: ``max_tokens`` is not within 1 and 512.
        """
        return self.encoded(prompts, max_tokens, further)

    def encoded(self, prompts: Sequence[str], max_tokens: int, further: Sequence[Sequence[str]] = ()) -> Text:
        """As `encode_text`, with gradients through the encoders."""
        if not 1 <= max_tokens <= MOST_TEXT_TOKENS:
            raise UserError(
                f"max_sequence_length is {max_tokens}, but models of this family take 1 to {MOST_TEXT_TOKENS} text "
                "tokens"
            )
        return self._encoded([list(prompts), *(list(words) for words in further)], max_tokens)

    @abstractmethod
    def _encoded(self, prompts: list[list[str]], max_tokens: int) -> Text:
        """What a family's pipeline makes of prompts, of which there may be others for its further encoders."""

    @property
    def text_encoders(self) -> list[tuple[Any, Any]]:
        """Each tokenizer with its encoder."""
        names = [name for name in self.text_components if name.startswith("tokenizer")]
        return [
            (getattr(self.pipeline, name), getattr(self.pipeline, name.replace("tokenizer", "text_encoder")))
            for name in names
        ]

    def real_tokens(self, prompts: Sequence[str], max_tokens: int) -> list[int]:
        """How many of the last text encoder's ``max_tokens`` each prompt fills; those after them are padding."""
        tokenizer = self.text_encoders[-1][0]
        if tokenizer is None:
            return [0] * len(prompts)
        words = [self.worded(prompt) for prompt in prompts]
        found = tokenizer(words, padding="max_length", max_length=max_tokens, truncation=True)
        return [max((place + 1 for place, real in enumerate(mask) if real), default=0) for mask in found.attention_mask]

    def further_text_tokens(self, encoders: Mapping[str, Any]) -> int:
        """Text tokens before those of the last encoder, by the configs of the encoders."""
        return 0

    def worded(self, prompt: str) -> str:
        """What the last text encoder's tokenizer is given of a prompt."""
        return prompt

    @torch.no_grad()
    def encode(
        self, images: Float[Tensor, "b 3 h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c h/p w/p"]:
        """Normalised float32 latents of pictures in [-1, 1]: the posterior's mode, or a sample by a generator."""
        vae = self.vae
        posterior = vae.encode(images.to(device=self.device, dtype=vae.dtype)).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator=generator)
        return self.normalised(latents.float())

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h*p w*p"]:
        """Pictures in [-1, 1] of normalised latents."""
        vae = self.vae
        return vae.decode(self.restored(latents).to(vae.dtype), return_dict=False)[0].clamp(-1, 1)

    def normalised(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents as the transformer sees them."""
        config = self.vae_config
        return (latents - (config["shift_factor"] or 0.0)) * config["scaling_factor"]

    def restored(self, latents: Tensor) -> Tensor:
        """The inverse of `normalised`."""
        config = self.vae_config
        return latents / config["scaling_factor"] + (config["shift_factor"] or 0.0)

    def velocity(
        self,
        latents: Float[Tensor, "b f c h w"],
        sigma: Float[Tensor, " b"],
        text: Text,
        condition: Float[Tensor, "b f c h w"] | None = None,
        guidance: float | Float[Tensor, " b"] | None = None,
        *,
        reference: Reference | None = None,
        **more: Any,
    ) -> Float[Tensor, "b f c h w"]:
        """One evaluation of the transformer.

        Args:
            latents: Noisy latents of all frames; those that are drawn stand last.
            sigma: Noise level of each, in [0, 1].
            text: One prompt each.
            condition: Latents of what is given, of the same shape; only for a widened model, where None is "no image"
                (all zeros).
            guidance: The embedded guidance of a guidance-distilled model, which needs it, one or one each; others
                ignore it.
            reference: What `reference` kept of given frames, of each row; only for a cached model, where None is "no
                image".
            **more: For the transformer, such as ``joint_attention_kwargs``.
        """
        if reference is not None:
            more = _told(more, reference)
        return self.evaluated(self.arguments(latents, sigma, text, condition, guidance), latents, **more)

    def reference(self, given: Float[Tensor, "b r c h w"], **more: Any) -> Reference:
        """What a cached model keeps of given frames: one pass of their clean tokens, which see themselves alone.

        They stand where a canvas has them, before the frames to draw; those are where the family's text-to-image model
        draws, so that without a reference this is that model.

        Args:
            given: Latents of the frames.
            **more: For the transformer; see `velocity`.

        Raises:
            UserError: A cache of steps left out some of the pass.
        """
        recording = Recording()
        with self.cache_context(KEPT):
            self.transformer(**self.given_arguments(given), **_told(more, recording), return_dict=False)
        if len(recording.layers) != len(self.transformer.attn_processors):
            raise UserError(
                "a cache of steps that is enabled in the transformer left out blocks of the reference's pass, of which "
                "a cached model needs all; call disable_cache() on the transformer"
            )
        return Reference.of(recording, len(given))

    def given_arguments(self, given: Float[Tensor, "b r c h w"]) -> dict[str, Any]:
        """What `reference` hands to the transformer: tokens at noise level 0 without text."""
        raise NotImplementedError(f"the family {self.family} cannot be cached")

    @abstractmethod
    def arguments(
        self,
        latents: Float[Tensor, "b f c h w"],
        sigma: Float[Tensor, " b"],
        text: Text,
        condition: Float[Tensor, "b f c h w"] | None = None,
        guidance: float | Float[Tensor, " b"] | None = None,
    ) -> dict[str, Any]:
        """What `velocity` hands to the transformer."""

    @abstractmethod
    def unpacked(self, predicted: Tensor, like: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f c h w"]:
        """What the transformer gave, as frames."""

    def target_tokens(self, given: Sequence[bool], rows: int, columns: int) -> Int[Tensor, " targets"]:
        """Places of the tokens of the frames to draw among the image tokens that blocks see, in their order.

        Args:
            given: Whether each frame is given.
            rows: Of tokens in a frame.
            columns: Likewise.
        """
        drawn = ~torch.tensor(given)
        return drawn.repeat_interleave(columns).repeat(rows).nonzero().flatten()

    def evaluated(
        self, arguments: Mapping[str, Any], like: Float[Tensor, "b f c h w"], **more: Any
    ) -> Float[Tensor, "b f c h w"]:
        """The transformer's velocity for `arguments`.

        Args:
            arguments: From `arguments`.
            like: Latents whose shape and precision the velocity takes.
            **more: What a method adds, such as a ControlNet's residuals.
        """
        predicted = self.transformer(**arguments, **more, return_dict=False)[0]
        return self.unpacked(predicted, like).to(like.dtype)

    def cache_context(self, name: str) -> AbstractContextManager[object]:
        """What diffusers' step caches ask to run in, where the transformer can have any."""
        return self.transformer.cache_context(name) if hasattr(self.transformer, "cache_context") else nullcontext()

    @torch.no_grad()
    def widen(self) -> None:
        """Doubles the input features of the patch embedding, with zero weights: `velocity` then takes a condition.

        It gives what it gave before, and a model that is widened already stays as it is. Exactly the published model's
        ``c_embedder`` folded into ``x_embedder``, and what diffusers' control LoRA does.
        """
        if self.is_widened:
            return
        transformer, name = self.transformer, self.layers.patch_embedding
        old = transformer.get_submodule(name)
        new = widened(old)
        new.weight.zero_()[:, : old.weight.shape[1]].copy_(old.weight)
        if old.bias is not None:
            new.bias.copy_(old.bias)
        new.requires_grad_(old.weight.requires_grad)
        transformer.set_submodule(name, new)
        transformer.register_to_config(in_channels=2 * self._plain_channels, out_channels=transformer.out_channels)

    def with_condition(
        self, latents: Float[Tensor, "b f c h w"], condition: Float[Tensor, "b f c h w"] | None
    ) -> tuple[Tensor, Tensor | None]:
        """The latents, and the condition that goes beside them: none for a model that takes none.

        Raises:
            ValueError: A condition was given to a model that is not widened.
        """
        if self.is_widened:
            return latents, torch.zeros_like(latents) if condition is None else condition
        if condition is not None:
            raise ValueError("a condition was given, but the patch embedding is not widened; call widen() first")
        return latents, None

    def embedded_guidance(self, guidance: float | Tensor | None, latents: Tensor) -> Tensor | None:
        """The guidance that a guidance-distilled transformer is told; None for others."""
        if not self.takes_guidance:
            return None
        if guidance is None:
            raise ValueError("this model is guidance-distilled and needs a guidance value, 3.5 by default")
        where = {"device": latents.device, "dtype": torch.float32}
        return guidance.to(**where) if isinstance(guidance, Tensor) else torch.full((len(latents),), guidance, **where)

    @property
    def _plain_channels(self) -> int:
        """Input channels of the patch embedding, as the transformer's config counts them, before it is widened."""
        return self.transformer.out_channels


def widened(layer: nn.Module) -> Any:
    """An untrained layer like a patch embedding, linear or a convolution, of twice as many input features."""
    where = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(
            2 * layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,  # pyright: ignore[reportArgumentType]
            bias=layer.bias is not None, **where,
        )  # fmt: skip
    assert isinstance(layer, nn.Linear)
    return nn.Linear(2 * layer.in_features, layer.out_features, bias=layer.bias is not None, **where)


def side_by_side(frames: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b c h f*w"]:
    """Frames as one wide picture, for families that know no time."""
    return rearrange(frames, "b f c h w -> b c h (f w)")


def apart(canvas: Float[Tensor, "b c h f*w"], frames: int) -> Float[Tensor, "b f c h w"]:
    """The inverse of `side_by_side`; a view."""
    return rearrange(canvas, "b c h (f w) -> b f c h w", f=frames)


def _told(more: Mapping[str, Any], kept: Recording | Reference) -> dict[str, Any]:
    """Further arguments of a transformer, of which attention layers are told what is kept."""
    return {**more, "joint_attention_kwargs": {**(more.get("joint_attention_kwargs") or {}), KEPT: kept}}


def _present(component: Any, name: str) -> Any:
    if component is None:
        raise ValueError(f"this backbone was loaded without its {name}; load it with {name}=True")
    return component
