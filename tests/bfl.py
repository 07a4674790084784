"""FLUX.1 as Black Forest Labs wrote it: names, shapes and equations by hand, to hold an export of ours against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention, silu


@dataclass(frozen=True)
class Shape:
    """`FluxParams` of their repository."""

    in_channels: int
    out_channels: int
    vec_in_dim: int
    context_in_dim: int
    hidden_size: int
    num_heads: int
    depth: int
    depth_single_blocks: int
    axes_dim: tuple[int, ...]
    guidance_embed: bool = True

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's name and shape."""
        hidden, wide, head = self.hidden_size, 4 * self.hidden_size, self.hidden_size // self.num_heads
        linears = {
            "img_in": (self.in_channels, hidden),
            "time_in.in_layer": (256, hidden),
            "time_in.out_layer": (hidden, hidden),
            "vector_in.in_layer": (self.vec_in_dim, hidden),
            "vector_in.out_layer": (hidden, hidden),
            "txt_in": (self.context_in_dim, hidden),
            "final_layer.linear": (hidden, self.out_channels),
            "final_layer.adaLN_modulation.1": (hidden, 2 * hidden),
        }
        if self.guidance_embed:
            linears |= {"guidance_in.in_layer": (256, hidden), "guidance_in.out_layer": (hidden, hidden)}
        scales = []
        for n in range(self.depth):
            for stream in ("img", "txt"):
                linears |= {
                    f"double_blocks.{n}.{stream}_mod.lin": (hidden, 6 * hidden),
                    f"double_blocks.{n}.{stream}_attn.qkv": (hidden, 3 * hidden),
                    f"double_blocks.{n}.{stream}_attn.proj": (hidden, hidden),
                    f"double_blocks.{n}.{stream}_mlp.0": (hidden, wide),
                    f"double_blocks.{n}.{stream}_mlp.2": (wide, hidden),
                }
                scales += [f"double_blocks.{n}.{stream}_attn.norm.{kind}_norm.scale" for kind in ("query", "key")]
        for n in range(self.depth_single_blocks):
            linears |= {
                f"single_blocks.{n}.linear1": (hidden, 3 * hidden + wide),
                f"single_blocks.{n}.linear2": (hidden + wide, hidden),
                f"single_blocks.{n}.modulation.lin": (hidden, 3 * hidden),
            }
            scales += [f"single_blocks.{n}.norm.{kind}_norm.scale" for kind in ("query", "key")]
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(scales, (head,))
        for name, (inputs, outputs) in linears.items():
            shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
        return shapes


DEPTH_DEV = Shape(
    in_channels=128, out_channels=64, vec_in_dim=768, context_in_dim=4096, hidden_size=3072, num_heads=24, depth=19,
    depth_single_blocks=38, axes_dim=(16, 56, 56),
)  # fmt: skip
"""flux-dev-depth, of the same width as ours."""


@dataclass(frozen=True)
class Flux:
    """A forward pass by their equations, over tensors by their names."""

    shape: Shape
    tensors: Mapping[str, Tensor]

    def __call__(
        self, img: Tensor, img_ids: Tensor, txt: Tensor, txt_ids: Tensor, timesteps: Tensor, y: Tensor, guidance: Tensor
    ) -> Tensor:
        img, txt = self.layer("img_in", img), self.layer("txt_in", txt)
        vec = self.embedder("time_in", _sinusoids(timesteps)) + self.embedder("vector_in", y)
        if self.shape.guidance_embed:
            vec = vec + self.embedder("guidance_in", _sinusoids(guidance))
        rotations = self.rotations(torch.cat([txt_ids, img_ids]))
        for n in range(self.shape.depth):
            img, txt = self.double(f"double_blocks.{n}", img, txt, vec, rotations)
        both = torch.cat([txt, img], dim=1)
        for n in range(self.shape.depth_single_blocks):
            both = self.single(f"single_blocks.{n}", both, vec, rotations)
        shift, scale = self.layer("final_layer.adaLN_modulation.1", silu(vec))[:, None].chunk(2, dim=-1)
        return self.layer("final_layer.linear", (1 + scale) * _normal(both[:, txt.shape[1] :]) + shift)

    def layer(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def embedder(self, name: str, x: Tensor) -> Tensor:
        return self.layer(f"{name}.out_layer", silu(self.layer(f"{name}.in_layer", x)))

    def double(self, name: str, img: Tensor, txt: Tensor, vec: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
        streams, mods, qkvs = {"txt": txt, "img": img}, {}, []
        for stream, x in streams.items():
            mods[stream] = self.layer(f"{name}.{stream}_mod.lin", silu(vec))[:, None].chunk(6, dim=-1)
            shift, scale = mods[stream][:2]
            qkv = self.layer(f"{name}.{stream}_attn.qkv", (1 + scale) * _normal(x) + shift)
            qkvs.append(self.heads(qkv, f"{name}.{stream}_attn.norm"))
        attended = _attention(*(torch.cat(parts, dim=2) for parts in zip(*qkvs, strict=True)), rotations)
        out = {"txt": attended[:, : txt.shape[1]], "img": attended[:, txt.shape[1] :]}
        for stream, x in streams.items():
            _, _, gate, shift, scale, second_gate = mods[stream]
            x = x + gate * self.layer(f"{name}.{stream}_attn.proj", out[stream])
            inner = self.layer(f"{name}.{stream}_mlp.0", (1 + scale) * _normal(x) + shift)
            streams[stream] = x + second_gate * self.layer(f"{name}.{stream}_mlp.2", gelu(inner, approximate="tanh"))
        return streams["img"], streams["txt"]

    def single(self, name: str, x: Tensor, vec: Tensor, rotations: Tensor) -> Tensor:
        hidden = self.shape.hidden_size
        shift, scale, gate = self.layer(f"{name}.modulation.lin", silu(vec))[:, None].chunk(3, dim=-1)
        joined = self.layer(f"{name}.linear1", (1 + scale) * _normal(x) + shift)
        qkv, inner = joined.split([3 * hidden, 4 * hidden], dim=-1)
        attended = _attention(*self.heads(qkv, f"{name}.norm"), rotations)
        return x + gate * self.layer(f"{name}.linear2", torch.cat([attended, gelu(inner, approximate="tanh")], dim=-1))

    def heads(self, qkv: Tensor, norm: str) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, (b, heads, tokens, d), the first two normalised."""
        q, k, v = qkv.unflatten(-1, (3, self.shape.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (
            x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.tensors[f"{norm}.{kind}_norm.scale"]
            for x, kind in ((q, "query"), (k, "key"))
        )
        return q, k, v

    def rotations(self, ids: Tensor) -> Tensor:
        """A complex number for each token and pair of features."""
        angles = [
            ids[:, axis : axis + 1].double() * 10_000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
            for axis, dim in enumerate(self.shape.axes_dim)
        ]
        angle = torch.cat(angles, dim=-1)
        return torch.polar(torch.ones_like(angle), angle)


def _sinusoids(t: Tensor) -> Tensor:
    frequencies = torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    angles = 1000 * t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _normal(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], eps=1e-6)


def _attention(q: Tensor, k: Tensor, v: Tensor, rotations: Tensor) -> Tensor:
    turned = [
        torch.view_as_real(torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous()) * rotations)
        for x in (q, k)
    ]
    q, k = (x.flatten(-2).float() for x in turned)
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
