"""Measures `dsd serve` in a process of its own: throughput against calls one after the other, latencies, memory.

    python benchmarks/serve.py                     # the embedded student
    python benchmarks/serve.py --adapter FOLDER    # another model

Prints one line a measurement: requests one after the other; the same by several clients; memory of the server after
500, 1 000 and 2 000 of them; 200 requests at once; clients that leave; SIGTERM under load.
"""

from __future__ import annotations

import argparse
import io
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import openai
import psutil
from PIL import Image

PROMPT = "a red striped cat on the left at the beach"
SEQUENTIAL = 24


def main() -> None:
    """Runs all of it."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--adapter", default=None, help="folder of the two-frame model's adapter")
    asked.add_argument("--base", default=None, help="the text-to-image model, where the adapter does not say")
    asked.add_argument("--requests", type=int, default=2000)
    asked.add_argument("--clients", type=int, default=16)
    asked.add_argument("--together", type=int, default=16, help="pictures that the server draws at once")
    given = asked.parse_args()
    words = ["--limits.together", str(given.together), "--drain-seconds", "5"]
    words += [] if given.adapter is None else ["--model.adapter", given.adapter]
    words += [] if given.base is None else ["--model.base", given.base]
    with Server(words) as server:
        measure(server, given.requests, given.clients)


class Server:
    """A server of its own process on a free port."""

    def __init__(self, words: list[str]) -> None:
        command = [sys.executable, "-m", "dsd", "serve", "--no-page", "--port", "0", *words]
        self._child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._child.stderr is not None
        self.port = next(int(found[1]) for line in self._child.stderr if (found := re.search(r"127.0.0.1:(\d+)", line)))
        threading.Thread(target=self._child.stderr.read, daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()

    def client(self, timeout: float = 600, retries: int = 0) -> openai.OpenAI:
        """The official client."""
        url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(api_key="none", base_url=url, timeout=timeout, max_retries=retries)

    def mebibytes(self) -> float:
        """Memory of the process."""
        return psutil.Process(self._child.pid).memory_info().rss / (1 << 20)

    def stop(self) -> tuple[int, float]:
        """Status and seconds of the end after SIGTERM."""
        began = time.perf_counter()
        self._child.send_signal(signal.SIGTERM)
        return self._child.wait(120), time.perf_counter() - began


def measure(server: Server, requests: int, clients: int) -> None:
    """Prints what is measured of a server."""
    one(server.client())
    alone = timed(server, SEQUENTIAL, 1)
    print(f"one after the other: {describe(*alone)}", flush=True)
    done, began, seconds = 0, time.perf_counter(), []
    for until in (requests // 4, requests // 2, requests):
        more, _ = timed(server, until - done, clients)
        seconds, done = seconds + more, until
        print(f"after {done} requests: {server.mebibytes():.0f} MiB", flush=True)
    together = (seconds, time.perf_counter() - began)
    print(f"{clients} clients: {describe(*together)}")
    ratio = (len(seconds) / together[1]) / (len(alone[0]) / alone[1])
    print(f"throughput of {clients} clients against one after the other: {ratio:.2f}x")
    print(f"200 at once: {statuses(server, 200)}", flush=True)
    leave(server, 100)
    began = time.perf_counter()
    one(server.client())
    print(f"the next after 100 clients that left: {time.perf_counter() - began:.2f} s")
    with ThreadPoolExecutor(clients) as pool:
        load = [pool.submit(status_of, server) for _ in range(clients)]
        time.sleep(1)
        status, took = server.stop()
        ends = Counter(one.result() for one in load)
    print(f"SIGTERM under load: exit status {status} after {took:.2f} s; answers {dict(ends)}")


def one(client: openai.OpenAI, seed: int = 0) -> float:
    """Seconds of one request."""
    began = time.perf_counter()
    client.images.edit(image=picture(), prompt=PROMPT, extra_body={"seed": seed})
    return time.perf_counter() - began


def timed(server: Server, count: int, clients: int) -> tuple[list[float], float]:
    """(Seconds of each of so many requests, seconds of all) by so many clients."""
    client = server.client()
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = list(pool.map(lambda seed: one(client, seed), range(count)))
    return seconds, time.perf_counter() - began


def statuses(server: Server, count: int) -> dict[object, int]:
    """How many of so many requests at once ended in which status."""
    with ThreadPoolExecutor(count) as pool:
        return dict(Counter(pool.map(lambda _: status_of(server), range(count))))


def status_of(server: Server) -> object:
    """The status of one request, or the name of what went wrong with its connection."""
    try:
        one(server.client())
    except openai.APIStatusError as error:
        return error.status_code
    except openai.APIConnectionError as error:
        return type(error).__name__
    return 200


def leave(server: Server, count: int) -> None:
    """So many clients at once that go away before they are answered."""

    def brief(_: int) -> None:
        with suppress(openai.APITimeoutError, openai.RateLimitError):
            one(server.client(timeout=0.3))

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(brief, range(count)))


def picture() -> tuple[str, bytes]:
    """A reference as a browser would send it."""
    buffer = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(buffer, "PNG")
    return (Path("reference").with_suffix(".png").name, buffer.getvalue())


def describe(seconds: list[float], whole: float) -> str:
    """Rate and latencies in words."""
    p50, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
    rate = len(seconds) / whole
    return f"{len(seconds)} requests in {whole:.1f} s, {rate:.2f} a second, p50 {p50:.2f} s, p95 {p95:.2f} s"


if __name__ == "__main__":
    main()
