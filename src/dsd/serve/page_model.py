"""What the page says and asks of the model that draws."""

from __future__ import annotations

from dataclasses import dataclass

from dsd.generate.engine import Engine
from dsd.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A model as the page's controls need it.

    Attributes:
        name: for people, and for the metadata of pictures.
        base: as its adapter names it; empty where nothing does.
        height, width: of a picture in pixels, where nothing else is asked for.
        multiple: what both must be multiples of.
        references: pictures that it takes.
        steps, text_scale, image_scale: what it was trained to be drawn with.
    """

    name: str
    base: str
    height: int
    width: int
    multiple: int
    references: int
    steps: int
    text_scale: float
    image_scale: float

    @property
    def most_side(self) -> int:
        """The largest height and width that the page offers: twice the usual larger one."""
        return 2 * max(self.height, self.width)

    def wanted(self, given: int) -> str:
        """What to say of another number of references than the model takes."""
        if self.references == 1:
            return "there is no reference picture; drop one at the left, or take an example"
        return f"{given} reference pictures are there, but this model takes {self.references}; give {self.references}"

    @classmethod
    def of(cls, engine: Engine) -> Shown:
        """What the page says of the model that an engine draws with."""
        facts, adapter = engine.facts, engine.pipeline.adapter
        sampling = Sampling() if adapter is None else adapter.sampling
        return cls(
            name=facts.model,
            base="" if adapter is None else adapter.base,
            height=facts.size[0],
            width=facts.size[1],
            multiple=facts.multiples_of,
            references=facts.references,
            steps=sampling.steps,
            text_scale=sampling.text_scale,
            image_scale=sampling.image_scale,
        )


def unread(engine: Engine, prompt: str) -> str:
    """What the model does not read of a prompt, in a sentence; empty where it reads all of it."""
    return ""
