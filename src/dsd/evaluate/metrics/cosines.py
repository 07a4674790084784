"""Mean cosines of pictures with their reference or their prompt: DINO-I, DINOv2-I and CLIP-I, and CLIP-T.

The metrics of DreamBooth's evaluation (Ruiz et al., arXiv 2208.12242, section 4.1). Features are normalised.
"""

from __future__ import annotations

from torch import Tensor

from dsd.encoders import ImageEncoder, PictureTextEncoder
from dsd.evaluate.metrics.protocol import Bench, Measure, Metric, needs, there
from dsd.evaluate.seen import Drawn, Known

_TITLES = {"dino_i": "DINO-I", "dinov2_i": "DINOv2-I", "siglip_i": "SigLIP-I"}


def likeness(column: str, encoder: ImageEncoder | None = None) -> Metric:
    """The mean cosine with the reference by a vision model.

    Args:
        column: such as ``dino_i``.
        encoder: the model; None where nothing is to be measured any more.
    """

    def on(bench: Bench) -> Measure:
        sees: ImageEncoder = there(encoder)
        return lambda known, drawn: drawn.asked.pooled(sees) @ known.reference.pooled(sees)[0]

    return Metric(
        title=_TITLES.get(column, column.replace("_", " ")),
        meaning="mean cosine of the picture's features with the reference's",
        on=on,
    )


def _with_reference(bench: Bench) -> Measure:
    encoder: PictureTextEncoder = there(bench.agreement)
    return lambda known, drawn: drawn.asked.agreed(encoder) @ known.reference.agreed(encoder)[0]


def _with_prompts(bench: Bench) -> Measure:
    encoder: PictureTextEncoder = there(bench.agreement)
    prompts = {known.subject.id: encoder.sentences(known.subject.prompts) for known in bench.known}

    def measure(known: Known, drawn: Drawn) -> Tensor:
        return (drawn.asked.agreed(encoder) * prompts[known.subject.id]).sum(1)

    return measure


CLIP_I = Metric(
    title="CLIP-I",
    meaning="mean cosine of a CLIP's features of the picture and of the reference",
    needs=needs("agreement"),
    on=_with_reference,
)
CLIP_T = Metric(
    title="CLIP-T",
    meaning="mean cosine of that CLIP's features of picture and prompt",
    needs=needs("agreement"),
    on=_with_prompts,
)
