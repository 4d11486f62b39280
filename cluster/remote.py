"""Workers on machines that ssh reaches, and workers as the processes of an MPI program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client, SSHCluster

from cluster.keys import private, run_folder, security_in, settings_for, write_keys
from cluster.profiles import Profile
from cluster.queues import LOOPBACK_PAGES, library

DRIVER = 1  # dask-mpi's choice: process 0 schedules, process 1 drives, all others work


def ssh_cluster(profile: Profile, folder: Path, dashboard: bool) -> Any:
    """A scheduler on the first host and a worker on each of the others; ssh checks the hosts' keys as always.

    Raises
    ------
    ValueError
        asyncssh is not installed, or a host cannot be reached, does not let us in or is not known.
    """
    library("asyncssh", "an ssh profile")
    login = {"port": profile.port, "username": profile.user, "client_keys": profile.ssh_key and [profile.ssh_key],
             "known_hosts": profile.known_hosts}
    ours = {"interface": profile.interface, "protocol": "tls://", "dashboard_address": LOOPBACK_PAGES}
    worker = ours | {"nthreads": profile.threads, "memory_limit": profile.memory or "auto",
                     "local_directory": str(private(folder / "spill"))}
    made: Any = SSHCluster
    try:
        return made(list(profile.hosts), connect_options={name: value for name, value in login.items() if value},
                    scheduler_options=ours | {"dashboard": dashboard}, worker_options=worker,
                    remote_python=profile.python, security=security_in(folder))
    except RuntimeError as error:
        raise ValueError(f"nothing was started by ssh on {', '.join(sorted(set(profile.hosts)))}, port {profile.port}: "
                         f"{error.__cause__ or error}") from None


@contextmanager
def mpi_client(profile: Profile, dashboard: bool) -> Iterator[Any]:
    """A client in process 1; the other processes schedule and work, and exit when it has done.

    Raises
    ------
    ValueError
        Not started by ``mpirun`` with at least three processes.
    SystemExit
        In all processes but the driver, once the work is through.
    """
    world = library("mpi4py.MPI", "an mpi profile").COMM_WORLD
    dask_mpi = library("dask_mpi", "an mpi profile")
    if world.Get_size() < 3:
        raise ValueError(f"an mpi profile needs at least 3 processes (one schedules, one drives, the others work), and "
                         f"this program has {world.Get_size()}; start it as: mpirun -n 8 factory make ...")

    def begin(folder: Path) -> bool:
        driver: bool = dask_mpi.initialize(
            interface=profile.interface, nthreads=profile.threads, memory_limit=profile.memory or "auto",
            local_directory=str(folder), dashboard=dashboard, dashboard_address=LOOPBACK_PAGES, protocol="tls://",
            worker_options={"dashboard_address": LOOPBACK_PAGES}, exit=False)
        return driver

    if world.Get_rank() != DRIVER:
        folder = Path(world.bcast(None, root=DRIVER))
        with dask.config.set(settings_for(folder)):
            begin(folder)
        raise SystemExit(0)
    with run_folder(profile.shared) as folder:
        write_keys(folder)
        world.bcast(str(folder), root=DRIVER)
        with dask.config.set(settings_for(folder)):
            begin(folder)
            client: Any = Client(security=security_in(folder))  # type: ignore[no-untyped-call]
            try:
                yield client
            finally:
                client.shutdown()
