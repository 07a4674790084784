"""An S3 server on loopback, in a thread of this process."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from unittest import mock

import fsspec.config
from moto.server import ThreadedMotoServer


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Starts the server with an empty bucket; yields the bucket's address, which fsspec then finds at the server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    try:
        with mock.patch.dict(os.environ, environment):
            fs = fsspec.filesystem("s3", skip_instance_cache=True)
            bucket = f"bucket-{uuid.uuid4().hex[:8]}"  # what was in another server of this process is still there
            fs.mkdir(bucket)
            yield f"s3://{bucket}"
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        server.stop()
