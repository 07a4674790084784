"""Claims about curation on a real cluster of two nodes: whoever dies, its dataset is that of one process."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from cluster_parts import NODE, POOLS, CountsThreads, environment, two_nodes

pytest.importorskip("ray")
from ray.cluster_utils import Cluster

from dsd.config import to_json
from dsd.curate.claimed import Captions
from dsd.curate.config import CurateConfig
from dsd.curate.executors.ray import Ray
from dsd.curate.models import JUDGE, Models
from dsd.curate.pipeline import curate
from dsd.curate.units import UnitLedger, Units
from dsd.curate.work import Curation
from dsd.errors import UserError
from dsd.locks import held
from dsd.places import Place

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kill_curation import differences

ENVIRONMENT = environment()
THREADS = 3
DRIVER = """
import sys
from pathlib import Path
from dsd.config import from_json
from dsd.curate.config import CurateConfig
from dsd.curate.pipeline import curate
from cluster_parts import POOLS, environment
from dsd.curate.executors.ray import Ray
with Ray(sys.argv[1], POOLS, environment()) as executor:
    curate(from_json(CurateConfig, sys.argv[2]), sys.argv[3], executor)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with two_nodes() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    """As many as a worker would not take by itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(threads: None, config: CurateConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    curate(config, folder := tmp_path_factory.mktemp("undisturbed") / "dataset")
    return folder


def on_cluster(cluster: Cluster, config: CurateConfig, out: Path) -> None:
    with Ray(str(cluster.address), POOLS, ENVIRONMENT) as executor:
        curate(config, out, executor)


def once(there: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not there() and time.monotonic() < until:
        time.sleep(0.005)


def workers() -> list[int]:
    """Processes of workers on this machine; Ray names them by their class."""
    names = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/cmdline")}
    found = []
    for pid, path in names.items():
        try:
            found += [pid] if path.read_bytes().startswith(b"ray::Worker") else []
        except OSError:  # it has ended
            continue
    return found


def test_a_worker_and_then_a_node_that_die_change_no_byte(
    cluster: Cluster, config: CurateConfig, undisturbed: Path, tmp_path: Path
) -> None:
    out, done = tmp_path / "dataset", []
    run = Thread(target=lambda: done.append(on_cluster(cluster, config, out)))
    run.start()
    once(lambda: (out / "grids" / "00000.parquet").exists())
    mine = workers()
    os.kill(mine[0], signal.SIGKILL)
    once(lambda: (out / "units" / "00000.json").exists())
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    cluster.add_node(**NODE)
    run.join(timeout=60)
    assert mine and done == [None]
    assert not differences(undisturbed, out)


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_where_it_was(
    cluster: Cluster, config: CurateConfig, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    given = [sys.executable, "-c", DRIVER, str(cluster.address), to_json(config), str(out)]
    with subprocess.Popen(
        given, env={**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(THREADS)}, stderr=subprocess.PIPE
    ) as driver:
        once(lambda: (out / "grids" / "00001.parquet").exists() or driver.poll() is not None, 60)
        driver.kill()
    assert (out / "grids" / "00001.parquet").exists() and not (out / "manifest.json").exists()
    on_cluster(cluster, config, out)
    assert not differences(undisturbed, out)


def test_workers_compute_with_as_many_threads_as_a_run_without_a_cluster(cluster: Cluster) -> None:
    """Pictures' last bits depend on it."""
    for given, threads in ((0, THREADS), (2, 2)):
        pools = replace(POOLS, draw=replace(POOLS.draw, threads=given))
        with Ray(str(cluster.address), pools, ENVIRONMENT) as executor:
            assert list(executor.run(CountsThreads())) == [threads]


def test_a_worker_of_another_version_is_one_sentence(cluster: Cluster, config: CurateConfig, tmp_path: Path) -> None:
    other = tmp_path / "dsd-9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: dsd\nVersion: 9.9\n")
    elsewhere = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    with (
        pytest.raises(UserError, match=r"dsd is 9\.9 on .*, but 0\.1\.0 where the run was started"),
        Ray(str(cluster.address), POOLS, elsewhere) as executor,
    ):
        curate(config, tmp_path / "dataset", executor)
    assert not (tmp_path / "dataset" / "config.json").exists()


def test_a_worker_that_does_not_see_the_run_in_its_folder_does_nothing(
    config: CurateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsd.curate.work._SEEN_SECONDS", 0.05)
    units = Units(captions=Captions.of(()), config=config)
    work = Curation(units=units, models=Models(config), ledger=UnitLedger(tmp_path), drawn=Place.of(tmp_path))
    with held(tmp_path):
        there = pickle.dumps(work.for_others())
        assert pickle.loads(there).sources(JUDGE, trying=False) == {"judge": "served as test"}
    with pytest.raises(UserError, match=r"does not see in .* that process \d+ on .* is at work there; give a folder"):
        pickle.loads(there).sources(JUDGE, trying=False)
    with held(tmp_path), pytest.raises(UserError, match="does not see"):  # the same process, but another run
        pickle.loads(there).sources(JUDGE, trying=False)


def test_what_hinders_a_start_is_one_sentence() -> None:
    code = "import sys; from dsd.cli.main import main; {}; sys.exit(main(sys.argv[1:]))"
    elsewhere = socket.create_server(("127.0.0.1", 0))
    for address, before, sentence in (
        ("ray://127.0.0.1:9", "pass", b"there is no cluster at"),
        (f"127.0.0.1:{elsewhere.getsockname()[1]}", "pass", b"something else answers there"),
        ("here", "pass", b"is no address of a cluster"),
        ("auto", "sys.modules['ray'] = None", b"ray is not installed; it comes with `pip install 'dsd[cluster]'`"),
    ):
        said = ["curate", "tiny", "--out", "unused", "--cluster", address]
        command = [sys.executable, "-c", code.format(before), *said]
        ended = subprocess.run(command, capture_output=True, timeout=30, env={**os.environ, **ENVIRONMENT}, check=False)
        assert ended.returncode == 2 and ended.stderr.count(b"\n") == 1 and sentence in ended.stderr
