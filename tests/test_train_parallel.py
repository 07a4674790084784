"""Two processes train together, as replicas (DDP) or in shards (FSDP2), what one process trains; what one starts, the
other goes on with; a mistake that one of them finds ends both."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_parts import simple_pairs, small_config

import dsd
from dsd.config import from_json, to_json
from dsd.data.sources import Source
from dsd.errors import UserError
from dsd.train import checkpoint, shards
from dsd.train.config import TrainConfig
from dsd.train.stopping import FailedElsewhere
from dsd.train.trainer import train

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
RUNS = {
    "ddp": {},
    "fsdp": {"parallel": "fsdp"},
    "parts-ddp": {"gradient_accumulation": 2, "gradient_checkpointing": "full"},
    "parts-fsdp": {"parallel": "fsdp", "gradient_accumulation": 2, "gradient_checkpointing": "full"},
    "full-fsdp": {"parallel": "fsdp", "full": True},
    "one-to-ddp": {},
    "one-to-fsdp": {"parallel": "fsdp"},
    "damaged-fsdp": {"parallel": "fsdp"},
}
"""What two processes train, and how it differs from what one process trains."""
FAIL = {
    "diverges-ddp": {"learning_rate": 1e20},
    "diverges-fsdp": {"learning_rate": 1e20, "parallel": "fsdp"},
    "first-cannot-write": {},
    "second-cannot-read-data": {},
    "second-cannot-write-its-shard": {"parallel": "fsdp"},
    "second-has-other-data": {},
}


def config_of(**changes: object) -> TrainConfig:
    return small_config(batch_size=8, optimizer="adamw", trackers=(), **changes)


def script(folder: Path) -> None:
    """What both of the processes do."""
    rank, told = int(os.environ["RANK"]), {}
    for name in RUNS:
        config = from_json(TrainConfig, (folder / f"{name}.json").read_text())
        if name == "damaged-fsdp" and rank == 0:
            prepare_damaged(folder)
            (folder / "prepared").touch()
        while name == "damaged-fsdp" and not (folder / "prepared").exists():
            time.sleep(0.01)  # a folder is not looked at while it is copied
        train(config, simple_pairs(), folder / name)
    for name in FAIL:
        config = from_json(TrainConfig, (folder / f"{name}.json").read_text())
        try:
            with small_files() if name == "second-cannot-write-its-shard" and rank == 1 else nullcontext():
                train(config, data_of(name, rank), folder / name)
        except (UserError, FailedElsewhere) as error:
            told[name] = [type(error).__name__, str(error)]
    (folder / f"told-{rank}.json").write_text(json.dumps(told))
    lose_data_between_gradients(folder, rank)


def lose_data_between_gradients(folder: Path, rank: int) -> None:
    """The second process finds its latents gone in the midst of a step, and the launcher ends the first."""
    config, latents = from_json(TrainConfig, (folder / "fsdp.json").read_text()), folder / "fsdp" / "latents"
    if rank == 1:
        latents = Path(shutil.copytree(latents, folder / "own-latents"))
        state = folder / "loses-data" / "checkpoints" / "step-0000002"

        def vanish() -> None:
            while not state.exists():
                time.sleep(0.01)
            for shard in latents.glob("shard-*.safetensors"):
                shard.unlink()

        threading.Thread(target=vanish, daemon=True).start()
    train(replace(config, steps=100_000), simple_pairs(), folder / "loses-data", latents=latents)


@contextmanager
def small_files() -> Iterator[None]:
    """As on a full disk: no file of this process grows beyond a kilobyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def prepare_damaged(folder: Path) -> None:
    """The finished run in shards, without its end, and with a flipped bit in the second shard of its newest state."""
    begin_from(folder / "fsdp", folder / "damaged-fsdp", step=4)
    file = sorted((folder / "damaged-fsdp" / "checkpoints" / "step-0000004").glob("shard-00002*"))[0]
    content = bytearray(file.read_bytes())
    content[-5] ^= 16
    file.write_bytes(bytes(content))


def data_of(name: str, rank: int) -> Source:
    pairs = simple_pairs()

    def examples() -> Iterator[object]:
        yield pairs[0]
        if name == "second-cannot-read-data" and rank == 1:
            raise UserError("a picture is damaged; delete it")
        yield from pairs[1:]

    other = name == "second-has-other-data" and rank == 1
    return Source(examples=examples, fingerprint="other" if other else "pairs", total=len(pairs))  # pyright: ignore[reportArgumentType]


def begin_from(run: Path, folder: Path, *, step: int) -> None:
    """A copy of a finished run as it was after a step."""
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "adapter")
    for number, path in checkpoint.step_folders(folder / "checkpoints"):
        if number > step:
            shutil.rmtree(path)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains: a LoRA, and all weights."""
    folder = tmp_path_factory.mktemp("one")
    train(config_of(), simple_pairs(), folder / "lora")
    train(config_of(full=True), simple_pairs(), folder / "full")
    return folder


@pytest.fixture(scope="module")
def two(one: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of everything that two processes did, and what they said."""
    folder = tmp_path_factory.mktemp("two")
    for name, changes in {**RUNS, **FAIL}.items():
        (folder / f"{name}.json").write_text(to_json(config_of(**changes)))
    for name in ("one-to-ddp", "one-to-fsdp"):
        begin_from(one / "lora", folder / name, step=2)
    (folder / "first-cannot-write").mkdir()
    (folder / "first-cannot-write" / "samples").write_text("in the way")
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(dsd.__file__).parents[1])])
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*LAUNCH, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert (folder / "told-1.json").exists(), done.stderr[-3000:]
    assert done.returncode  # see `lose_data_between_gradients`
    return folder, done.stderr


def goes_on(name: str) -> bool:
    """Whether a run began from a checkpoint, and so tells means of the later steps alone."""
    return name.startswith(("one-to", "damaged"))


def losses_of(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    (file,) = (run / "adapter").rglob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_what_one_trains(one: Path, two: tuple[Path, str], name: str) -> None:
    alone, together = one / ("full" if "full" in name else "lora"), two[0] / name
    assert len(losses_of(together)) == len(losses_of(alone))
    for mine, theirs in zip(losses_of(together), losses_of(alone), strict=True):
        compared = [figure for figure in theirs if not goes_on(name) or figure.startswith("held_out")]
        assert [mine[figure] for figure in compared] == pytest.approx([theirs[figure] for figure in compared], rel=1e-4)
    mine, theirs = weights_of(together), weights_of(alone)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, atol=2e-5, rtol=1e-3)


def test_each_process_writes_its_shards_which_together_are_the_state_of_one(one: Path, two: tuple[Path, str]) -> None:
    folder = two[0] / "fsdp" / "checkpoints" / "step-0000004"
    assert len(list(folder.glob("shard-*.safetensors"))) == 2
    wanted = load_file(one / "lora" / "checkpoints" / "step-0000004" / checkpoint.TENSORS)
    found = shards.read(folder, None)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=1e-3)


def test_one_process_goes_on_with_the_shards_of_two(one: Path, two: tuple[Path, str], tmp_path: Path) -> None:
    begin_from(two[0] / "fsdp", tmp_path / "run", step=2)
    train(config_of(), simple_pairs(), tmp_path / "run")
    found, wanted = (losses_of(run)[-1]["held_out_loss"] for run in (tmp_path / "run", one / "lora"))
    assert found == pytest.approx(wanted, rel=1e-4)
    for name, value in weights_of(one / "lora").items():
        torch.testing.assert_close(weights_of(tmp_path / "run")[name], value, atol=2e-5, rtol=1e-3)


def test_a_shard_that_one_process_finds_damaged_is_passed_over_by_all_and_told_once(two: tuple[Path, str]) -> None:
    folder, said = two
    assert said.count("is damaged (it has other bytes than were written)") == 1
    assert said.count("is gone on from instead") == 1
    mine, theirs = weights_of(folder / "damaged-fsdp"), weights_of(folder / "fsdp")
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())


@pytest.mark.parametrize(
    ("name", "who", "what"),
    [
        ("diverges-ddp", 0, "training has diverged"),
        ("diverges-fsdp", 0, "training has diverged"),
        ("first-cannot-write", 0, "samples"),
        ("second-cannot-read-data", 1, "a picture is damaged"),
        ("second-cannot-write-its-shard", 0, "cannot write"),
        ("second-has-other-data", 0, "has data = "),
    ],
)
def test_a_mistake_that_one_process_finds_ends_both_and_is_told_once(
    two: tuple[Path, str], name: str, who: int, what: str
) -> None:
    told = [json.loads((two[0] / f"told-{rank}.json").read_text())[name] for rank in (0, 1)]
    assert told[who][0] in ("UserError", "DamagedFile") and what in told[who][1]
    assert told[1 - who][0] == "FailedElsewhere"


def test_a_process_that_ends_in_the_midst_of_a_step_takes_the_others_with_it(two: tuple[Path, str]) -> None:
    folder, said = two
    assert "can no longer be read" in said
    assert not (folder / "loses-data" / "adapter").exists()


def test_shards_of_matrices_are_refused_to_muon() -> None:
    with pytest.raises(UserError, match="needs matrices whole"):
        replace(config_of(), parallel="fsdp", optimizer="muon")


if __name__ == "__main__":
    script(Path(sys.argv[1]))
