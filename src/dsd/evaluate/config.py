"""What an evaluation is told: one frozen config, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass

from dsd.config import how_it_runs
from dsd.errors import UserError
from dsd.limits import MOST_SCALE, require_within


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What measures, and what methods see with; what needs a part that is left out is not measured."""

    identity: str | None = None
    """Vision model that tells individuals apart (embedded:NAME, a folder or a hub id), such as facebook/dinov2-base,
    for identity, diversity and copying."""
    agreement: str | None = None
    """CLIP or SigLIP for prompt following and the columns clip_i and clip_t, such as openai/clip-vit-base-patch32."""
    likeness: tuple[str, ...] = ()
    """Vision models whose mean cosine with the reference is a column, as COLUMN=MODEL: dino_i=facebook/dino-vits16,
    dinov2_i=facebook/dinov2-base."""
    judge: str | None = None
    """Who scores each picture: openai:MODEL@BASE_URL, replay:FILE or a folder. It must have no part in curation."""
    repeats: int = 3
    """How often the judge is asked each question."""
    metrics: tuple[str, ...] = ()
    """Columns of the encoders for identity and agreement to show; when left out all that can be measured."""
    vision: str | None = None
    """Image encoder of IP-Adapter, such as openai/clip-vit-large-patch14."""
    captioner: str | None = None
    """Chat model that captions the references of methods that are fitted to them; None for none."""
    teacher_guidance: float = 1.0
    """True guidance of methods that see no picture; 1 is off."""
    apart: bool = how_it_runs(True)
    """Have each method draw in a process of its own, so that its memory can be told; --no-apart is quicker."""

    def __post_init__(self) -> None:
        require_within("repeats", self.repeats, 1)
        require_within("teacher_guidance", self.teacher_guidance, -MOST_SCALE, MOST_SCALE)

    @property
    def likeness_models(self) -> dict[str, str]:
        """The models of `likeness` by their columns.

        Raises:
            UserError: one is not given as COLUMN=MODEL.
        """
        models = {}
        for given in self.likeness:
            column, _, model = given.partition("=")
            if not column or not model:
                raise UserError(
                    f'--likeness got "{given}", but must be COLUMN=MODEL, such as dino_i=facebook/dino-vits16'
                )
            models[column] = model
        return models
