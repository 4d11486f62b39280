"""A real SLURM of one node on loopback: munged, slurmctld, slurmd as child processes, all their files in one folder."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue")
SECONDS_TO_START = 30.0
# RealMemory is no promise of this machine: SLURM counts with it, and nothing in these tests comes near it.
CONF = """\
ClusterName=factory
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=200000,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=300
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=6000 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=2-00:00:00 State=UP
"""


def why_not() -> str | None:
    """Why SLURM cannot be started here, or None."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        return f"no {', '.join(missing)} here (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "SLURM's daemons are started as root"


class Slurm:
    """The running system: commands of a user, and what is asked of it."""

    def __init__(self, folder: Path):
        self.conf = folder / "slurm.conf"
        self.folder = folder

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.conf)}

    def call(self, *command: str, **more: Any) -> str:
        """Standard output of a command; its error output is part of the exception when it fails."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=self.env, **more)
        if done.returncode:
            raise RuntimeError(f"{command} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def jobs(self, state: str = "RUNNING,PENDING,COMPLETING") -> list[str]:
        return self.call("squeue", "--noheader", "--array", "--format=%i", f"--states={state}").split()

    def wait(self, seconds: float = 60) -> None:
        """Until no job is left."""
        ends = time.monotonic() + seconds
        while self.jobs():
            assert time.monotonic() < ends, self.call("squeue", "--array")
            time.sleep(0.2)


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """SLURM, from the moment that its node is idle until the block ends."""
    host = socket.gethostname().partition(".")[0]
    control, daemon = free_ports(2)
    running = Slurm(folder)
    running.conf.write_text(CONF.format(host=host, control=control, daemon=daemon, folder=folder))
    for name in ("state", "spool"):
        (folder / name).mkdir(mode=0o755)
    with ExitStack() as stack:
        stack.enter_context(_munge(folder / "munge"))
        for name, more in (("slurmctld", ["-D", "-i"]), ("slurmd", ["-D", "-N", host])):
            stack.enter_context(_child([name, *more, "-f", str(running.conf)], folder / f"{name}.log", running.env))
        try:
            until(lambda: running.call("sinfo", "--noheader", "--format=%T").strip() == "idle")
        except Exception as error:
            logs = "".join((folder / f"{n}.log").read_text() for n in ("slurmctld", "slurmd", "munged"))
            raise RuntimeError(f"SLURM did not start:\n{logs}") from error
        try:
            yield running
        finally:
            for job in running.jobs():
                running.call("scancel", job)
            running.wait()


@contextmanager
def _munge(place: Path) -> Iterator[None]:
    """munged, with a key of its own; it wants folders that nobody else can write to."""
    place.mkdir(mode=0o755)
    key = place / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    user = pwd.getpwuid(os.geteuid()).pw_name
    command = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={place}/socket",
               f"--pid-file={place}/pid", f"--log-file={place}/log", f"--seed-file={place}/seed", "--num-threads=2"]
    with _child(command, place.parent / "munged.log", os.environ | {"USER": user}):
        until(lambda: (place / "socket").exists())
        yield


@contextmanager
def _child(command: list[str], log: Path, env: dict[str, str]) -> Iterator[None]:
    """A daemon in the foreground, stopped by its own process id."""
    program = _program(command[0])
    assert program is not None
    with log.open("w") as told:
        process = subprocess.Popen([program, *command[1:]], stdout=told, stderr=told, stdin=subprocess.DEVNULL, env=env)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def until(true: Any, seconds: float = SECONDS_TO_START) -> None:
    ends = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except RuntimeError:  # not there yet
            if time.monotonic() > ends:
                raise
        assert time.monotonic() < ends
        time.sleep(0.1)
