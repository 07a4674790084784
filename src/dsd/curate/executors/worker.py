"""Who does a stage of units in another process, with models of its own."""

from __future__ import annotations

import os
import pickle
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dsd.curate.executors.protocol import Work
from dsd.errors import UserError


class Worker:
    """Does a stage of units, in a process of its own.

    Args:
        stage: of all its units.
        folder: that relative paths start from, if it is there.
        wanted: version of this package.
        threads: to compute with.
    """

    def __init__(self, stage: str, folder: str, wanted: str, threads: int) -> None:
        torch.set_num_threads(threads)
        if Path(folder).is_dir():
            os.chdir(folder)
        self._stage, self._wanted, self._work = stage, wanted, None

    def take(self, pickled: bytes, *, trying: bool) -> dict[str, str] | UserError:
        """Gets work, and tells what its stage is done with here, or why it cannot be."""
        try:
            if (found := version("dsd")) != self._wanted:
                raise UserError(
                    f"dsd is {found} on {socket.gethostname()}, but {self._wanted} where the run was started; install "
                    "the same version on all machines of the cluster"
                )
            work: Work[Any] = pickle.loads(pickled)  # after that, for other versions may not know it
            self._work = work if self._work is None else work.like(self._work)
            return dict(self._work.sources(self._stage, trying=trying))
        except UserError as error:
            return error

    def do(self, number: int, given: Any) -> Any:
        """See `dsd.curate.executors.protocol.Work`; what a user is to be told is returned."""
        assert self._work is not None
        try:
            return self._work.do(self._stage, number, given)
        except UserError as error:
            return error
