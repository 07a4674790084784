"""What audits need in a test: a curated dataset, and ways to damage a copy of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import curation_parts as parts
from chat_server import chat_server

from dsd.cli.main import main
from dsd.curate.pipeline import curate
from dsd.data.rows import Kind, to_parquet
from dsd.data.store import FUNNEL, MANIFEST, read_shard
from dsd.files import sha256_of
from dsd.places import Place

Rows = list[dict[str, Any]]


def curated(folder: Path, **changes: object) -> Path:
    """A finished dataset of `curation_parts`; nothing in it depends on where the folder is."""
    captions = parts.write_captions(folder.parent / "captions.parquet")
    with chat_server() as server:
        curate(parts.config(captions, f"openai:test@{server.url}", **changes), folder)
    return folder


def copied(folder: Path, to: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, to))


def to_memory(folder: Path, address: str) -> Place:
    """A copy in the memory of this process."""
    place = Place.of(address)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        (place / str(file.relative_to(folder))).write_atomic(file.read_bytes())
    return place


def rewrite(folder: Path, kind: Kind, change: Callable[[Rows], object], number: int = 0) -> None:
    """Changes the rows of a shard, of which the manifest then tells as if they had always been so."""
    path = folder / kind / f"{number:05d}.parquet"
    rows: Rows = list(read_shard(path, dict))
    change(rows)
    path.write_bytes(to_parquet(kind, rows))

    def said(content: dict[str, Any]) -> None:
        for shard in content["shards"]:
            if shard["path"] == f"{kind}/{number:05d}.parquet":
                shard |= {"rows": len(rows), "sha256": sha256_of(path)}

    edit_json(folder / MANIFEST, said)
    shutil.rmtree(folder / "units", ignore_errors=True)  # whose records tell of the rows as they were


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Changes a file of JSON."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def funnel_of(folder: Path) -> dict[str, Any]:
    """The content of ``funnel.json``."""
    return json.loads((folder / FUNNEL).read_text())


def said(capsys: Any, *words: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of `dsd data`."""
    status = main(["data", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err
