"""From a wish for workers to a Dask client.

Today there is one kind of cluster: worker processes on this machine, reachable from this machine only, every
connection encrypted with certificates that live as long as the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.security import Security

LOOPBACK = "127.0.0.1"


@contextmanager
def local_client(workers: int = 2, *, threads: int = 1, dashboard: bool = False,
                 memory_limit: str | float = "auto") -> Iterator[Client]:
    """Worker processes on this machine, gone when the block ends.

    Parameters
    ----------
    workers : processes
    threads : threads a process; one is right for kernels that keep a CPU busy
    dashboard : serve Dask's dashboard on the loopback interface, at a free port (``client.dashboard_link``)
    memory_limit : bytes a process, or a size such as ``"4 GB"``; by default this machine's memory in equal parts

    Raises
    ------
    ValueError
        No workers, or no threads.
    """
    if workers < 1 or threads < 1:
        raise ValueError(f"{workers} workers with {threads} threads: give at least one of each")
    certificates: Any = Security
    settings: dict[str, Any] = {
        "n_workers": workers, "threads_per_worker": threads, "memory_limit": memory_limit, "processes": True,
        "host": LOOPBACK, "protocol": "tls://", "security": certificates.temporary(),
        # Without an address of ours, Dask would listen on its well-known port even when nobody asked for a dashboard.
        "dashboard_address": f"{LOOPBACK}:0", "scheduler_kwargs": {"dashboard": dashboard},
    }
    pages: dict[str, Any] = {f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker") if not dashboard}
    with dask.config.set(pages):  # what still listens has nothing to show
        cluster: Any = LocalCluster(**settings)  # type: ignore[no-untyped-call]
    try:
        client: Any = Client(cluster)  # type: ignore[no-untyped-call]
        try:
            yield client
        finally:
            client.close()
    finally:
        cluster.close()
