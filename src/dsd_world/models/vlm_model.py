"""The parts of tiny-vlm, all of them stock classes: a LLaVA of a FocalNet tower and a Llama decoder, its tokenizer
and its processor.

The tower is convolutional where a plain vision transformer has to learn locality, and its hidden states are the
sequences that LLaVA reads; its last stage gives 16 tokens a picture. A reply in JSON costs few tokens: every piece of
its scaffolding, every phrase of a scene and every fine word with its noun is one token.
"""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn
from transformers import (
    FocalNetConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from dsd_world.captions import PLACE_PHRASES, POSITION_PHRASES, vocabulary
from dsd_world.details import HUES, comparison_pieces, detail_pieces
from dsd_world.draw import PANEL_SIZE
from dsd_world.individuals import ACCESSORIES, COLORS, MOODS
from dsd_world.models.vlm_words import COMMON_WORDS, SYNONYMS

PIXELS_PER_TOKEN = 16
TOKENS_PER_IMAGE = (PANEL_SIZE // PIXELS_PER_TOKEN) ** 2
TOWER_WIDTH = 128
PAD, END, IMAGE, PICTURE = "<|pad|>", "<|end|>", "<image>", "<|picture|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SCAFFOLDING = (
    '{"subject": "',
    '", "scenes": ["',
    '", "',
    '"]}',
    '", "details": "in',
    '", "caption": "a',
    '"}',
    '{"common_subject": "',
    '", "first_details": "in',
    '", "second_details": "in',
    '", "comparison": "colour',
    '", "same": true}',
    '", "same": false}',
    '{"same": true}',
    '{"same": false}',
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}<|{{ message['role'] }}|>"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}<|picture|><image>{%- else -%}{{ part['text'] | trim }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}<|end|>{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
_PAIRS = (
    "th he in er an re nd at on nt ha es st en ed to it ou ea hi is or ti as te et ng of al de se le sa si ar ve ra"
)


def new_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows the world's words, phrases and JSON whole; all other text costs bytes."""
    vocab: dict[str, int] = {}
    for token in (PAD, END, IMAGE, PICTURE, *ROLES, *sorted(pre_tokenizers.ByteLevel.alphabet())):
        vocab[token] = len(vocab)
    merges = []
    for pair in _PAIRS.split():
        merges.append((pair[0], pair[1]))
        vocab.setdefault(pair, len(vocab))
    words = [*vocabulary(), *SYNONYMS, *COMMON_WORDS, *HUES, "nothing"]
    for word in dict.fromkeys(words):
        vocab.setdefault(f"Ġ{word}", len(vocab))
    for word in (*COLORS, *MOODS):
        vocab.setdefault(word, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (PAD, END, IMAGE, PICTURE, *ROLES)])
    phrases = [*POSITION_PHRASES, *(f" {p}" for p in (*POSITION_PHRASES, *PLACE_PHRASES))]
    phrases += [f" with a {worn}" for worn in ACCESSORIES[1:]]
    phrases += [piece for piece in detail_pieces() if piece[1:] not in HUES]
    phrases += comparison_pieces()
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in (*SCAFFOLDING, *phrases)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        bos_token=None,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def new_processor() -> LlavaProcessor:
    """Pictures of any size become 64x64 in [-1, 1], and ``<image>`` becomes one placeholder a token."""
    side = {"height": PANEL_SIZE, "width": PANEL_SIZE}
    image_processor = CLIPImageProcessorPil(
        size=side, do_center_crop=False, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=new_tokenizer(),
        patch_size=PIXELS_PER_TOKEN,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The untrained model; residual branches start at zero."""
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    vision = FocalNetConfig(
        image_size=PANEL_SIZE,
        patch_size=4,
        embed_dim=TOWER_WIDTH // 4,
        hidden_sizes=[TOWER_WIDTH // 2, TOWER_WIDTH, TOWER_WIDTH],
        depths=(2, 2, 2),
        focal_levels=(2, 2, 1),
        focal_windows=(3, 3, 3),
        mlp_ratio=3.0,
        drop_path_rate=0.0,
        use_conv_embed=True,
        hidden_size=TOWER_WIDTH,  # pyright: ignore[reportCallIssue]
    )
    text = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 128) * 128,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **special,
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),  # pyright: ignore[reportArgumentType]
            image_seq_length=TOKENS_PER_IMAGE,
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
            tie_word_embeddings=True,
        )
    )
    model.generation_config = GenerationConfig(max_new_tokens=128, do_sample=False, **special)
    _initialise(model)
    return model


def _initialise(model: LlavaForConditionalGeneration) -> None:
    ends = ("o_proj.weight", "down_proj.weight", "fc2.weight", "projection_out.weight")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not model.lm_head:
                nn.init.xavier_uniform_(module.weight)
        for name, parameter in model.named_parameters():
            if name.endswith(ends):
                parameter.zero_()
        model.get_input_embeddings().weight.normal_(std=0.06)  # pyright: ignore[reportCallIssue]
