"""A random checkpoint in the layout that the authors of Diffusion Self-Distillation published, of tiny width."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

DOUBLE = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
SINGLE = ("to_q", "to_k", "to_v")
LORA_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Released:
    """A published checkpoint on disk.

    Attributes:
        folder: Of the checkpoint.
        base: The model that it was made of.
    """

    folder: Path
    base: Path

    @property
    def transformer(self) -> dict[str, Tensor]:
        """All tensors of the transformer."""
        folder = self.folder / "transformer"
        return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}

    @property
    def lora(self) -> dict[str, Tensor]:
        """All tensors of the LoRA file."""
        return load_file(self.folder / LORA_FILE)

    def write_transformer(self, tensors: dict[str, Tensor], shards: int = 1) -> None:
        """Replaces the transformer's tensors, in one file or in several with an index."""
        folder = self.folder / "transformer"
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        if shards == 1:
            save_file(tensors, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
            return
        where = {}
        for number in range(shards):
            file = f"diffusion_pytorch_model-{number + 1:05}-of-{shards:05}.safetensors"
            names = sorted(tensors)[number::shards]
            save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
            where |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": 0}, "weight_map": where}
        (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))

    def write_lora(self, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
        """Replaces the LoRA file."""
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, self.folder / LORA_FILE, {"format": "pt"} | (metadata or {}))


def released(folder: Path, *, rank: int = 4, seed: int = 3, dtype: torch.dtype = torch.float32) -> Released:
    """Writes a checkpoint: the base's transformer with a `c_embedder` that learnt something, a LoRA on attention."""
    base = Path(tiny.dev())
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 0.2) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(dtype)

    (folder / "transformer").mkdir(parents=True)
    config = json.loads((base / "transformer" / "config.json").read_text())
    config |= {"_class_name": "FluxTransformer2DConditionalModel"}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(base / "transformer" / _FILE).items()}
    checkpoint = Released(folder, base)
    shape = tensors["x_embedder.weight"].shape
    tensors |= {"c_embedder.weight": random(*shape), "c_embedder.bias": random(shape[0])}
    tensors["x_embedder.weight"] = tensors["x_embedder.weight"] + random(*shape, scale=0.05)
    checkpoint.write_transformer(tensors)
    lora = {}
    for block, count, layers in (
        ("transformer_blocks", config["num_layers"], DOUBLE),
        ("single_transformer_blocks", config["num_single_layers"], SINGLE),
    ):
        for number in range(count):
            for layer in layers:
                name = f"{block}.{number}.attn.{layer}"
                outputs, inputs = tensors[f"{name}.weight"].shape
                lora[f"transformer.{name}.lora_A.weight"] = random(rank, inputs)
                lora[f"transformer.{name}.lora_B.weight"] = random(outputs, rank)
    checkpoint.write_lora(lora)
    return checkpoint


_FILE = "diffusion_pytorch_model.safetensors"
