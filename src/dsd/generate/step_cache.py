"""Steps that change little reuse what the last ones computed: a first-block cache that looks at the frames to draw.

Of most steps the first block already tells how much the rest will change (first-block cache, after TeaCache, arXiv
2411.19108). diffusers' own caches measure that over all tokens and all samples at once: the given frame, which stands
still, dilutes it, and what is drawn depends on what is drawn beside it. Here every row of a step (a guidance branch of
a drawing) is measured by itself, over the tokens of the frames to draw alone; the rows that changed are computed, as a
smaller batch, and the others take what the remaining blocks last added to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dsd.backbones.cached import Reference
from dsd.backbones.stock import StockBackbone
from dsd.errors import UserError
from dsd.generate.draw import Drawing, Rows, current_rows
from dsd.sampling import Sampling

if TYPE_CHECKING:
    from dsd.generate.two_frame import TwoFramePipeline

THRESHOLD = 0.2
"""A row is computed when the first block's change of its target tokens differs by more than this share from its last
computed one; see `docs/speed.md` for what it costs."""
_WITHOUT_ROWS = ("hidden_states", "encoder_hidden_states", "image_rotary_emb")  # sliced already, or the same for all
_SHARE, _ENOUGH = 0.625, 10  # of the adapter's steps; models that take fewer were made for it

Block = Callable[..., Any]


@dataclass(frozen=True)
class _Kept:
    """Of a row's last computed step.

    Attributes:
        first: what the first block added to the tokens of the frames to draw.
        rest: what all other blocks added to all image tokens.
        text: the prompt that it was computed with.
    """

    first: Float[Tensor, "targets d"]
    rest: Float[Tensor, "tokens d"]
    text: Any


class _Name(NamedTuple):
    """A guidance branch of a drawing."""

    text: bool
    keep: bool


@dataclass
class _Step:
    """The evaluation that runs.

    Attributes:
        rows: that are asked.
        computed: places of the rows that go through all blocks, in order.
        image: after the first block, all rows.
        words: likewise, of the text.
        first: see `_Kept`, all rows.
        index: `computed` where the tensors are.
    """

    rows: Rows
    computed: list[int]
    image: Float[Tensor, "n tokens d"]
    words: Float[Tensor, "n words d"]
    first: Float[Tensor, "n targets d"]
    index: Int[Tensor, " computed"]

    @property
    def is_whole(self) -> bool:
        """Whether no row is left out."""
        return len(self.computed) == len(self.rows.owners)


@dataclass(eq=False)
class StepCache:
    """What is kept of each row of each drawing while it is drawn.

    Attributes:
        threshold: see `THRESHOLD`; 0 computes everything.
        blocks: of the transformer.
        evaluated: rows that were asked for so far.
        reused: how many of them took what was kept.
    """

    threshold: float
    blocks: int
    evaluated: int = 0
    reused: int = 0
    _kept: WeakKeyDictionary[Drawing, dict[_Name, _Kept]] = field(default_factory=WeakKeyDictionary)
    _step: _Step | None = None

    @property
    def skipped(self) -> float:
        """Share of the blocks' evaluations that were left out, in [0, 1]."""
        return self.reused * (self.blocks - 1) / max(1, self.evaluated * self.blocks)

    def __len__(self) -> int:
        """Drawings of which something is kept."""
        return len(self._kept)

    def changed(self, rows: Rows, first: Float[Tensor, "n targets d"]) -> list[int]:
        """Places of the rows that have to be computed.

        Args:
            rows: that are asked.
            first: what the first block added to each one's target tokens.
        """
        kept = [self._of(rows, place) for place in range(len(rows.owners))]
        known = [place for place, one in enumerate(kept) if one is not None and one.first.shape == first.shape[1:]]
        if not known or self.threshold <= 0:
            return list(range(len(kept)))
        before = torch.stack([one.first for place in known if (one := kept[place]) is not None]).float()
        change = (first[known].float() - before).abs().mean((1, 2)) / before.abs().mean((1, 2))
        still = {place for place, is_still in zip(known, (change < self.threshold).tolist(), strict=True) if is_still}
        return [place for place in range(len(kept)) if place not in still]

    def finish(self, step: _Step, image: Float[Tensor, "computed tokens d"]) -> Float[Tensor, "n tokens d"]:
        """All rows after all blocks; what was computed is kept, and nothing of drawings that are finished.

        Args:
            step: the evaluation.
            image: the computed rows after all blocks.
        """
        whole = image if step.is_whole else step.image.clone()
        for at, place in enumerate(step.computed):
            owner, last = step.rows.owners[place], step.rows.owners[place].step + 1
            if last < owner.steps:
                rest = image[at] - step.image[place]
                kept = _Kept(step.first[place].clone(), rest, _text(step.rows, place))
                self._kept.setdefault(owner, {})[_name(step.rows, place)] = kept
        if not step.is_whole:
            whole[step.index] = image
            for place in set(range(len(step.rows.owners))) - set(step.computed):
                kept = self._of(step.rows, place)
                assert kept is not None
                whole[place] += kept.rest
        for owner in step.rows.owners:
            if owner.step + 1 >= owner.steps:
                self._kept.pop(owner, None)
        self.evaluated += len(step.rows.owners)
        self.reused += len(step.rows.owners) - len(step.computed)
        return whole

    def _of(self, rows: Rows, place: int) -> _Kept | None:
        kept = self._kept.get(rows.owners[place], {}).get(_name(rows, place))
        return kept if kept is not None and kept.text is _text(rows, place) else None


def apply(pipeline: TwoFramePipeline, threshold: float = THRESHOLD) -> StepCache:
    """Makes a pipeline take fewer steps and reuse what changes little between them; all families' stock models can.

    It wraps the call of each block from outside, a compiled one too: compile first, and this after it. What it keeps of
    a drawing goes with it, and no drawing sees what is kept of another.

    Args:
        pipeline: of a two-frame model; applied anew, the later threshold holds.
        threshold: see `THRESHOLD`, at least 0.

    Raises:
        UserError: the threshold is below 0, or the transformer has a single block.
    """
    usual = Sampling() if pipeline.adapter is None else pipeline.adapter.sampling
    if not threshold >= 0:
        raise UserError(f"the step cache's threshold is {threshold}, but must be 0 (reuse nothing) or more, as 0.1")
    backbone = pipeline.backbone
    blocks: list[Any] = [block for name in backbone.layers.blocks for block in backbone.transformer.get_submodule(name)]
    if len(blocks) < 2:
        raise UserError("the step cache tells by the first block what the others will change, but there is only one")
    remove(pipeline)
    cache = StepCache(threshold, len(blocks))
    wrappers = [partial(_first, cache, backbone), *[partial(_middle, cache)] * (len(blocks) - 2), partial(_last, cache)]
    for block, wrapper in zip(blocks, wrappers, strict=True):
        inner = block._compiled_call_impl or block._call_impl
        block._compiled_call_impl = _Wrapped(block._compiled_call_impl, inner, partial(wrapper, inner))
    pipeline.most_steps = fewer(usual.steps)
    return cache


def fewer(steps: int) -> int:
    """How many steps `apply` has a model take where a call does not say it: a share of a long schedule is enough.

    Args:
        steps: that the adapter is usually drawn with.
    """
    return min(steps, max(_ENOUGH, round(_SHARE * steps)))


def remove(pipeline: TwoFramePipeline) -> None:
    """Takes the step cache off again, where there is one, and has the model take its usual steps."""
    for block in pipeline.backbone.transformer.modules():
        if isinstance(block._compiled_call_impl, _Wrapped):
            block._compiled_call_impl = block._compiled_call_impl.before
    pipeline.most_steps = None


@dataclass(frozen=True)
class _Wrapped:
    """In the place of a module's compiled call, which torch takes in place of its plain one; copies do not have it."""

    before: Block | None
    inner: Block
    cached: Block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args:  # as gradient checkpointing calls, in training
            return self.inner(*args, **kwargs)
        return self.cached(**kwargs)


def _first(cache: StepCache, backbone: StockBackbone, block: Block, **given: Any) -> Any:
    words, image = output = block(**given)
    rows = current_rows.get()
    film = None if rows is None else getattr(rows.owners[0], "film", None)
    cache._step = None
    if rows is None or film is None or len(image) != len(rows.owners):
        return output
    sides = (side // backbone.patch for side in rows.latents.shape[-2:])
    targets = backbone.target_tokens(film.denoised_given, *sides).to(image.device)
    first = image[:, targets] - given["hidden_states"][:, targets]
    computed = cache.changed(rows, first)
    index = torch.tensor(computed, dtype=torch.long, device=image.device)
    step = cache._step = _Step(rows, computed, image, words, first, index)
    return output if step.is_whole else (words[index], image[index])


def _middle(cache: StepCache, block: Block, **given: Any) -> Any:
    step = cache._step
    if step is None or step.is_whole:
        return block(**given)
    if not step.computed:
        image, words = given["hidden_states"], given.get("encoder_hidden_states")
        return image if words is None else (words, image)
    return block(**{name: value if name in _WITHOUT_ROWS else _some(value, step) for name, value in given.items()})


def _last(cache: StepCache, block: Block, **given: Any) -> Any:
    step, output = cache._step, _middle(cache, block, **given)
    if step is None:
        return output
    cache._step = None
    image = output[1] if isinstance(output, tuple) else output
    finished = cache.finish(step, image[:, -step.image.shape[1] :])
    return (step.words, finished) if isinstance(output, tuple) else torch.cat([step.words, finished], dim=1)


def _some(value: Any, step: _Step) -> Any:
    """The computed rows of whatever a block is given: a tensor with a row each, or a nest of such."""
    if isinstance(value, Tensor):
        return value[step.index] if value.ndim > 1 and len(value) == len(step.rows.owners) else value
    if isinstance(value, Reference):
        return value.take(step.computed)
    if isinstance(value, dict):
        return {name: _some(one, step) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_some(one, step) for one in value)
    return value


def _name(rows: Rows, place: int) -> _Name:
    return _Name(*rows.names[place][1:])


def _text(rows: Rows, place: int) -> Any:
    owner = rows.owners[place]
    return owner.text if rows.names[place][1] else owner.no_text
