"""Training on small cards: a base in fewer bits has right gradients, and its adapter serves the whole base."""

from __future__ import annotations

import gc
import json
import re
import sys
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional
from training_parts import shake, simple_pairs, small_config, task_in
from transformers import T5EncoderModel

from dsd.backbones.adapter import apply_adapter, load_metadata
from dsd.backbones.cost import shape_of
from dsd.backbones.protocol import Text
from dsd.backbones.registry import FAMILIES, load_backbone
from dsd.backbones.stock import StockBackbone
from dsd.cli.main import main
from dsd.errors import UserError
from dsd.generate import fast
from dsd.generate.two_frame import TwoFramePipeline
from dsd.models import resolve
from dsd.recipes.recipe import Recipe
from dsd.recipes.registry import recipe
from dsd.sampling import Sampling
from dsd.train import offload, quantised, trainer
from dsd.train.cost import counted
from dsd.train.quantised import FrozenLinear
from dsd.train.trainer import train

PRECISIONS = ["8bit", "4bit"]
KINDS = {"8bit": "Int8Tensor", "4bit": "NF4Tensor"}
ROUNDING = {"8bit": 0.01, "4bit": 0.12}
"""Of weights that are evenly spread, as a share of their size; a little more than there is."""


def attached(precision: Any, base: str | None = None, **changes: Any) -> tuple[StockBackbone, Any]:
    config = small_config(base=base or tiny.schnell(), base_precision=precision, **{"rank": 4, **changes})
    backbone = load_backbone(config.base, text=False, vae=False)
    return backbone, trainer.attach(config, backbone)


def velocity(backbone: StockBackbone) -> Tensor:
    torch.manual_seed(0)
    channels, text = backbone.latent_channels, backbone.transformer.config
    width = text.get("joint_attention_dim")
    pooled = text.get("pooled_projection_dim")
    latents, condition = torch.randn(2, 2, 2, channels, 8, 8)
    words = Text(torch.randn(2, tiny.TEXT_TOKENS, width), None if pooled is None else torch.randn(2, pooled))
    return backbone.velocity(latents, torch.tensor([0.3, 0.8]), words, condition=condition, guidance=2.0)


def made_whole(backbone: StockBackbone) -> None:
    """Puts plain layers of the same rounded weights in the place of those in fewer bits."""
    for name, layer in list(backbone.transformer.named_modules()):
        if isinstance(layer, FrozenLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            plain.weight, plain.bias = nn.Parameter(quantised.whole(layer.weight), requires_grad=False), layer.bias
            backbone.transformer.set_submodule(name, plain)


def gradients(backbone: StockBackbone, adapter: Any) -> dict[str, Tensor]:
    (velocity(backbone) ** 2).mean().backward()
    found = {name: parameter.grad for name, parameter in adapter.parameters.items()}
    for parameter in adapter.parameters.values():
        parameter.grad = None
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("family", "checkpointing"), [("flux", "off"), ("flux", "full"), ("sd3", "selective"), ("flux2", "selective")]
)
def test_gradients_through_fewer_bits_are_those_of_the_weights_they_stand_for(
    precision: str, family: str, checkpointing: Any
) -> None:
    backbone, adapter = attached(precision, tiny.FAMILIES[family](), gradient_checkpointing=checkpointing)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters.values():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    ours, drawn = gradients(backbone, adapter), velocity(backbone)
    made_whole(backbone)
    theirs = gradients(backbone, adapter)
    torch.testing.assert_close(drawn, velocity(backbone), atol=1e-5, rtol=1e-4)
    assert ours.keys() == theirs.keys() and all(value is not None for value in ours.values())
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_inputs_of_a_layer_get_the_gradient_of_the_weights_it_stands_for(precision: Any, autocast: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32).requires_grad_(False)
    rounded = layer.weight.clone()
    for make in quantised._makers(precision)[:1]:
        make(layer)
    frozen = FrozenLinear(layer)
    assert type(frozen.weight.data).__name__ == KINDS[precision]
    assert 0 < (quantised.whole(frozen.weight) - rounded).norm() < ROUNDING[precision] * rounded.norm()
    ours, theirs = (torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result, wanted = frozen(ours), functional.linear(theirs, quantised.whole(frozen.weight), layer.bias)
    assert result.dtype == wanted.dtype == (torch.bfloat16 if autocast else torch.float32)
    (result.float() ** 2).sum().backward()
    (wanted.float() ** 2).sum().backward()
    accuracy: dict[str, Any] = {"atol": 0.1, "rtol": 0.05} if autocast else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(result, wanted, **accuracy)
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, **accuracy)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_pass_keeps_no_whole_weights_for_the_backward_pass(precision: Any) -> None:
    layer = nn.Linear(64, 64, bias=False).requires_grad_(False)
    quantised._makers(precision)[0](layer)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        FrozenLinear(layer)(torch.randn(1, 64, requires_grad=True))
    assert [type(value.data).__name__ for value in kept] == [KINDS[precision]]


def test_weights_of_nothing_stay_nothing_in_4_bits() -> None:
    layer = nn.Linear(64, 64, bias=False).requires_grad_(False)
    nn.init.zeros_(layer.weight)
    quantised._makers("4bit")[0](layer)
    assert not quantised.whole(layer.weight).any()


@pytest.mark.parametrize(("rank", "targets"), [(4, "all-linear"), (32, "attention")])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_trained_and_what_is_outside_the_blocks_stays_whole(family: str, rank: int, targets: str) -> None:
    backbone, adapter = attached("4bit", tiny.FAMILIES[family](), rank=rank, lora_targets=targets)
    full, same = attached("full", tiny.FAMILIES[family](), rank=rank, lora_targets=targets)
    assert adapter.parameters.keys() == same.parameters.keys() and adapter.low_rank == same.low_rank
    for name, parameter in adapter.parameters.items():
        assert torch.equal(parameter, same.parameters[name]) and parameter.dtype == torch.float32
    smaller = [name for name, layer in backbone.transformer.named_modules() if isinstance(layer, FrozenLinear)]
    assert smaller and all(name.startswith(backbone.layers.blocks) for name in smaller)
    assert not any(name in adapter.whole for name in smaller)
    assert adapter.whole and not fast.smaller(full.transformer) - {"Parameter"}


def test_the_adapter_draws_on_the_whole_base_and_says_what_it_was_trained_on(tmp_path: Path) -> None:
    base = tiny.flux2()
    config = small_config(base=base, base_precision="4bit", steps=2, learning_rate=1e-2, ema_decay=0.0)
    adapter = train(config, simple_pairs(4), tmp_path / "run")
    metadata = load_metadata(adapter)
    assert metadata.base_precision == "4bit" and json.loads((adapter / "adapter.json").read_text())["rank"] == 4
    pipeline: Any = TwoFramePipeline.from_pretrained(base, adapter=str(adapter))
    pipeline.set_progress_bar_config(disable=True)
    ((picture,),) = [pipeline("a cat", tiny.picture(), generator=torch.Generator().manual_seed(0)).images]
    assert picture.size == (32, 32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_adapter_on_the_base_is_what_was_trained_but_for_the_rounding_of_the_base(
    precision: str, tmp_path: Path
) -> None:
    task = task_in(tmp_path, small_config(rank=4, lora_targets="attention", base_precision=precision, ema_decay=0.0))
    with torch.no_grad():
        whole, rounded = (load_backbone(tiny.schnell(), text=False, vae=False) for _ in range(2))
        for name, layer in task.backbone.transformer.named_modules():
            if isinstance(layer, FrozenLinear):
                at = f"{name.removesuffix('.base_layer')}.weight"
                rounded.transformer.get_parameter(at).copy_(quantised.whole(layer.weight))
        shake(task)
        task.ema.update(0)
        trainer.export(task, tmp_path / "adapter")
        trained = velocity(task.backbone)
        for backbone in (whole, rounded):
            apply_adapter(backbone, tmp_path / "adapter")
        torch.testing.assert_close(velocity(rounded), trained, atol=1e-4, rtol=1e-3)
        assert (velocity(whole) - trained).norm() > 1e-3


WORLD = {"flux-dev-lora-24gb": "tiny-lora-24gb", "flux-schnell-lora": "tiny-schnell-lora",
         "sd35-medium-lora": "tiny-medium-lora"}  # fmt: skip
"""Recipes for small cards, and their twins on the embedded models."""


def twin(name: str) -> Recipe:
    """The recipe that the package adds under a name."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["dsd.recipes"][name].partition(":")
    return getattr(import_module(module), function)()


@pytest.mark.parametrize("name", WORLD)
def test_the_tiny_twin_goes_the_same_way_and_draws(name: str, tmp_path: Path) -> None:
    found, large = twin(WORLD[name]), recipe(name)
    same = (
        "base_precision",
        "gradient_checkpointing",
        "batch_size",
        "gradient_accumulation",
        "lora_targets",
        "optimizer",
    )
    assert {field: getattr(found.train, field) for field in same} == {
        field: getattr(large.train, field) for field in same
    }
    assert found.train.base == "embedded:tiny-flux" and found.adapter == f"runs/{WORLD[name]}/train/adapter"
    config = replace(
        found.train, steps=2, batch_size=2, gradient_accumulation=2, held_out=1, sample_every=2, checkpoint_every=2,
        sampling=Sampling(steps=1), frame_size=(64, 64),
    )  # fmt: skip
    adapter = train(config, simple_pairs(4), tmp_path / "run")
    pipeline: Any = TwoFramePipeline.from_pretrained(resolve(config.base), adapter=str(adapter))
    pipeline.set_progress_bar_config(disable=True)
    (picture,) = pipeline("a red cat", tiny.picture(), generator=torch.Generator().manual_seed(0)).images
    assert picture.size == (64, 64) and len(set(picture.getdata())) > 1


@pytest.mark.parametrize(("card", "said"), [("4", "yes, .* left"), ("0.001", "no, .* missing")])
def test_a_plan_says_whether_a_card_is_enough(card: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "tiny", "--card", card]) == 0
    assert re.search(rf"fits a card of {card} GB +{said}", capsys.readouterr().out)


def test_bits_are_counted_as_they_are_kept() -> None:
    """What is counted without weights is what tensors take."""
    base = tiny.dev()
    for precision in ("full", "8bit", "4bit"):
        config = small_config(base=base, base_precision=precision, rank=4, lora_targets="attention")
        found = counted(config, shape_of(base), (32, 32)).weights
        backbone, adapter = attached(precision, base, rank=4, lora_targets="attention")
        trained = set(adapter.parameters)
        kept = sum(_bytes(p) for name, p in backbone.transformer.named_parameters() if name not in trained)
        assert found == pytest.approx(kept, rel=0.1), precision


def _bytes(parameter: Tensor) -> int:
    if type(parameter.data) in (Tensor, nn.Parameter):
        return parameter.nbytes
    kept: Any = parameter
    return sum(getattr(kept, name).nbytes for name in kept.__tensor_flatten__()[0])


def test_what_cannot_be_is_a_sentence_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.full trains all weights, but train\.base_precision 8bit"):
        small_config(full=True, base_precision="8bit")
    eight = small_config(base_precision="fp8", base="no such model", mixed_precision="bf16")
    with pytest.raises(UserError, match=r"compute capability 8\.9 or higher .* but the device is cpu; give 8bit"):
        train(eight, simple_pairs(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    cuda = torch.device("cuda")
    older = quantised.no_float8(cuda, (8, 6))
    assert older is not None and "cuda of compute capability 8.6" in older
    assert quantised.no_float8(cuda, (8, 9)) is None
    with pytest.raises(UserError, match=r"train\.mixed_precision is no; give bf16"):
        replace(eight, mixed_precision="no")


def test_without_torchao_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UserError, match="speed"):
        train(small_config(base_precision="4bit"), simple_pairs(), tmp_path / "run")


def test_a_run_is_not_gone_on_with_in_other_bits_and_resumes_with_the_same(tmp_path: Path) -> None:
    config = small_config(base_precision="8bit", steps=2, checkpoint_every=1, sample_every=2, decay_from=1.0)
    train(config, simple_pairs(4), tmp_path / "whole")
    with pytest.raises(UserError, match="base_precision = '8bit' \\(now '4bit'\\)"):
        train(replace(config, base_precision="4bit"), simple_pairs(4), tmp_path / "whole")
    train(replace(config, steps=1), simple_pairs(4), tmp_path / "parts")
    train(config, simple_pairs(4), tmp_path / "parts")
    ends = [(tmp_path / run / "adapter" / "adapter.safetensors").read_bytes() for run in ("parts", "whole")]
    assert ends[0] == ends[1]


def test_float8_is_kept_for_what_multiplies_and_8_bits_for_the_modulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the product of float8 with float8, which is for GPUs: here weights alone are kept so."""
    monkeypatch.setattr(fast, "float8_config", lambda quantization: quantization.Float8WeightOnlyConfig())
    backbone, adapter = attached("fp8", lora_targets="attention", mixed_precision="bf16")
    kinds = {
        ("norm" in name, type(layer.weight.data).__name__)
        for name, layer in backbone.transformer.named_modules()
        if isinstance(layer, FrozenLinear)
    }
    assert kinds == {(False, "Float8Tensor"), (True, "Int8Tensor")}
    ours = gradients(backbone, adapter)
    made_whole(backbone)
    for name, value in gradients(backbone, adapter).items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-3, msg=name)


def test_text_encoders_are_gone_when_training_starts(tmp_path: Path) -> None:
    def encoders() -> int:
        return sum(isinstance(thing, T5EncoderModel) for thing in gc.get_objects())

    before = encoders()
    trainer.latent_cache(small_config(), simple_pairs(), tmp_path / "latents", torch.device("cpu"))
    assert encoders() == before


def test_streamed_blocks_train_to_the_same_bits_and_are_let_go(tmp_path: Path) -> None:
    """On a CPU, where streaming frees nothing, the blocks that are whole at a time are counted."""
    config = small_config(rank=4, lora_targets="attention", gradient_checkpointing="full", steps=2, sample_every=2)
    weights = {}
    for way in ("none", "blocks"):
        adapter = train(replace(config, offload=way), simple_pairs(4), tmp_path / way)
        weights[way] = (adapter / "adapter.safetensors").read_bytes()
    assert weights["none"] == weights["blocks"]
    with offload.alone(replace(config, offload="blocks")):
        backbone = load_backbone(config.base, text=False, vae=False)
        trainer.attach(replace(config, offload="blocks"), backbone)
        blocks, counts = backbone.blocks, []

        def count(*_: Any) -> None:
            counts.append(sum(type(next(block.parameters())) is not DTensor for block in blocks))

        for block in blocks:
            block.register_forward_pre_hook(count)
        velocity(backbone).square().mean().backward()
        assert len(counts) == 2 * len(blocks) and 1 <= max(counts) <= 2
        count()
        assert counts[-1] == 0


def test_blocks_are_not_streamed_where_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"train\.offload blocks .* which train\.base_precision 8bit has none of"):
        small_config(offload="blocks", base_precision="8bit")
    with pytest.raises(UserError, match=r"train\.offload blocks .* which train\.full has none of"):
        small_config(offload="blocks", full=True)
    with pytest.raises(UserError, match="but 2 train together"):
        offload.require_alone(small_config(offload="blocks"), 2)


def test_streaming_is_counted_as_what_is_outside_the_blocks_and_a_few_of_them() -> None:
    counted = []
    for blocks in (1, 3, 20):
        with torch.device("meta"):
            backbone = load_backbone(tiny.schnell(), text=False, vae=False)
            config = {**backbone.transformer.config, "num_layers": 0, "num_single_layers": blocks}
            backbone.pipeline.transformer = type(backbone.transformer).from_config(config)
        backbone.transformer.requires_grad_(False)
        counted.append(offload.streamed_bytes(backbone, 2))
    assert counted[0] < counted[1] == counted[2]
