"""From a profile to a Dask client: every link encrypted, pages on loopback only, private folders, one thread a worker.

Certificates live as long as the cluster.  What a local cluster needs of them never leaves memory; all others get
them as files in a private folder that the nodes share.
"""

from __future__ import annotations

import getpass
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, performance_report
from distributed.security import Security
from distributed.utils import silence_logging_cmgr

from cluster.keys import run_folder, security, security_in, settings_for, write_keys
from cluster.kubernetes import forwarded
from cluster.profiles import QUEUES, Profile
from cluster.queues import LOOPBACK_PAGES, ONE_THREAD, library, queue_cluster
from cluster.remote import mpi_client, ssh_cluster

LOOPBACK = "127.0.0.1"
SETTINGS: dict[str, Any] = {
    # Dask gives up a task that was on four workers when they died.  Jobs are preempted, cancelled and run out of
    # their time through no fault of the task, so more of that is borne; a task that kills every worker still ends.
    "distributed.scheduler.allowed-failures": 10,
    "distributed.nanny.pre-spawn-environ": ONE_THREAD,
}


@contextmanager
def connect(profile: Profile, *, dashboard: bool = False) -> Iterator[Client]:
    """The cluster of a profile, gone when the block ends; a scheduler that was there before is left as it is.

    Yields once the first worker is there.

    Parameters
    ----------
    dashboard : serve Dask's dashboard on loopback, at ``client.dashboard_link``

    Raises
    ------
    ValueError
        A library that is not installed, or a cluster that cannot be started; in a sentence.
    """
    pages = {} if dashboard else {f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker")}
    with ExitStack() as whole:
        for one in (_quiet(logging.ERROR), dask.config.set(SETTINGS | pages), _one_thread()):
            whole.enter_context(one)
        with _opened(profile, dashboard) as client:
            try:
                _first_worker(client)
                yield client
            finally:  # what is closed in the middle of its work tells a traceback for every link
                whole.enter_context(_quiet(logging.CRITICAL))


def _first_worker(client: Any) -> None:
    """Wait for a task that any worker can do: it also wakes a cluster that starts from none."""
    asked = client.submit(int, pure=False)
    answers = getattr(client.cluster, "answers", [])
    while not asked.done():
        if answers and all(answers):
            raise ValueError(answers[0])
        time.sleep(0.1)


@contextmanager
def reported(page: Path | None) -> Iterator[None]:
    """Keep Dask's report of where the time of a block went as a page of HTML, also when the block is interrupted.

    Raises
    ------
    ValueError
        Dask draws it with bokeh, which is not installed.
    """
    if page is None:
        yield
        return
    library("bokeh", "a report")
    keep: Any = performance_report
    with keep(filename=str(page)):
        yield


def tunnel(profile: Profile, client: Any) -> str:
    """The command by which a user elsewhere sees a dashboard, at http://127.0.0.1:8787."""
    port = client.dashboard_link.rpartition(":")[2].partition("/")[0]
    host = profile.hosts[0] if profile.hosts else socket.getfqdn()
    return f"ssh -N -L 8787:{LOOPBACK}:{port} {profile.user or getpass.getuser()}@{host}"


@contextmanager
def _opened(profile: Profile, dashboard: bool) -> Iterator[Any]:
    if profile.kind == "address":
        files = security(str(profile.tls_ca), str(profile.tls_cert), str(profile.tls_key))
        with _client(profile.address, security=files) as client:
            yield client
    elif profile.kind == "local":
        with tempfile.TemporaryDirectory(prefix="mr-factory-", dir=profile.scratch and os.path.expandvars(
                profile.scratch)) as spill, _closing(_local(profile, dashboard, spill), profile) as client:
            yield client
    elif profile.kind == "mpi":
        with mpi_client(profile, dashboard) as client:
            yield client
    else:
        with run_folder(profile.shared) as folder:
            write_keys(folder)
            with _elsewhere(profile, folder, dashboard) as client:
                yield client


@contextmanager
def _elsewhere(profile: Profile, folder: Path, dashboard: bool) -> Iterator[Any]:
    if profile.kind == "kubernetes":
        with forwarded(profile, folder) as address, _client(address, security=security_in(folder)) as client:
            yield client
        return
    # What is started by ssh is told by Dask's settings where its keys lie
    with dask.config.set(settings_for(folder) if profile.kind == "ssh" else {}):
        made = ssh_cluster if profile.kind == "ssh" else queue_cluster
        with _deaf():
            cluster = made(profile, folder, dashboard)
        with _closing(cluster, profile) as client:
            yield client


@contextmanager
def _deaf() -> Iterator[None]:
    """Threads that start in this block, and all that they start, do not hear Ctrl-C; this one hears it afterwards.

    A terminal sends it to workers and to `sbatch` as well, which would die of it in the middle of a line, while the
    driver alone knows in which order to stop.
    """
    resource_tracker.ensure_running()  # once it runs, the start of a process leaves signals as they are
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _local(profile: Profile, dashboard: bool, spill: str) -> Any:
    certificates: Any = Security
    made: Any = LocalCluster
    with _deaf():
        return made(
            n_workers=profile.workers, threads_per_worker=profile.threads, memory_limit=profile.memory or "auto",
            processes=True, host=LOOPBACK, protocol="tls://", security=certificates.temporary(), local_directory=spill,
            env=ONE_THREAD, silence_logs=logging.ERROR, scheduler_kwargs={"dashboard": dashboard},
            # Without an address of ours, Dask would listen on its well-known port even when nobody asked for pages
            dashboard_address=LOOPBACK_PAGES)


@contextmanager
def _closing(cluster: Any, profile: Profile) -> Iterator[Any]:
    """A client of a cluster of ours, which is scaled and in the end closed."""
    try:
        if profile.kind in QUEUES or profile.adaptive:
            # A fixed number is adaptive, too: only then does another job take the place of one that is gone
            low, high = profile.bounds
            cluster.adapt(minimum=low, maximum=high)
        with _client(cluster) as client:
            yield client
    finally:
        cluster.close()


@contextmanager
def _client(*where: Any, **more: Any) -> Iterator[Any]:
    made: Any = Client
    client = made(*where, **more)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _quiet(level: int) -> Iterator[None]:
    """Dask tells the terminal nothing below this level, and the loop that it runs on nothing at all.

    A signal in the middle of a wait makes a callback of Dask's fail there, which is no news for anybody.  Both loggers
    share one handler, whose level every cluster of Dask's sets anew; so the loop's own logger is what is raised.
    """
    made: Any = silence_logging_cmgr
    loop = logging.getLogger("tornado.application")
    before = loop.level
    loop.setLevel(logging.CRITICAL)
    try:
        with made(level):
            yield
    finally:
        loop.setLevel(before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Dask prefers what the environment says to its settings, so for this block the environment says one thread."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
