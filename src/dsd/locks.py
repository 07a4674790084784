"""One run a folder: who works in it holds a lock file, and another start is told so.

Here the lock is the operating system's (flock): it ends with the process that holds it, however that ends. In an object
store there is no such thing: the file is a lease, renewed while the run lives, that another start takes over when it
has run out. Two starts at the very same moment may both take a lease; a later one is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dsd.errors import UserError
from dsd.files import make_folder
from dsd.places import Place, Where

LOCK = ".lock"
LEASE_SECONDS = 120.0
"""How long after it was last renewed a lease counts."""
_RENEWALS = 4
_ours: set[str] = set()
"""Tokens of the leases of this process."""


@dataclass(frozen=True)
class Holder:
    """Who holds a folder.

    Attributes:
        host: where it runs.
        pid: its process there.
        token: of this time that it is held.
        seen: when a lease was last renewed, in seconds since 1970.
    """

    host: str
    pid: int
    token: str = ""
    seen: float = 0.0

    @classmethod
    def read(cls, text: str) -> Holder | None:
        """What a lock file says; None where it is not written yet or damaged."""
        try:
            holder = cls(**json.loads(text))
            return cls(str(holder.host), int(holder.pid), str(holder.token), float(holder.seen))
        except (ValueError, TypeError):
            return None


@contextlib.contextmanager
def held(folder: Where, what: str = "a run") -> Iterator[None]:
    """Keeps a folder for this process while the block runs; its own workers ask for nothing.

    Args:
        folder: of the work; made when missing, with its parents, and removed again if nothing is made in it.
        what: the work, in words.

    Raises:
        UserError: another process holds it, or the place cannot be written to.
    """
    place = Place.of(folder)
    if place.local is None:
        with _leased(place, what):
            yield
        return
    new = [path for path in (place.local, *place.local.parents) if not path.exists()]
    file = make_folder(place.local) / LOCK
    lock = _lock(file, place, what)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held, so that nobody else's is removed
        with contextlib.suppress(OSError):  # something was made in it
            for path in new:
                path.rmdir()
        os.close(lock)


def holder(folder: Where) -> Holder | None:
    """Who holds a folder, as it is seen from here; None where nobody does, or does not say so.

    Raises:
        UserError: the place cannot be read.
    """
    found = _holder(Place.of(folder) / LOCK)
    return None if found is None else replace(found, seen=0.0)


def _lock(file: Path, place: Place, what: str) -> int:
    while True:
        try:
            lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(
                f'cannot write to "{place}" ({error.strerror}); give a folder that you may write to'
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = Holder.read(os.read(lock, 4096).decode(errors="replace"))
            os.close(lock)
            raise _refusal(place, what, holder) from error
        except OSError as error:
            os.close(lock)
            raise UserError(
                f'cannot lock "{file}" ({error.strerror}); give a folder on a file system that knows locks'
            ) from error
        if _is_still(lock, file):
            with contextlib.suppress(OSError):  # on a full disk the lock holds without a name
                os.truncate(lock, 0)
                os.write(lock, json.dumps(asdict(_me(uuid.uuid4().hex))).encode())
            return lock
        os.close(lock)  # whoever held it has just removed it


def _is_still(lock: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), file.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _leased(place: Place, what: str) -> Iterator[None]:
    file, me = place.make_folder() / LOCK, _me(uuid.uuid4().hex)
    found = _holder(file)
    if found is not None and _counts(found):
        raise _refusal(place, what, found)
    _renew(file, me)
    found = _holder(file)
    if found is not None and found.token != me.token:  # another start was a moment later
        raise _refusal(place, what, found)
    ended = threading.Event()
    renewing = threading.Thread(target=_keep, args=(file, me, ended), daemon=True, name="dsd-lease")
    renewing.start()
    _ours.add(me.token)
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        _ours.discard(me.token)
        with contextlib.suppress(UserError):  # a store that is away by now lets it run out
            found = _holder(file)
            if found is not None and found.token == me.token:
                file.remove()


def _keep(file: Place, me: Holder, ended: threading.Event) -> None:
    """Renews a lease until the work has ended; a store that is away for a moment is tried again."""
    while not ended.wait(LEASE_SECONDS / _RENEWALS):
        with contextlib.suppress(UserError):
            _renew(file, me)


def _renew(file: Place, me: Holder) -> None:
    file.write_atomic(json.dumps(asdict(me) | {"seen": time.time()}))


def _holder(file: Place) -> Holder | None:
    try:
        return Holder.read(file.read_bytes().decode(errors="replace"))
    except FileNotFoundError:
        return None


def _counts(lease: Holder) -> bool:
    """Whether a lease has neither run out nor been left by a process of this machine that is gone."""
    me = _me()
    if lease.host != me.host:
        return time.time() - lease.seen < LEASE_SECONDS
    return lease.token in _ours if lease.pid == me.pid else _lives(lease.pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _me(token: str = "") -> Holder:
    return Holder(socket.gethostname(), os.getpid(), token)


def _refusal(place: Place, what: str, holder: Holder | None) -> UserError:
    who = "another process" if holder is None else f"process {holder.pid} on {holder.host}"
    way = (
        "wait until it has ended"
        if place.local is not None
        else (f"wait until it has ended (a lease that nobody renews runs out after {LEASE_SECONDS:.0f} s)")
    )
    return UserError(f'{who} is at work on {what} in "{place}"; {way}, or give another folder')
