"""`dsd plan` tells the disk of the cache under each text choice as a cache that is made then takes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from latent_parts import SIZES, key, told_apart, without_t5
from training_parts import SimplePair, dataset_in, small_config

from dsd.backbones.cost import shape_of
from dsd.backbones.registry import load_backbone
from dsd.backbones.stock import StockBackbone
from dsd.cli.main import main
from dsd.data.latents import TextCache, build_cache
from dsd.data.sources import Source
from dsd.train.cache_cost import assumed, cache_costs, counted
from dsd.train.config import TrainConfig

DOCS = Path(__file__).parents[1] / "docs"
PAIRS = 60
TOKENS = 96


def source_of(pairs: Sequence[SimplePair]) -> Source:
    return Source(examples=lambda: iter(pairs), fingerprint="", total=len(pairs))


def measured(folder: Path, backbone: StockBackbone, pairs: Sequence[SimplePair], text: TextCache) -> int:
    build_cache(pairs, backbone, folder, key(text=text, max_sequence_length=TOKENS))
    return sum(path.stat().st_size for path in folder.glob("shard-*"))


def config_of(base: str) -> TrainConfig:
    return small_config(base=base, max_sequence_length=TOKENS)


@pytest.mark.parametrize("text", ["whole", "live"])
@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_disk_is_told_within_a_twentieth(family: str, text: TextCache, tmp_path: Path) -> None:
    base, pairs = tiny.FAMILIES[family](), told_apart(PAIRS, ((64, 64),))
    config = config_of(base)
    told = cache_costs(config, shape_of(base), assumed(config, (64, 64)), PAIRS)[text].disk
    assert told == pytest.approx(measured(tmp_path, load_backbone(base, transformer=False), pairs, text), rel=0.05)


def test_disk_of_trimmed_captions_is_told_within_a_twentieth(tmp_path: Path) -> None:
    pairs, backbone, config = told_apart(PAIRS, ((64, 64),)), without_t5(), config_of(tiny.sd3())
    contents = counted(source_of(pairs), config, None, lambda words: backbone.real_tokens(words, TOKENS))
    assert contents.tokens == 0
    told = cache_costs(config, shape_of(tiny.sd3()), contents, PAIRS)
    assert told["trimmed"].disk == pytest.approx(measured(tmp_path, backbone, pairs, "trimmed"), rel=0.05)
    assert told["trimmed"].disk < 0.7 * told["whole"].disk


@pytest.mark.parametrize("text", ["whole", "live"])
def test_what_pairs_share_and_their_sizes_are_counted_in_the_data(text: TextCache, tmp_path: Path) -> None:
    large = [(2 * height, 2 * width) for height, width in SIZES]
    firsts = [pair for pair in told_apart(PAIRS, large) for _ in (0, 1)]
    own = told_apart(2 * PAIRS, [size for size in large for _ in (0, 1)])
    pairs = [
        replace(pair, reference=first.reference, target_caption=first.target_caption)
        for first, pair in zip(firsts, own, strict=True)
    ]
    config = config_of(tiny.dev())
    contents = counted(source_of(pairs), config, None, None)
    assert contents.captions == 0.5 and sum(contents.pictures.values()) == pytest.approx(1.5)
    told = cache_costs(config, shape_of(tiny.dev()), contents, len(pairs))[text].disk
    backbone = load_backbone(tiny.dev(), transformer=False)
    assert told == pytest.approx(measured(tmp_path, backbone, pairs, text), rel=0.05)


def test_the_paper_s_cache_is_named_under_each_choice(capsys: Any) -> None:
    assert main(["plan", "flux-dev", "--gpu-hour-price", "2.5"]) == 0
    out = capsys.readouterr().out
    [(time, more)] = re.findall(r"\ntime +(\d+ d \d+ h) on .*\n(?:.*\n)+cache, text live .* (\d+ d \d+ h) more", out)
    [(whole, live)] = re.findall(r"text whole .*, (\d+ h \d+ min) to encode .*\n(?:.*\n)+.* (\d+ min \d+ s) to", out)
    training, datasets = ((DOCS / name).read_text(encoding="utf-8") for name in ("training.md", "datasets.md"))
    assert f"57.5 GiB, 219 ms a sample and {time} for the paper's" in training
    assert f"| 1.89 TB | {whole} | nothing |" in datasets and f"| 420 GB | {whole} | nothing |" in datasets
    assert f"| 210 GB | {live} | {more} (" in datasets
    assert re.search(r"\n\* no checkpointing, 2 samples at once, compiled +219 ms and 8\.904e\+13 .*, 57\.5 GiB", out)
    assert re.search(
        r"\nfull checkpointing, \d+ samples at once, compiled +\d+ ms and 1\.(29\d|3|30\d)e\+14 operations a", out
    )
    assert re.search(r"cache, text whole +1\.89 TB of disk for 400,000 pairs, .* to encode \(price: ", out)
    assert re.search(r"cache, text trimmed +4\d\d GB of disk", out)
    assert re.search(r"cache, text live +21\d GB of disk .* more while training .* memory on each device", out)
    assert "every pair has two pictures and a caption of its own, which fills 64 text tokens" in out


def test_t5_takes_the_operations_that_it_is_known_for() -> None:
    assert shape_of("black-forest-labs/FLUX.1-dev").text_operations(512) == pytest.approx(4.9e12, rel=0.03)


def test_the_plan_counts_in_one_s_own_data(tmp_path: Path, capsys: Any) -> None:
    dataset_in(tmp_path / "dataset")
    words = ["plan", "tiny", "--train.base", tiny.schnell(), "--frame", "32", "32", "--data", str(tmp_path / "dataset")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"counted: the first 12 examples have 1\.50 different .* 0\.33 .* text tokens by the base's tok", out
    )
    assert main([*words[:-1], str(tmp_path / "nowhere")]) == 2
