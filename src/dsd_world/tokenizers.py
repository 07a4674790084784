"""Tokenizers of the embedded models: the world's words whole, everything else letter by letter."""

from __future__ import annotations

import string
from collections import Counter
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, T5Tokenizer

from dsd_world.captions import vocabulary

_END = "</w>"


def t5_tokenizer(max_length: int) -> T5Tokenizer:
    """A Unigram tokenizer: a piece a word of the world, a piece a printable character for all other text."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -8.0)]
    pieces += [(f"▁{word}", -2.0) for word in vocabulary() if word.isalnum()]
    pieces += [(character, -9.0) for character in string.ascii_letters + string.digits + string.punctuation]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=max_length)


def clip_tokenizer(max_length: int) -> CLIPTokenizer:
    """A byte-level BPE tokenizer whose merges make every word of the world one token."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges([word for word in vocabulary() if word.isalpha()])
    pieces = ["<|startoftext|>", "<|endoftext|>", *characters, *(f"{c}{_END}" for c in characters)]
    pieces += [left + right for left, right in merges]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)  # pyright: ignore[reportArgumentType]


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges down to whole words; ties are broken by spelling, so every process finds the same ones."""
    split = [[*word[:-1], word[-1] + _END] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for pieces in split for pair in pairwise(pieces)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        split = [_merged(pieces, best) for pieces in split]
    return merges


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
