"""The latent cache gives each sample its own pictures and words, whatever the order of building."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from training_parts import FRAME, KEY, cache_in, simple_pairs

from dsd.backbones.flux.backbone import FluxBackbone
from dsd.data.latents import LatentCache, build_cache
from dsd.errors import UserError
from dsd.images import to_tensor


@pytest.fixture(scope="module")
def backbone() -> FluxBackbone:
    return FluxBackbone.from_pretrained(tiny.schnell(), transformer=False)


def test_each_row_holds_the_latents_and_words_of_its_pair(tmp_path: Path, backbone: FluxBackbone) -> None:
    pairs = simple_pairs(7)
    build_cache(pairs, backbone, tmp_path, KEY, shard_samples=3)
    cache = LatentCache(tmp_path)
    assert cache.ids == [pair.id for pair in pairs]
    assert cache.grids == [pair.grid for pair in pairs]
    rows = [5, 0, 5, 6]
    samples = cache.samples(rows)
    wanted = [pairs[row] for row in rows]
    text = backbone.encode_text([pair.target_caption for pair in wanted], tiny.TEXT_TOKENS)
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)
    close(samples.frames[:, 0], backbone.encode(to_tensor([p.reference for p in wanted])))
    close(samples.frames[:, 1], backbone.encode(to_tensor([p.target for p in wanted])))
    close(samples.text.tokens, text.tokens)
    close(samples.text.pooled, text.pooled)


def test_black_frame_and_empty_text_are_there_once(tmp_path: Path, backbone: FluxBackbone) -> None:
    cache = cache_in(tmp_path)
    torch.testing.assert_close(cache.empty_frame, backbone.encode(-torch.ones(1, 3, FRAME, FRAME)))
    torch.testing.assert_close(cache.empty_text.tokens, backbone.encode_text([""], tiny.TEXT_TOKENS).tokens)


def test_a_picture_in_several_pairs_is_encoded_once(tmp_path: Path) -> None:
    cache_in(tmp_path, simple_pairs(12, per_grid=6))  # 2 grids of 7 panels
    assert sum(len(load_file(path)["frames.32x32"]) for path in tmp_path.glob("shard-*.safetensors")) == 14


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, backbone: FluxBackbone) -> None:
    pairs = simple_pairs(8)
    build_cache(pairs, backbone, tmp_path, KEY, shard_samples=3)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "shard-00001.safetensors").unlink()
    kept = (tmp_path / "shard-00000.safetensors").stat().st_mtime_ns
    build_cache(pairs, backbone, tmp_path, KEY, shard_samples=3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole
    assert (tmp_path / "shard-00000.safetensors").stat().st_mtime_ns == kept


def test_a_cache_of_other_settings_is_refused(tmp_path: Path, backbone: FluxBackbone) -> None:
    build_cache(simple_pairs(2), backbone, tmp_path, KEY)
    with pytest.raises(UserError, match=r"holds latents with max_sequence_length = 8 \(now 16\)"):
        build_cache(simple_pairs(2), backbone, tmp_path, replace(KEY, max_sequence_length=16))


def test_a_size_that_the_model_does_not_take_is_refused_unless_a_frame_size_is_given(
    tmp_path: Path, backbone: FluxBackbone
) -> None:
    pairs = simple_pairs(2)
    pairs[1] = replace(pairs[1], target=tiny.picture((41, 48)))
    with pytest.raises(UserError, match=r"41x48 .* closest size is 40x48; give train\.frame_size or train\.buckets"):
        build_cache(pairs, backbone, tmp_path / "refused", KEY)
    build_cache(pairs, backbone, tmp_path / "resized", replace(KEY, frame_size=(16, 24)))
    assert LatentCache(tmp_path / "resized").samples([0, 1]).frames.shape[3:] == (4, 6)


def test_no_pairs_is_an_error(tmp_path: Path, backbone: FluxBackbone) -> None:
    with pytest.raises(UserError, match="no example"):
        build_cache([], backbone, tmp_path, KEY)
