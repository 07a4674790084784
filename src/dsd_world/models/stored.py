"""How embedded models are stored: rounded to float16, and so that stock classes compute with them unasked."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def rounded(model: Model) -> Model:
    """Rounds a model's weights, in place, to numbers of float16 that are held in float32.

    transformers computes in what a file holds, while processors and other models give float32: a file of float16 fails
    at its first product unless a dtype is named. The digits that are missing pack to next to nothing.
    """
    return model.half().float()
