"""What the page says and asks of the model that draws."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dsd.errors import UserError
from dsd.generate import prompting
from dsd.generate.engine import Engine
from dsd.sampling import Sampling
from dsd.serve.orders import is_text, most_pixels
from dsd.serve.settings import Limits, Usual

UNSAID = 512
"""Height and width in pixels to begin with, where the model does not say at what size it draws."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A model as the page's controls need it.

    Attributes:
        name: for people, and for the metadata of pictures.
        base: as its adapter names it; empty where nothing does.
        height, width: of a picture in pixels, where nothing else is asked for.
        multiple: what both must be multiples of.
        references: pictures that it takes.
        sampling: how it was trained to be drawn.
        takes_guidance: whether it has embedded guidance.
        limits: what a visitor may ask for.
        most_pixels: of a picture; what it was trained at may be drawn anyway.
    """

    name: str
    base: str
    height: int
    width: int
    multiple: int
    references: int
    sampling: Sampling
    takes_guidance: bool
    limits: Limits
    most_pixels: int

    @property
    def most_side(self) -> int:
        """The largest height and width that the page offers: twice the usual larger one."""
        return 2 * max(self.height, self.width)

    def wanted(self, given: int) -> str:
        """What to say of another number of references than the model takes."""
        if self.references == 1:
            return "there is no reference picture; drop one at the left, or take an example"
        return f"{given} reference pictures are there, but this model takes {self.references}; give {self.references}"

    def require(self, prompt: str, negative_prompt: str, height: int, width: int) -> None:
        """Holds a visitor to the limits that the controls cannot hold them to.

        Raises:
            UserError: Words or a size beyond them.
        """
        most = self.limits.prompt_characters
        for said, text in (("prompt", prompt), ("negative prompt", negative_prompt)):
            if len(text) > most:
                raise UserError(f"the {said} has {len(text):,} characters, but at most {most:,} are read; shorten it")
            if not is_text(text):
                raise UserError(f"the {said} holds characters that are no text, such as NUL; leave them out")
        if height * width > self.most_pixels and (height, width) != (self.height, self.width):
            raise UserError(
                f"a picture of {width}x{height} is asked for, but at most {self.most_pixels:,} pixels are drawn; "
                "make it smaller"
            )

    @classmethod
    def of(cls, engine: Engine, name: str, usual: Usual, limits: Limits) -> Shown:
        """What the page says of the model that an engine draws with.

        Args:
            engine: with its model.
            name: that the model goes by.
            usual: how to sample to begin with; what it leaves open is the model's.
            limits: what a visitor may ask for.
        """
        facts = engine.facts
        height, width = facts.size or (UNSAID // facts.multiple * facts.multiple,) * 2
        return cls(
            name=name or facts.base,
            base=facts.base,
            height=height,
            width=width,
            multiple=facts.multiple,
            references=facts.references,
            sampling=replace(facts.sampling, **usual.said()),
            takes_guidance=facts.takes_guidance,
            limits=limits,
            most_pixels=most_pixels(facts, limits),
        )


def unread(engine: Engine, prompt: str) -> str:
    """What the model does not read of a prompt, in a sentence; empty where it reads all of it."""
    return prompting.unread(engine.pipeline.backbone, prompt, engine.facts.text_tokens).sentence()
