"""Tokenizers of the embedded models: the world's words whole, everything else letter by letter."""

from __future__ import annotations

import string

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from dsd.world.captions import vocabulary


def t5_tokenizer(max_length: int) -> T5Tokenizer:
    """A Unigram tokenizer: a piece a word of the world, a piece a printable character for all other text."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -8.0)]
    pieces += [(f"▁{word}", -2.0) for word in vocabulary() if word.isalnum()]
    pieces += [(character, -9.0) for character in string.ascii_letters + string.digits + string.punctuation]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=max_length)


def clip_tokenizer(max_length: int) -> CLIPTokenizer:
    """A byte-level BPE tokenizer whose merges make every word of the world one token."""
    words = [word for word in vocabulary() if word.isalpha()]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    bpe.train_from_iterator(words, trainer)
    merges = [tuple(merge) for merge in _merges(bpe)]
    vocab = bpe.get_vocab()
    for character in sorted(alphabet):
        vocab.setdefault(f"{character}</w>", len(vocab))
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)


def _merges(bpe: Tokenizer) -> list[list[str]]:
    import json

    merges = json.loads(bpe.to_str())["model"]["merges"]
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
