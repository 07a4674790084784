"""Whether a run is finished: what lies in its folder is the adapter that its settings, base and data end with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dsd import runs
from dsd.backbones.adapter import (
    METADATA_FILE,
    AdapterMetadata,
    describe_anew,
    is_full,
    is_of_another_base,
    load_adapter,
    load_metadata,
    require_whole,
)
from dsd.backbones.registry import backbone_class, family_of
from dsd.data.sources import Source
from dsd.errors import UserError
from dsd.files import digest_of, read_json, require_replaceable, sealed, sha256_of, sweep, unsealed, write_atomic
from dsd.locks import held
from dsd.log import console
from dsd.models import revision_or_name
from dsd.train import checkpoint
from dsd.train.config import TrainConfig

ADAPTER = "adapter"
"""The folder of the finished adapter in a run's."""
WRITTEN = "finished.json"
"""Which adapter the run wrote there: the digest of what it says of itself, that of its weights among it."""


def is_finished(config: TrainConfig, data: Source, out: Path) -> bool:
    """Whether a folder holds the adapter that a run of this config on these data ends with.

    Raises:
        UserError: it holds a run of another config, of other data or of more steps, or an adapter of other weights, or
            one of fewer steps without a checkpoint.
    """
    checkpoints = out / checkpoint.FOLDER
    claimed = runs.begun(out, config, sources={"data": data.fingerprint}) and (out / runs.SOURCES).exists()
    if claimed:
        _require_same_shift(config, out)
    metadata = _metadata_of(config, data, out / ADAPTER, checkpoints)
    if metadata is not None and is_of_another_base(metadata, config.base):
        raise UserError(
            f'"{out}" holds an adapter of other weights (revision {metadata.base_revision}) than those that '
            f'"{config.base}" now has; give another folder to train anew'
        )
    done = checkpoint.newest(checkpoints)
    if metadata is not None and not claimed and not done:
        raise UserError(
            f'"{out}" holds an adapter, but {runs.CONFIG} or {runs.SOURCES}, which say what it was trained on, is '
            "missing; bring it back, or give another folder"
        )
    require_no_more_steps(out, done if metadata is None else max(done, metadata.steps), config)
    if metadata is not None and metadata.steps < config.steps and not done:
        raise UserError(
            f'"{out}" holds an adapter of {metadata.steps} steps, but no checkpoint to go on from to {config.steps}; '
            f'bring "{checkpoints}" back, delete "{out / ADAPTER}" to begin at the first step, or give another folder'
        )
    return metadata is not None and claimed and metadata.steps == config.steps


def tidy(config: TrainConfig, out: Path) -> None:
    """Leaves a finished run without what a kill at its very end left, and with an adapter that says how it is drawn."""
    metadata = load_metadata(out / ADAPTER)
    if metadata.sampling != config.sampling:
        describe_anew(out / ADAPTER, replace(metadata, sampling=config.sampling))
        note_written(out)
        runs.claim(out, config)
    with suppress(UserError), held(out):  # it may be read only, or somebody's at work
        sweep(out, folders=True)


def note_written(out: Path) -> None:
    """Keeps which adapter a run has just written.

    Raises:
        UserError: the place cannot be written to.
    """
    content = sealed({"adapter": sha256_of(out / ADAPTER / METADATA_FILE)})
    write_atomic(out / WRITTEN, json.dumps(content, indent=2) + "\n")


def deciding(config: TrainConfig, source: Source) -> dict[str, str]:
    """What decides the weights that a run ends with, but for how many steps it takes."""
    of = {"base": revision_or_name(config.base), "data": source.fingerprint} | runs.deciding(config, "train")
    if backbone_class(family_of(config.base)).shift_knows_steps:
        of["train.sampling.steps"] = repr(config.sampling.steps)
    return of


def run_of(of: Mapping[str, str]) -> str:
    """What an adapter says of its run; see `AdapterMetadata`."""
    return digest_of(of)[:16]


def _metadata_of(config: TrainConfig, data: Source, finished: Path, checkpoints: Path) -> AdapterMetadata | None:
    """Of a finished adapter; None where there is none, or a wrong one that a checkpoint makes anew.

    Raises:
        UserError: it is damaged or of another run, and there is no checkpoint, or what is there is no adapter.
    """
    if finished.is_symlink() and not finished.exists():
        raise UserError(f'"{finished}" is a link that leads nowhere; remove it, or bring back what it leads to')
    if not finished.exists():
        return None
    require_replaceable(finished, METADATA_FILE)
    try:
        metadata = load_metadata(finished) if is_full(finished) else load_adapter(finished)[1]
        if is_full(finished):
            require_whole(finished, metadata)
        return _require_of_run(config, data, metadata, finished)
    except UserError as error:
        if not checkpoint.newest(checkpoints):
            raise
        checkpoint.require_usable(checkpoints, deciding(config, data))
        console.print(f"warning: {error}: it is written anew from its checkpoint")
        return None


def _require_of_run(config: TrainConfig, data: Source, metadata: AdapterMetadata, finished: Path) -> AdapterMetadata:
    """What an adapter says of itself, if this run ends with it.

    Raises:
        UserError: it is of another one.
    """
    if is_of_another_base(metadata, config.base):
        return metadata  # which is told in words of its own
    wanted = {
        "run": run_of(deciding(config, data)) if metadata.run else "", "rank": 0 if config.full else config.rank,
        "base_precision": config.base_precision, "max_sequence_length": config.max_sequence_length,
    }  # fmt: skip
    for name, value in wanted.items():
        if (found := getattr(metadata, name)) != value:
            raise UserError(
                f'"{finished}" is the adapter of another run (its {name} is {found}, not {value}); bring its own '
                "back, or delete that folder to train anew"
            )
    if is_full(finished) != config.full:
        kind = "whole transformer" if config.full else "LoRA"
        raise UserError(f'"{finished}" is no {kind}, which this run trains; bring its own back, or delete that folder')
    written = _written(finished.parent)
    if written is not None and written != sha256_of(finished / METADATA_FILE):
        raise UserError(
            f'"{finished / METADATA_FILE}" is not what the run wrote; bring that back, or delete "{finished}" to train '
            "anew"
        )
    return metadata


def _written(out: Path) -> str | None:
    """What `note_written` kept; None where that is missing or damaged, as in runs of earlier versions."""
    try:
        return read_json(out / WRITTEN, lambda content: str(unsealed(content)["adapter"]), "delete it")
    except UserError:
        return None


def _require_same_shift(config: TrainConfig, out: Path) -> None:
    """Makes sure that noise levels are shifted as at the first start, where the steps of drawing say how far.

    Raises:
        UserError: they would be shifted otherwise.
    """
    if not backbone_class(family_of(config.base)).shift_knows_steps:
        return
    before, now = runs.config_of(out, TrainConfig).sampling.steps, config.sampling.steps
    if before != now:
        raise UserError(
            f'"{out}" holds a run with train.sampling.steps = {before} (now {now}), by which models of this family '
            "shift the noise levels that they are trained at; give the same to go on, or another folder"
        )


def require_no_more_steps(out: Path, done: int, config: TrainConfig) -> None:
    """Makes sure that a run has not gone further than it is now told to.

    Raises:
        UserError: it has done more steps.
    """
    if done > config.steps:
        raise UserError(
            f'"{out}" holds a run that has done {done} steps, but train.steps is {config.steps}; give {done} or more, '
            "or another folder"
        )
