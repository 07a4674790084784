"""What is kept where: by what is free, by what is asked, and that pictures stay what they were."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from dsd.backbones.cost import shape_of
from dsd.errors import UserError
from dsd.generate import fast, memory
from dsd.generate.memory import Kind, Need, choose
from dsd.generate.two_frame import TwoFramePipeline, pipeline_class

GIB = 2**30
CARDS: dict[float, Kind] = {
    79: "none", 47: "none", 31: "model", 23.3: "8bit", 15.2: "8bit", 11.4: "4bit", 7.4: "group", 3: "group",
    2.4: "sequential", 1: "sequential",
}  # fmt: skip
"""What is free on cards of 80, 48, 32, 24, 16, 12, 8 GB and below, and how FLUX.1-dev is kept on each."""
LARGEST_CHANGE = 0.05
"""Of a pixel in [0, 1], by 8 bits, in tiny random models."""


@cache
def dev() -> Need:
    return Need.of_shape(shape_of("black-forest-labs/FLUX.1-dev"))


def loaded(family: str = "flux") -> TwoFramePipeline:
    pipe: Any = pipeline_class(family).from_pretrained(tiny.FAMILIES[family]())
    pipe.backbone.widen()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any) -> Tensor:
    return pipe(
        "a red cat", image=tiny.picture(), height=32, width=32, num_inference_steps=2, output_type="pt",
        max_sequence_length=tiny.TEXT_TOKENS, generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip


@cache
def plain(family: str) -> Tensor:
    return drawn(loaded(family))


@pytest.mark.parametrize(("free", "kind"), CARDS.items())
def test_flux_dev_is_kept_in_the_quickest_way_that_fits(free: float, kind: Kind) -> None:
    plan = choose(int(free * GIB), dev())
    assert plan.kind == kind
    assert plan.sentence.startswith(f"memory {kind}: ") and f"{free:.1f} GiB" in plan.sentence
    assert ("may be too much" in plan.sentence) == (plan.needs > free * GIB)


def test_counts_of_flux_dev_are_those_of_its_configs() -> None:
    need = dev()
    assert need.transformer == 11_901_408_320 and sum(need.text) == 4_885_371_136
    assert need.bytes_of("none") == 2 * (11_901_408_320 + 4_885_371_136 + need.vae) + need.working
    order: list[Kind] = ["none", "model", "8bit", "4bit", "group", "sequential"]
    assert sorted(order, key=need.bytes_of, reverse=True) == order


def test_more_that_is_free_never_chooses_a_slower_way() -> None:
    order = ["sequential", "group", "4bit", "8bit", "model", "none"]
    chosen = [order.index(choose(n * GIB // 2, dev()).kind) for n in range(100)]
    assert chosen == sorted(chosen)


def test_without_kernels_for_4_bits_the_next_way_is_chosen() -> None:
    assert choose(int(11.4 * GIB), dev(), four_bits=False).kind == "group"


def test_a_pipeline_counts_as_its_networks_do() -> None:
    pipe: Any = loaded()
    need = Need.of_pipeline(pipe)
    assert need.transformer == sum(p.numel() for p in pipe.transformer.parameters())
    assert need.each == 4 and len(need.text) == 2 and need.multiplying > need.modulating > 0


@pytest.mark.parametrize("kind", ["model", "group"])
def test_offloaded_models_draw_the_same(kind: Any) -> None:
    pipe = loaded()
    plan = memory.place(pipe, "cpu", kind)
    assert plan.kind == kind
    for _ in range(2):
        assert torch.allclose(drawn(pipe), plain("flux"), atol=1e-4)


def test_on_a_cpu_auto_keeps_everything() -> None:
    pipe = loaded()
    assert memory.place(pipe, "cpu").kind == "none"
    assert torch.equal(drawn(pipe), plain("flux"))


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_8_bits_draw_nearly_the_same(family: str) -> None:
    pipe: Any = loaded(family)
    size = _bytes(pipe.transformer)
    assert memory.place(pipe, "cpu", "8bit").kind == "8bit"
    again = drawn(pipe)
    assert 0 < (again - plain(family)).abs().max() < LARGEST_CHANGE
    assert _bytes(pipe.transformer) < 0.6 * size
    assert fast.smaller(pipe.transformer) == {"Int8Tensor"}
    memory.place(pipe, "cpu", "8bit")
    assert torch.equal(drawn(pipe), again)


def test_what_is_not_known_is_a_sentence() -> None:
    given: Any = "8bits"
    with pytest.raises(UserError, match=r'memory is "8bits".*did you mean "8bit"'):
        memory.place(loaded(), "cpu", given)


def test_layer_after_layer_to_a_cpu_is_a_sentence() -> None:
    with pytest.raises(UserError, match="the device is the CPU; give memory none"):
        memory.place(loaded(), "cpu", "sequential")


def test_4_bits_without_kernels_is_a_sentence() -> None:
    with pytest.raises(UserError, match="not for cpu; give memory 8bit"):
        memory.place(loaded(), "cpu", "4bit")
    turing, ampere = torch.device("cuda:0"), torch.device("cuda:0")
    assert "capability 7.5" in str(memory.no_four_bits(turing, (7, 5), torch.bfloat16))
    assert "float32" in str(memory.no_four_bits(ampere, (8, 0), torch.float32))
    assert memory.no_four_bits(ampere, (8, 0), torch.bfloat16) is None


def test_float8_is_refused_in_a_sentence_where_it_cannot_be() -> None:
    with pytest.raises(UserError, match="the model is on the CPU; draw with speed lossless or turbo"):
        fast.quantise(loaded())
    cuda = torch.device("cuda:0")
    assert "NVIDIA A100 (compute capability 8.0)" in str(fast.refused_on(cuda, (8, 0), "NVIDIA A100"))
    assert fast.refused_on(cuda, (8, 9), "NVIDIA L4") is None
    assert fast.refused_on(cuda, (9, 0), "NVIDIA H100") is None
    assert fast.refused_on(cuda, (12, 0), "NVIDIA RTX PRO 6000") is None


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_float8_takes_linear_layers_that_see_tokens(family: str) -> None:
    pipe: Any = loaded(family)
    blocks = [pipe.transformer.get_submodule(name) for name in pipe.backbone.layers.blocks]
    taken = [name for part in blocks for name, layer in part.named_modules() if fast.multiplies(layer, name)]
    left = [
        name
        for part in blocks
        for name, layer in part.named_modules()
        if isinstance(layer, nn.Linear) and not fast.multiplies(layer, name)
    ]
    assert any("attn" in name for name in taken) and any("ff" in name for name in taken)
    assert all("norm" in name for name in left)


def test_a_lora_beside_the_weights_is_refused() -> None:
    from peft import LoraConfig

    pipe: Any = loaded()
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(UserError, match="load the adapter with fuse=True"):
        memory.place(pipe, "cpu", "8bit")


def test_missing_torchao_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UserError, match=r"pip install 'dsd\[speed\]'"):
        memory.place(loaded(), "cpu", "8bit")


def _bytes(network: Any) -> int:
    """What weights take, also where a tensor stands for several."""
    total = 0
    for parameter in network.parameters():
        names = getattr(parameter, "tensor_data_names", None)
        parts = [parameter] if names is None else [getattr(parameter, name) for name in names]
        total += sum(part.numel() * part.element_size() for part in parts)
    return total
