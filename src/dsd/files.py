"""Files that are either whole or absent.

Everything that marks progress is written under a temporary name, synced, renamed and only then counted on, so that a
process killed at any moment leaves no half-written file under a final name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from errno import EACCES, EDQUOT, EFBIG, EIO, ENOSPC, EPERM, EROFS
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dsd.errors import UserError, cut, reason_of

Content = TypeVar("Content")

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # what `_temporary_beside` gives
_OF_THE_PLACE = frozenset((EACCES, EDQUOT, EFBIG, EIO, ENOSPC, EPERM, EROFS))
_SEAL = "digest"
_CHUNK = 1 << 28
_HASHED_AT_ONCE = 4


class DamagedFile(UserError):
    """A file of ours is not what it was when it was written."""


class Readable(Protocol):
    """A file to read: a `pathlib.Path`, or a `dsd.places.Place`."""

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of it."""
        ...


def make_folder(path: Path | str) -> Path:
    """Makes a folder and its parents and proves that it can be written to.

    Raises:
        UserError: A file is in the way, or the place cannot be written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = _temporary_beside(path / "probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f'cannot write to "{path}" ({error.strerror}); give a folder that you may write to') from error
    return path


def write_atomic(path: Path | str, data: bytes | str) -> None:
    """Writes a file so that it is seen whole or not at all, even after a crash.

    Args:
        path: The final name; its folder is made when missing.
        data: Bytes, or text that is written as UTF-8.

    Raises:
        UserError: The place cannot be written to.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise UserError(f'cannot write "{path}" (it is {kind}); remove it, or give another place')
    make_folder(path.parent)
    temporary = _temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Tells of a place that is full, or may not be written to, while the block writes there.

    Raises:
        UserError: It is; other errors pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_PLACE:
            raise
        raise _cannot_write(path, error) from error
    except _safetensors_error() as error:
        if "I/O error" not in str(error):
            raise
        raise _cannot_write(path, error) from error


@contextlib.contextmanager
def atomic_folder(path: Path | str, *, known_by: str | None = None) -> Iterator[Path]:
    """Fills a folder so that it is seen whole or not at all.

    Args:
        path: The final name.
        known_by: A file that earlier folders of this kind hold; such a one is replaced at the end.

    Yields:
        A temporary empty folder beside `path`. When the block ends, its files are synced and it takes the final name;
        when the block raises, it is removed.

    Raises:
        UserError: The place cannot be written to, or holds something else; see `require_replaceable`.
    """
    require_replaceable(path, known_by)
    path = resolved(Path(path))
    make_folder(path.parent)
    temporary = _temporary_beside(path)
    temporary.mkdir()
    try:
        with writing(path):
            yield temporary
            _sync_tree(temporary)
            _replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def resolved(path: Path) -> Path:
    """Where a path leads, links followed.

    Raises:
        UserError: a link on it leads to itself.
    """
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f'"{path}" is or holds a link that leads to itself; remove it, or give another place'
        ) from error


def require_apart(out: Path, given: Path, what: str) -> None:
    """Refuses to write over what is read, into it or around it.

    Args:
        out: To be written.
        given: That is read; one that does not exist here is apart.
        what: It is called, such as "the adapter's folder".

    Raises:
        UserError: They are not apart.
    """
    wanted, read = resolved(out), resolved(given)
    if given.exists() and (wanted.is_relative_to(read) or read.is_relative_to(wanted)):
        raise UserError(f'--out "{out}" is, contains or lies in {what} "{given}"; give a folder apart')


def require_outside(out: Path, given: str | Path | None, what: str) -> None:
    """Refuses to write into what is read: it would be another one afterwards.

    Args:
        out: To be written.
        given: That is read; what does not exist here, such as a model of the hub, is outside.
        what: It is called, such as "the adapter's folder".

    Raises:
        UserError: It lies in it, or is it.
    """
    if given is not None and Path(given).exists() and resolved(out).is_relative_to(resolved(Path(given))):
        raise UserError(f'--out "{out}" is or lies in {what} "{given}"; give a folder outside')


def require_replaceable(path: Path | str, known_by: str | None = None) -> None:
    """Makes sure that nothing is lost when a folder takes a name.

    Args:
        path: The name.
        known_by: A file of every folder that may be replaced; None where only an empty one may.

    Raises:
        UserError: There is something else of that name.
    """
    path = Path(path)
    try:
        free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        if free or (known_by is not None and (path / known_by).is_file()):
            return
    except OSError as error:
        raise UserError(f'cannot write to "{path}" ({error.strerror}); give a folder that you may write to') from error
    what = "a folder that was not written here" if path.is_dir() else "a file"
    raise UserError(f'"{path}" is {what} and would be lost; give a new folder, or remove that one first')


def sweep(folder: Path, *, folders: bool = False) -> None:
    """Removes what killed processes left under temporary names in a folder of ours, and below it.

    Args:
        folder: where nobody else is at work.
        folders: whether folders are removed too, as `atomic_folder` leaves them.
    """
    for leftover in list(folder.rglob(".*.tmp")):
        if not _TEMPORARY.fullmatch(leftover.name):
            continue
        if leftover.is_dir() and not leftover.is_symlink():
            if folders:
                shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def read_json(path: Readable, read: Callable[[Any], Content], fix: str) -> Content:
    """Reads a JSON file that earlier work left behind.

    Args:
        path: of the file.
        read: makes what is wanted of its JSON.
        fix: what to do about a file that is damaged, for the message.

    Raises:
        DamagedFile: it is missing, no JSON (half written, say), or JSON of another kind.
        UserError: it cannot be read.
    """
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DamagedFile(f'"{path}" is missing; {fix}') from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DamagedFile(f'"{path}" is damaged ({cut(repr(error))}); {fix}') from error


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON with a digest of it, by which `unsealed` knows what was changed."""
    return {**content, _SEAL: digest_of(content)}


def unsealed(content: Any) -> dict[str, Any]:
    """The JSON that was `sealed`.

    Raises:
        ValueError: it is another one.
    """
    found = {name: value for name, value in content.items() if name != _SEAL}
    if content.get(_SEAL) != digest_of(found):
        raise ValueError("it is not what was written")
    return found


def digest_of(content: Mapping[str, Any]) -> str:
    """Returns the hexadecimal SHA-256 of JSON, in whatever order its names stand."""
    return hashlib.sha256(json.dumps(dict(content), sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path | str) -> str:
    """Returns the hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_parts(path: Path | str) -> list[str]:
    """Returns the hexadecimal SHA-256 of each 256 MiB of a file's bytes, several of which are read at once."""
    size = Path(path).stat().st_size
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as threads:
        return list(threads.map(lambda start: _sha256_from(path, start), range(0, size, _CHUNK)))


def _sha256_from(path: Path | str, start: int) -> str:
    digest, left = hashlib.sha256(), _CHUNK
    with Path(path).open("rb") as file:
        file.seek(start)
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
    return digest.hexdigest()


def _safetensors_error() -> tuple[type[Exception], ...]:
    """What safetensors raises beside `OSError`, where it has been imported."""
    error = getattr(sys.modules.get("safetensors"), "SafetensorError", None)
    return () if error is None else (error,)


def _cannot_write(path: Path | str, error: Exception) -> UserError:
    reason = (error.strerror if isinstance(error, OSError) else None) or reason_of(error)
    return UserError(f'cannot write "{path}" ({reason}); free the place or give another one')


def _temporary_beside(path: Path) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"


def _replace_folder(new: Path, path: Path) -> None:
    old = _temporary_beside(path)
    if path.exists():
        path.rename(old)
    new.rename(path)
    _sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    """Onto the disk, and for all to read that may read what this user writes; safetensors lets only the owner."""
    readable = 0o666 & ~_umask()
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fchmod(file.fileno(), os.fstat(file.fileno()).st_mode | readable)
                os.fsync(file.fileno())
        _sync_folder(Path(parent))


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
