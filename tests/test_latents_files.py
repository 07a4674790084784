"""The files of a cache: checked, made anew, mapped, shared among processes, and what of captions they keep."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from latent_parts import key, shards_in, told_apart, without_t5
from safetensors.torch import load_file
from training_parts import dataset_in, small_config

import dsd
from dsd.backbones.registry import load_backbone
from dsd.backbones.stock import StockBackbone
from dsd.data.latents import LatentCache, Share, build_cache, build_share, finish, is_complete
from dsd.data.own import OwnExample
from dsd.data.sources import open_source
from dsd.errors import UserError
from dsd.train.trainer import train

PAIRS = told_apart(14)


@pytest.fixture(scope="module")
def backbone() -> StockBackbone:
    return load_backbone(tiny.schnell(), transformer=False)


@pytest.fixture
def folder(tmp_path: Path, backbone: StockBackbone) -> Path:
    build_cache(PAIRS, backbone, tmp_path / "latents", key(), shard_samples=4)
    return tmp_path / "latents"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def swap(path: Path) -> None:
    path.write_bytes((path.parent / "shard-00002.safetensors").read_bytes())


@pytest.mark.parametrize("damage", [flip, shorten, swap, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["shard-00001.safetensors", "empty.safetensors"])
def test_a_damaged_file_is_told_and_made_anew_alone(
    damage: Callable[[Path], object], name: str, folder: Path, backbone: StockBackbone
) -> None:
    whole = content(folder)
    damage(folder / name)
    with pytest.raises(UserError, match=rf'{name}" is damaged: .*; delete it and start again, and it alone is made'):
        LatentCache(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf'{name}" cannot be read \(No such file .*it alone is made anew'):
        LatentCache(folder)
    assert not is_complete(folder, key())
    before = {path: path.stat().st_mtime_ns for path in shards_in(folder)}
    build_cache(PAIRS, backbone, folder, key(), shard_samples=4)
    assert content(folder) == whole
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 4}', '{"schema": 4, "shards": [1]}', "\xff"])
def test_a_damaged_manifest_is_one_sentence(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r'manifest\.json" is damaged .*; delete ".*latents", and the latents are made'):
        LatentCache(folder)


def test_a_manifest_names_no_file_outside(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["file"] = "../elsewhere.safetensors"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r'manifest\.json" is damaged'):
        LatentCache(folder)


def _twice(content: Any) -> None:
    content["shards"].append(content["shards"][0])


def _without_shards(content: Any) -> None:
    content["shards"] = []


def _of_shard(name: str, value: object) -> Callable[[Any], None]:
    return lambda content: content["shards"][1].update({name: value})


CHANGES: list[Callable[[Any], None]] = [
    _twice, _without_shards, *(_of_shard(name, value) for name, value in {
        "samples": 5, "references": True, "key": "other", "sizes": [[32, 40]], "file": "x" * 5000}.items()),
    *(lambda content, to=to: content.update(to) for to in (
        {"samples": 5}, {"samples": float("inf")}, {"references": 0}, {"references": 2, "targets": 2}, {"targets": 0},
        {"empty": None})),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_manifest_is_damage(change: Callable[[Any], None], folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r'manifest\.json" is damaged .*; delete ".*latents", and the latents are made'):
        is_complete(folder, key())


@pytest.mark.parametrize(
    "changes",
    [{"samples": "x"}, {"samples": float("inf")}, {"references": 2}, {"sizes": [[10**9, -3]]}, {"sizes": [[1e400, 3]]}],
    ids=str,
)
def test_a_changed_record_is_damage(changes: dict[str, Any], folder: Path, backbone: StockBackbone) -> None:
    (folder / "manifest.json").unlink()
    record = folder / "shard-00001.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | changes))
    with pytest.raises(UserError, match=r'shard-00001\.json" is damaged .*; delete it'):
        build_cache(PAIRS, backbone, folder, key(), shard_samples=4)


def test_latents_of_other_data_are_not_trained_on(folder: Path, backbone: StockBackbone, tmp_path: Path) -> None:
    other = tmp_path / "other"
    build_cache(PAIRS[::-1], backbone, other, key(data="others"), shard_samples=4)
    for path in other.iterdir():
        if path.name != "config.json":
            shutil.copy(path, folder)
    with pytest.raises(UserError, match=r"is of other latents .*; delete \".*latents\", and the latents are made anew"):
        build_cache(PAIRS, backbone, folder, key(), shard_samples=4)


def test_a_damaged_claim_says_to_delete_the_latents(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r'config\.json" is damaged .*; delete ".*latents", and the latents are made'):
        is_complete(folder, key())


def test_a_cache_of_an_older_format_is_one_sentence(folder: Path, backbone: StockBackbone) -> None:
    for name in ("config.json", "manifest.json"):
        old = json.loads((folder / name).read_text()) | {"schema": 2}
        (folder / name).write_text(json.dumps(old))
    wanted = r"holds latents in the format 2, where this version writes 4; delete "
    with pytest.raises(UserError, match=wanted):
        build_cache(PAIRS, backbone, folder, key())
    with pytest.raises(UserError, match=wanted):
        LatentCache(folder)


def test_a_run_whose_shard_is_gone_makes_it_anew_and_goes_on(tmp_path: Path) -> None:
    config = small_config(steps=2)
    first = train(config, PAIRS, tmp_path / "run")
    adapter = (first / "adapter.safetensors").read_bytes()
    for name in ("adapter", "checkpoints"):
        shutil.rmtree(tmp_path / "run" / name)
    shards_in(tmp_path / "run" / "latents")[0].unlink()
    assert (train(config, PAIRS, tmp_path / "run") / "adapter.safetensors").read_bytes() == adapter


def test_a_record_of_another_key_or_of_other_samples_does_not_count(folder: Path, backbone: StockBackbone) -> None:
    (folder / "manifest.json").unlink()
    (folder / "config.json").unlink()
    other = told_apart(14)[::-1]
    build_cache(other, backbone, folder, key(data="others"), shard_samples=4)
    assert LatentCache(folder).ids == [pair.id for pair in other]


def test_shares_of_two_processes_are_the_bytes_of_one(tmp_path: Path, folder: Path, backbone: StockBackbone) -> None:
    shared = tmp_path / "shared"
    for index in (1, 0):
        own = [pair if number // 4 % 2 == index else None for number, pair in enumerate(PAIRS)]
        built = build_share(own, backbone, shared, key(), shard_samples=4, share=Share(index, 2))
        assert len(shards_in(shared)) == (2 if index else 4)
    finish(shared, key(), backbone, built)
    assert content(shared) == content(folder)


def test_a_share_that_nobody_made_is_told(tmp_path: Path, backbone: StockBackbone) -> None:
    built = build_share(PAIRS, backbone, tmp_path, key(), shard_samples=4, share=Share(0, 2))
    with pytest.raises(UserError, match="holds 2 of 4 shards of latents; give all processes one folder"):
        finish(tmp_path, key(), backbone, built)


def test_shares_of_examples_of_unlike_numbers_of_frames_are_told(tmp_path: Path, backbone: StockBackbone) -> None:
    unlike = [
        OwnExample(id=pair.id, grid=pair.grid, references=(*pair.references, *more), targets=pair.targets, caption="")
        for pair, more in ((PAIRS[0], ()), (PAIRS[3], PAIRS[3].references))
    ]
    for index in (0, 1):
        shards = build_share(unlike, backbone, tmp_path, key(), shard_samples=1, share=Share(index, 2))
    with pytest.raises(UserError, match="has 2 references and 1 targets, where others have 1 and 1"):
        finish(tmp_path, key(), backbone, shards)


def test_only_pictures_of_a_share_are_decoded(tmp_path: Path) -> None:
    pairs = dataset_in(tmp_path)
    some = open_source(tmp_path).some
    assert some is not None
    found = list(some(lambda number: number % 3 == 1))
    assert [None if example is None else example.id for example in found] == [
        pair.id if number % 3 == 1 else None for number, pair in enumerate(pairs)
    ]


@pytest.mark.slow
def test_two_processes_cache_and_train_what_one_does(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from pathlib import Path; from training_parts import *; from latent_parts import told_apart\n"
        "config = small_config(base=sys.argv[1], batch_size=8, optimizer='adamw')\n"
        "trainer.train(config, told_apart(600), Path(sys.argv[2]))\n"
    )
    paths = [str(Path(__file__).parent), str(Path(dsd.__file__).parents[1])]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    launch = [
        [sys.executable],
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    ]
    for count, words in zip(("1", "2"), launch, strict=True):
        arguments = [str(script), tiny.schnell(), str(tmp_path / count)]
        done = subprocess.run([*words, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (content(tmp_path / count / "latents") for count in ("1", "2"))
    assert len(shards_in(tmp_path / "1" / "latents")) == 3
    assert one == two
    one, two = (load_file(tmp_path / count / "adapter" / "adapter.safetensors") for count in ("1", "2"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-4)


LOOK = """
import sys
from pathlib import Path
from typing import Any
from dsd.data.latents import LatentCache
def own(): return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS")) / 1024
cache = LatentCache(Path(sys.argv[1]))
before = own()
for row in range(len(cache)): cache.samples([row])
print(own() - before, len(cache))
"""


@pytest.mark.slow
def test_a_cache_outgrows_memory(tmp_path: Path, backbone: StockBackbone) -> None:
    build_cache(told_apart(1600), backbone, tmp_path, key(max_sequence_length=512), shard_samples=16)
    assert sum(path.stat().st_size for path in shards_in(tmp_path)) > 50e6
    environment = os.environ | {"PYTHONPATH": str(Path(dsd.__file__).parents[1])}
    look = subprocess.run([sys.executable, "-c", LOOK, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert look.returncode == 0, look.stderr
    assert float(look.stdout.split()[0]) < 10


def test_trimmed_captions_are_the_whole_ones_where_padding_does_not_depend_on_them(tmp_path: Path) -> None:
    backbone, caches = without_t5(), {}
    for text in ("whole", "trimmed"):
        build_cache(PAIRS, backbone, tmp_path / text, key(text=text, max_sequence_length=256), shard_samples=5)
        caches[text] = LatentCache(tmp_path / text)
    rows = [3, 0, 9, 12]
    whole, trimmed = (caches[text].samples(rows).text for text in ("whole", "trimmed"))
    assert torch.equal(whole.tokens, trimmed.tokens)
    assert whole.pooled is not None and trimmed.pooled is not None and torch.equal(whole.pooled, trimmed.pooled)
    sizes = {text: sum(path.stat().st_size for path in shards_in(tmp_path / text)) for text in ("whole", "trimmed")}
    assert sizes["trimmed"] < sizes["whole"] / 2


@pytest.mark.parametrize("base", [*sorted(tiny.FAMILIES), "embedded:tiny-flux"])
def test_trimmed_is_refused_where_padding_depends_on_the_caption(base: str, tmp_path: Path) -> None:
    backbone = load_backbone(tiny.FAMILIES.get(base, lambda: base)(), transformer=False)
    with pytest.raises(UserError, match=r"is trimmed, but the padding .* differs .* by \d+% of its size .* = whole or"):
        build_cache(PAIRS, backbone, tmp_path, key(text="trimmed", max_sequence_length=64))
    assert not shards_in(tmp_path)


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_real_tokens_end_where_padding_begins(family: str) -> None:
    backbone = load_backbone(tiny.FAMILIES[family](), transformer=False)
    words = ["", "a cat", "a red cat at the beach"]
    lengths = backbone.real_tokens(words, 64)
    assert lengths == sorted(set(lengths)) and lengths[-1] < 64
    assert backbone.real_tokens(["cat " * 100], 16) == [16]


def test_live_keeps_nothing_of_text_and_trains_what_whole_trains(tmp_path: Path) -> None:
    for text in ("whole", "live"):
        train(small_config(steps=3, text_cache=text), PAIRS, tmp_path / text)
    for path in (tmp_path / "live" / "latents").glob("*.safetensors"):
        assert not {"tokens", "pooled"} & load_file(path).keys()
    whole, live = (load_file(tmp_path / text / "adapter" / "adapter.safetensors") for text in ("whole", "live"))
    for name, value in whole.items():
        torch.testing.assert_close(live[name], value, atol=1e-4, rtol=1e-3)


def test_live_captions_without_an_encoder_are_one_sentence(tmp_path: Path, backbone: StockBackbone) -> None:
    build_cache(PAIRS, backbone, tmp_path, key(text="live"))
    cache = LatentCache(tmp_path)
    assert cache.frames([0]).shape[:2] == (1, 2)
    with pytest.raises(UserError, match=r"holds no encoded captions .*; give train\.text_cache = whole"):
        cache.samples([0])


def test_text_is_kept_in_the_precision_it_was_encoded_in(tmp_path: Path) -> None:
    backbone = load_backbone(tiny.schnell(), transformer=False, dtype=torch.bfloat16)
    build_cache(PAIRS[:2], backbone, tmp_path, key())
    assert load_file(shards_in(tmp_path)[0])["tokens"].dtype == torch.bfloat16
    assert LatentCache(tmp_path).samples([0]).text.tokens.dtype == torch.bfloat16


def test_a_frame_size_and_buckets_exclude_each_other() -> None:
    with pytest.raises(UserError, match="only one can say what pictures are resized to"):
        small_config(frame_size=(32, 32), buckets=((32, 32),))
    with pytest.raises(UserError, match="buckets is"):
        small_config(buckets=((0, 32),))


@pytest.mark.parametrize("name", ["shard-00001.safetensors", "empty.safetensors"])
def test_a_file_that_another_process_is_to_check_is_one_sentence_too(name: str, folder: Path) -> None:
    shorten(folder / name)
    number = ["empty.safetensors", *(path.name for path in shards_in(folder))].index(name)
    with pytest.raises(UserError, match=rf'{name}" can no longer be read'):
        LatentCache(folder, Share((number + 1) % 2, 2))


def test_what_other_latents_left_is_no_share_of_these(folder: Path, backbone: StockBackbone) -> None:
    for name in ("manifest.json", "config.json"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="holds 0 of 4 shards of latents"):
        finish(folder, key(data="others"), backbone, 4)
