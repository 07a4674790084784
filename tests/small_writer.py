"""A language model of two layers and random weights, as a folder of transformers and as a GGUF file."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import tiny
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_END = "<|end|>"


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and the pieces of a verdict."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[_END], initial_alphabet=alphabet)  # pyright: ignore[reportCallIssue]
    words.train_from_iterator(['{"same": true}', '{"same": false}'] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=_END)


def network(vocabulary: int, end: int) -> LlamaForCausalLM:
    """Lively random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=end, bos_token_id=None, initializer_range=0.3,
        tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@cache
def folder(template: bool = True) -> Path:
    """In the layout of transformers, with a chat template or without."""
    path = tiny.scratch() / f"writer-{template}"
    words = tokenizer()
    words.chat_template = TEMPLATE if template else None
    words.save_pretrained(path)
    network(len(words), words.eos_token_id).save_pretrained(path)
    return path


@cache
def gguf_file() -> Path:
    """The same weights as one file."""
    path = tiny.scratch() / "writer-gguf" / "writer.gguf"
    path.parent.mkdir()
    words = tokenizer()
    model = network(len(words), words.eos_token_id)
    config, state = model.config, model.state_dict()
    file = GGUFWriter(str(path), "llama")
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    file.add_vocab_size(config.vocab_size)
    backend = words.backend_tokenizer
    file.add_tokenizer_model("gpt2")
    file.add_token_list([words.convert_ids_to_tokens(i) for i in range(len(words))])
    file.add_token_types([3 if i == words.eos_token_id else 1 for i in range(len(words))])
    merges = json.loads(backend.to_str())["model"]["merges"]
    file.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in merges])
    file.add_eos_token_id(words.eos_token_id)
    file.add_chat_template(TEMPLATE)
    heads, width = config.num_attention_heads, config.hidden_size

    def interleaved(weight: torch.Tensor) -> torch.Tensor:
        return weight.reshape(heads, 2, width // heads // 2, width).transpose(1, 2).reshape(width, width)

    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    tensors = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    tensors |= {
        f"blk.{n}.{there}": f"model.layers.{n}.{here}"
        for n in range(config.num_hidden_layers)
        for here, there in names.items()
    }
    for there, here in tensors.items():
        weight = state[f"{here}.weight"]
        if there.endswith(("attn_q", "attn_k")):
            weight = interleaved(weight)
        file.add_tensor(f"{there}.weight", weight.contiguous().numpy())
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path
