"""Prompt following: is the prompt the sentence that fits best, among others of the same subject in other scenes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def follows_prompt(pictures: Float[Tensor, "n d"], sentences: Float[Tensor, "n k d"]) -> Bool[Tensor, " n"]:
    """Whether each picture's own prompt scores highest.

    Args:
        pictures: normalised features.
        sentences: normalised features of the prompt (first) and its distractors.
    """
    scores = torch.einsum("nd,nkd->nk", pictures, sentences)
    return (scores[:, :1] > scores[:, 1:]).all(1)
