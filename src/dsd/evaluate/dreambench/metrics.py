"""What encoders say of samples, beside the judge: cosines with reference and prompt, diversity; and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dsd.config import from_json
from dsd.evaluate.dreambench.samples import PROMPTS, Collection, Cost, SampleFolder
from dsd.evaluate.encoders import ImageEncoder, PictureTextEncoder
from dsd.evaluate.measure import Scores
from dsd.evaluate.metrics import cosine
from dsd.evaluate.metrics.likeness import diversity, vendi
from dsd.images import load_image
from dsd.log import progress


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """What measures; each may be left out.

    Attributes:
        likeness: vision models by their columns, such as ``dino_i`` and ``dinov2_i``: the mean cosine with the
            reference. The first one's features also measure diversity.
        agreement: a CLIP-like pair, for ``clip_i`` and ``clip_t``.
    """

    likeness: Mapping[str, ImageEncoder] = field(default_factory=dict)
    agreement: PictureTextEncoder | None = None


@torch.inference_mode()
def measure(name: str, collections: Sequence[Collection], samples: SampleFolder, encoders: Encoders) -> Scores:
    """One value a collection of everything but the judge's scores.

    Args:
        name: of the row.
        collections: that were drawn.
        samples: of one method.
        encoders: what measures.
    """
    columns: dict[str, list[float]] = {}
    with progress(description=f"measuring: {name}", total=len(collections)) as bar:
        for collection in collections:
            for metric, value in _measured(collection, samples, encoders).items():
                columns.setdefault(metric, []).append(value)
            bar.advance(1)
    return Scores(name=name, runs=[columns])


def _measured(collection: Collection, samples: SampleFolder, encoders: Encoders) -> dict[str, float]:
    places = [(prompt, picture) for prompt in range(PROMPTS) for picture in range(samples.pictures)]
    reference = [load_image(collection.reference)]
    pictures = [load_image(samples.target(collection, *place)) for place in places]
    found: dict[str, Tensor] = {}
    for column, encoder in encoders.likeness.items():
        found[column] = cosine.with_reference(encoder.pooled(reference), encoder.pooled(pictures)[None])
    if encoders.agreement is not None:
        seen = encoders.agreement.pictures(pictures)[None]
        sentences = encoders.agreement.sentences([collection.prompts[prompt] for prompt, _ in places])[None]
        found["clip_i"] = cosine.with_reference(encoders.agreement.pictures(reference), seen)
        found["clip_t"] = cosine.with_prompts(seen, sentences)
    if samples.pictures > 1 and encoders.likeness:
        encoder = next(iter(encoders.likeness.values()))
        levels = [level.unflatten(0, (PROMPTS, samples.pictures)) for level in encoder.levels(pictures)]
        found["diversity"], found["vendi"] = diversity(levels), vendi(levels)
    costs = [from_json(Cost, samples.cost(collection, *place).read_text()) for place in places]
    return {name: float(value.mean()) for name, value in found.items()} | {
        "seconds_per_image": sum(cost.seconds for cost in costs) / len(costs),
        "prepare_seconds": max(cost.prepare_seconds for cost in costs),
        "peak_mib": max(cost.peak_mib for cost in costs),
    }
