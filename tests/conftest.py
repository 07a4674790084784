"""Nothing in the tests may reach for the network, and small tensors want few threads; what several files start from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chat_server import ChatServer

    from dsd.curate.config import CurateConfig

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    """A chat server for all tests of a file."""
    from chat_server import chat_server

    with chat_server() as running:
        yield running


@pytest.fixture(scope="module")
def config(server: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> CurateConfig:
    """A curation of two full units and a short one, asked of that server."""
    import curation_parts as parts

    captions = parts.write_captions(tmp_path_factory.mktemp("captions") / "laion.parquet")
    return parts.config(captions, f"openai:test@{server.url}")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs to train a tiny model on."""
    from training_parts import dataset_in

    dataset_in(folder := tmp_path_factory.mktemp("data") / "dataset")
    return folder


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A place, while this process may read and write no more than anybody."""
    from damage_parts import as_nobody

    with as_nobody() as place:
        yield place
