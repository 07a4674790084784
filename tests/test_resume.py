"""Claims about what a second start finds: what is damaged is made anew or named in a sentence, two runs do not share a
folder, and a curation that kept nothing asks again for what failed."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import chat_server as replies
import curation_parts as parts
import pytest
from chat_server import ChatServer, chat_server
from s3_server import s3_server

from dsd.audit.check import check_dataset
from dsd.curate.config import CurateConfig
from dsd.curate.ending import NoPairs
from dsd.curate.executors.local import Local
from dsd.curate.executors.protocol import Record, Work
from dsd.curate.pipeline import curate
from dsd.data.sources import open_source
from dsd.data.store import DatasetReader
from dsd.errors import UserError
from dsd.locks import held
from dsd.places import Place

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kill_curation import differences


@pytest.fixture(autouse=True)
def _open_server(server: ChatServer) -> Iterator[None]:
    server.requests.clear()
    server.script.clear()
    yield
    server.same = server.closed_after = None


@pytest.fixture(scope="module")
def config(server: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> CurateConfig:
    captions = parts.write_captions(tmp_path_factory.mktemp("captions") / "laion.parquet")
    return parts.config(captions, f"openai:test@{server.url}", units=2)


@pytest.fixture(scope="module")
def finished(config: CurateConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "dataset"
    curate(config, folder)
    return folder


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def another(file: Path) -> None:
    """What the same file of the other unit holds; whole, and wrong."""
    file.write_bytes(file.with_name(file.name.replace("00001", "00000")).read_bytes())


def counted_otherwise(file: Path) -> None:
    content = json.loads(file.read_text())
    content["funnel"]["kept"] += 1
    content["funnel"]["pairs"] += 2
    file.write_text(json.dumps(content))


SHARDS = ("pairs/00001.parquet", "rejects/00001.parquet", "grids/00001.parquet")
DAMAGES = [
    *[(name, damage) for name in SHARDS for damage in (truncated, emptied, flipped, another, Path.unlink)],
    *[("units/00001.json", damage) for damage in (truncated, emptied, another, counted_otherwise, Path.unlink)],
    *[("units/sheets-00001.json", damage) for damage in (truncated, another, Path.unlink)],
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_what_a_unit_lost_is_made_anew_with_the_same_bytes(
    name: str, damage: Callable[[Path], None], finished: Path, config: CurateConfig, tmp_path: Path
) -> None:
    begun = shutil.copytree(finished, tmp_path / "begun")
    damage(begun / name)
    (begun / "manifest.json").unlink()
    curate(config, begun)
    DatasetReader(begun).verify()
    assert not [file for file in differences(finished, begun) if not file.startswith("units/sheets")]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("pairs/00001.parquet", flipped),
        ("funnel.json", truncated),
        ("funnel.json", lambda file: file.write_text("{}")),
        ("funnel.json", lambda file: file.write_text(re.sub('("kept": )[0-9]+', r"\g<1>1", file.read_text()))),
        ("funnel.json", Path.unlink),
        ("manifest.json", truncated),
        ("README.md", Path.unlink),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_finished_dataset_that_is_no_longer_whole_is_mended(
    name: str, damage: Callable[[Path], None], finished: Path, config: CurateConfig, tmp_path: Path
) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    damage(copy / name)
    curate(config, copy)
    DatasetReader(copy).verify()
    assert not differences(finished, copy)


def test_a_card_that_was_filled_in_stays(finished: Path, config: CurateConfig, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "README.md").write_text("mine\n")
    curate(config, copy)
    assert differences(finished, copy) == ["README.md"]


@pytest.mark.parametrize(
    "make", [Path.mkdir, lambda path: path.symlink_to("/dev/null"), lambda path: path.symlink_to("x")]
)
def test_what_has_the_name_of_the_manifest_and_is_none_is_told(
    make: Callable[[Path], None], finished: Path, config: CurateConfig, tmp_path: Path
) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "manifest.json").unlink()
    make(copy / "manifest.json")
    for use in (lambda: curate(config, copy), lambda: DatasetReader(copy), lambda: check_dataset(copy)):
        with pytest.raises(UserError, match="is no file; remove it, and run the same command again"):
            use()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sources.json", lambda text: "{}"),
        ("sources.json", lambda text: '{"sha256": 1}'),
        ("sources.json", lambda text: text.replace("served as test", "served as tesu")),
        ("units/captions/00000.json", lambda text: text.replace("a", "b")),
    ],
)
def test_what_a_dataset_is_made_of_is_not_taken_on_trust_at_its_end(
    name: str, change: Callable[[str], str], finished: Path, config: CurateConfig, tmp_path: Path
) -> None:
    """All units are judged, and the manifest is not yet there."""
    begun = shutil.copytree(finished, tmp_path / "begun")
    (begun / "manifest.json").unlink()
    before = (begun / name).read_text()
    (begun / name).write_text(change(before))
    assert (begun / name).read_text() != before
    with pytest.raises(UserError, match=name):
        curate(config, begun)
    assert not (begun / "manifest.json").exists()


@pytest.mark.parametrize(
    "holder",
    ['{"host": "HOST", "pid": 1e400}', '{"host": "HOST", "pid": 1180591620717411303424}', "[" * 5000,
     '{"host": "elsewhere", "pid": 1, "seen": 1e300}', '{"host": "elsewhere", "pid": 1, "seen": 9999999999}'],
)  # fmt: skip
def test_a_lock_of_odd_content_holds_nobody_up(bucket: str, holder: str, tmp_path: Path) -> None:
    folder = Place.of(f"{bucket}/odd")
    (folder / ".lock").write_atomic(holder.replace("HOST", socket.gethostname()))
    with held(folder):
        pass
    (tmp_path / ".lock").write_text(holder)
    with held(tmp_path):
        (tmp_path / ".lock").write_text(holder)
        with pytest.raises(UserError, match=r"another process is at work|process 1 on elsewhere"), held(tmp_path):
            pass


@pytest.mark.parametrize("content", ["", '{"a', "[]", "5", '{"x": 1}', "\xff"])
@pytest.mark.parametrize("name", ["config.json", "sources.json", "units/captions.json"])
def test_what_cannot_be_made_anew_is_one_sentence(
    name: str, content: str, finished: Path, config: CurateConfig, tmp_path: Path
) -> None:
    begun = shutil.copytree(finished, tmp_path / "begun")
    for file in ("manifest.json", "units/00001.json"):
        (begun / file).unlink()
    (begun / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=f"{name}"):
        curate(config, begun)
    (begun / name).unlink()
    if name == "sources.json":
        with pytest.raises(UserError, match=name):
            curate(config, begun)


class Meddled(Local):
    """Someone changes a file while units are worked on."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def run(self, work: Work[Record]) -> Iterator[Record]:
        yield from super().run(work)
        if self.file.exists():
            flipped(self.file)


def test_what_changes_while_it_runs_does_not_end_as_a_dataset(
    finished: Path, config: CurateConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"rejects/00000.parquet\" was changed .* run the same command again"):
        curate(config, tmp_path / "dataset", Meddled(tmp_path / "dataset" / "rejects" / "00000.parquet"))
    assert not (tmp_path / "dataset" / "manifest.json").exists()
    curate(config, tmp_path / "dataset")
    assert not differences(finished, tmp_path / "dataset")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.mark.parametrize("store", ["memory", "s3"])
def test_a_dataset_in_an_object_store_is_that_of_a_folder_and_resumes_like_it(
    store: str, finished: Path, config: CurateConfig, server: ChatServer, request: pytest.FixtureRequest
) -> None:
    out = Place.of("memory://curated/it" if store == "memory" else f"{request.getfixturevalue('bucket')}/curated")
    server.closed_after = 30
    with pytest.raises(UserError, match="closed"):
        curate(config, out)
    server.closed_after = None
    assert (out / "config.json").exists() and not (out / "manifest.json").exists()
    funnel = curate(config, str(out))
    assert contents(out) == contents(Place.of(finished))
    (out / "pairs/00001.parquet").write_atomic((out / "pairs/00000.parquet").read_bytes())
    (out / "funnel.json").write_atomic("{")
    assert curate(config, out) == funnel
    assert contents(out) == contents(Place.of(finished))
    (out / "manifest.json").remove()
    with held(out), pytest.raises(UserError, match=rf"process {os.getpid()} on .* is at work .* runs out after 120 s"):
        curate(config, out)
    assert not (out / ".lock").exists()
    requests = len(server.requests)
    assert curate(config, out) == funnel and len(server.requests) == requests
    assert list(open_source(str(out)).examples()) == list(open_source(finished).examples())


def contents(folder: Place) -> dict[str, bytes]:
    """The files of a folder, by their names in it."""
    files = [place for place in folder.glob("**/*") if place.is_file()]
    return {str(file).removeprefix(str(folder)): file.read_bytes() for file in files}


def test_a_lease_that_ran_out_or_was_left_by_a_dead_process_is_taken_over(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Place.of(f"{bucket}/leased")
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine = {"host": socket.gethostname(), "token": "a", "seen": time.time()}
    theirs = {**mine, "host": "elsewhere", "pid": 1}
    for left in ({**mine, "pid": dead.pid}, {**theirs, "seen": time.time() - 121}, {**mine, "pid": os.getpid()}):
        (folder / ".lock").write_atomic(json.dumps(left))
        with held(folder):
            assert json.loads((folder / ".lock").read_text())["token"] != "a"
        assert not (folder / ".lock").exists()
    (folder / ".lock").write_atomic(json.dumps(theirs))
    with pytest.raises(UserError, match="process 1 on elsewhere is at work"), held(folder):
        pass
    monkeypatch.setattr("dsd.locks.LEASE_SECONDS", 0.2)
    time.sleep(0.2)
    with held(folder):
        first = json.loads((folder / ".lock").read_text())["seen"]
        time.sleep(0.3)
        assert json.loads((folder / ".lock").read_text())["seen"] > first, "it is renewed"


def test_a_start_that_is_refused_leaves_no_folder(config: CurateConfig, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for change in ({"captions": "missing.txt"}, {"chat": "embedded:none"}, {"judge": "openai:m@http://127.0.0.1:9/v1"}):
        for out in (tmp_path / "new", there):
            with pytest.raises(UserError):
                curate(replace(config, **change), out)
    assert list(tmp_path.iterdir()) == [there] and not list(there.iterdir())


HOLD = """
import sys, time
from dsd.locks import held
from dsd.places import Place
with held(sys.argv[1], "a dataset"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_runs_do_not_share_a_folder_and_a_killed_one_leaves_it_free(config: CurateConfig, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=rf"process {other.pid} on .* is at work on a dataset .* or give another"):
            curate(config, out)
        os.kill(other.pid, signal.SIGKILL)
    with held(out), pytest.raises(UserError, match=rf"process {os.getpid()} on"), held(out):
        pass
    assert not list(out.iterdir())


def test_a_lock_ends_with_an_error_and_is_no_one_elses_to_remove(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(tmp_path):
        raise ZeroDivisionError
    with held(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        with pytest.raises(UserError), held(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()


def test_a_curation_that_kept_nothing_is_not_finished_and_asks_again_for_what_failed(
    finished: Path, config: CurateConfig, server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dataset"
    mute(monkeypatch, "PanelDescription")
    with pytest.raises(NoPairs, match=r"36 candidates failed \(36 no description: .*\); mend what failed and run"):
        curate(config, out)
    assert json.loads((out / "funnel.json").read_text())["candidates"] == 36
    with pytest.raises(UserError, match="no finished dataset"):
        DatasetReader(out)
    monkeypatch.undo()
    server.requests.clear()
    curate(config, out)
    asked = {body["response_format"]["json_schema"]["name"] for body in server.requests}
    assert asked == {"PanelDescription", "PairVerdict"}, "sheets that were drawn stay"
    assert not differences(finished, out)


def test_a_writer_that_failed_is_asked_again_where_nothing_was_kept(
    finished: Path, config: CurateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute(monkeypatch, "GridPromptReply")
    with pytest.raises(NoPairs, match=r"of 6 captions: 6 captions without a grid prompt \(6 .*\); mend what failed"):
        curate(config, tmp_path / "dataset")
    monkeypatch.undo()
    curate(config, tmp_path / "dataset")
    assert not differences(finished, tmp_path / "dataset")


def test_where_a_judge_rejects_everything_nobody_is_asked_again(
    config: CurateConfig, server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "same", False)
    for _ in range(2):
        server.requests.clear()
        with pytest.raises(
            NoPairs, match=r"36 candidates rejected .*; give other captions or another teacher, or judge"
        ):
            curate(config, tmp_path / "dataset")
    assert not server.requests
    monkeypatch.setattr(server, "same", True)
    assert curate(replace(config, sheets_from=str(tmp_path / "dataset")), tmp_path / "other").kept == 36


def mute(monkeypatch: pytest.MonkeyPatch, schema: str) -> None:
    """Has the server say nothing that can be used where a schema is asked for."""
    answered = replies.answer

    def answer(asked: str, *args: object) -> dict[str, object]:
        return {} if asked == schema else answered(asked, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(replies, "answer", answer)


def test_a_server_that_moved_goes_on_with_its_dataset(
    finished: Path, config: CurateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = shutil.copytree(finished, tmp_path / "begun")
    for name in ("manifest.json", "units/00001.json"):
        (begun / name).unlink()
    monkeypatch.setenv("KEY_OF_MINE", "secret")
    with chat_server() as moved:
        name = f"openai:test@{moved.url}#KEY_OF_MINE"
        curate(replace(config, chat=name, judge=name), begun)
        assert moved.requests
        with pytest.raises(UserError, match=r"judge = 'openai:test' \(now 'openai:other'\)"):
            curate(replace(config, judge=f"openai:other@{moved.url}"), begun)
    assert not differences(finished, begun)
    assert "127.0.0.1" not in "".join(file.read_text() for file in begun.rglob("*.json"))


def test_a_file_that_cannot_grow_is_one_sentence_and_the_work_goes_on_once_it_can(
    finished: Path, config: CurateConfig, tmp_path: Path
) -> None:
    out, largest = tmp_path / "dataset", max(file.stat().st_size for file in finished.rglob("*.parquet"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*File too large"):
            curate(config, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(out.rglob("*.tmp")) and not (out / "manifest.json").exists()
    curate(config, out)
    assert not differences(finished, out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, as small as a page may be."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_sentence_and_the_work_goes_on_once_there_is_room(
    finished: Path, config: CurateConfig, small_disk: Path
) -> None:
    out, filler = small_disk / "dataset", small_disk / "filler"
    needed = sum(file.stat().st_size for file in finished.rglob("*") if file.is_file())
    for size in (0, needed // 4, needed // 2):
        subprocess.run(["mount", "-o", f"remount,size={64 * 1024 + 4 * needed}", str(small_disk)], check=True)
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        filler.write_bytes(b"x" * max(0, free - size - 4096))
        with pytest.raises(UserError, match="No space left on device"):
            curate(config, out)
        assert not list(out.rglob("*.tmp"))
        filler.unlink()
    curate(config, out)
    assert not differences(finished, out)


def test_a_place_that_can_only_be_read_is_one_sentence_and_what_is_finished_there_is_shown(
    finished: Path, config: CurateConfig, server: ChatServer, small_disk: Path
) -> None:
    needed = sum(file.stat().st_size + 8192 for file in finished.rglob("*"))
    subprocess.run(["mount", "-o", f"remount,size={64 * 1024 + 2 * needed}", str(small_disk)], check=True)
    shutil.copytree(finished, small_disk / "dataset")
    shutil.copytree(finished, small_disk / "begun")
    (small_disk / "begun" / "manifest.json").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert curate(config, small_disk / "dataset").kept > 0
    for name in ("begun", "new"):
        with pytest.raises(UserError, match=r"cannot write to .*Read-only file system"):
            curate(config, small_disk / name)
    assert not server.requests
