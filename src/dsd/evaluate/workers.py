"""Processes of their own for parts of an evaluation."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

import torch

from dsd.log import only_lines, quiet_libraries

Given = ParamSpec("Given")
Value = TypeVar("Value")


def pool_of(workers: int) -> ProcessPoolExecutor:
    """Fresh processes that share this one's threads out among them, and end with it."""
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(os.getpid(), max(1, torch.get_num_threads() // workers)),
    )


def apart(work: Callable[Given, Value], *args: Given.args, **kwargs: Given.kwargs) -> Value:
    """Does a piece of work in a process of its own, which holds nothing that other work has left in memory.

    Args:
        work: a function of a module.
        *args: that can be pickled, as the result can.
        **kwargs: likewise.
    """
    pool = pool_of(1)
    try:
        return pool.submit(work, *args, **kwargs).result()
    except BaseException:
        stop(pool)
        raise
    finally:
        pool.shutdown(wait=False)


def stop(pool: ProcessPoolExecutor) -> None:
    """Ends the work of a pool at once; what it has written goes on from there at the next start."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()


def _start(parent: int, threads: int) -> None:
    """Prepares a worker: its share of threads, and an end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and stops the workers
    torch.set_num_threads(threads)
    only_lines()
    quiet_libraries()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
