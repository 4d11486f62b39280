"""Workers as jobs of SLURM, PBS, LSF or SGE, through dask-jobqueue."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from distributed.core import Status

from cluster.keys import private, security_in, shared_folder
from cluster.profiles import Profile

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
LOOPBACK_PAGES = "127.0.0.1:0"
LIFETIME, STAGGER = 0.9, 0.05  # a worker hands over its work before its job's walltime is over, not all at once
EXTRAS = {"mpi4py": "mpi", "dask_mpi": "mpi"}  # they need an MPI, which most have no use for


def library(name: str, what: str) -> Any:
    """An optional library.  ValueError when it is not installed, a sentence that names the extra."""
    top = name.partition(".")[0]
    handler = signal.getsignal(signal.SIGINT)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != top:
            raise
        raise ValueError(f"{what} needs {top.replace('_', '-')}, which is not installed: "
                         f"pip install 'mr-factory[{EXTRAS.get(top, 'cluster')}]'") from None
    finally:  # dask-jobqueue 0.9 makes Ctrl-C end the whole program with success, from its import on
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


def job_options(profile: Profile, keys: Path, logs: Path) -> dict[str, Any]:
    """The arguments of a dask-jobqueue cluster and of its jobs."""
    worker = ["--no-dashboard", "--dashboard-address", LOOPBACK_PAGES]
    if profile.walltime:
        worker += ["--lifetime", f"{profile.walltime * LIFETIME:.0f}s",
                   "--lifetime-stagger", f"{profile.walltime * STAGGER:.0f}s"]
    account = "account" if profile.kind in ("slurm", "pbs") else "project"
    return {
        "cores": profile.job_cores, "processes": profile.job_workers, "memory": profile.memory,
        "queue": profile.queue, account: profile.account, "walltime": walltime(profile),
        "interface": profile.interface, "job_name": "factory", "log_directory": str(logs),
        "local_directory": '"$FACTORY_SCRATCH"', "job_extra_directives": list(profile.job_extra),
        "job_script_prologue": prologue(profile), "worker_extra_args": worker,
        "python": profile.python or sys.executable, "protocol": "tls://", "security": security_in(keys),
    }


def walltime(profile: Profile) -> str | None:
    """As the queue writes it; LSF counts minutes."""
    if profile.walltime is None:
        return None
    hours, rest = divmod(profile.walltime, 3600)
    if profile.kind == "lsf":
        return f"{(profile.walltime + 59) // 60 // 60:02d}:{(profile.walltime + 59) // 60 % 60:02d}"
    return f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"


def prologue(profile: Profile) -> list[str]:
    """Lines of shell before the worker starts: the user's, then what every worker of ours needs."""
    scratch = profile.scratch or "${TMPDIR:-/tmp}"
    return [
        *profile.prologue,
        *(f"export {name}={value}" for name, value in ONE_THREAD.items()),
        "export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'",
        f'FACTORY_SCRATCH=$(mktemp -d "{scratch}/mr-factory-XXXXXXXXXX") || exit 1',
        "trap 'rm -rf \"$FACTORY_SCRATCH\"' EXIT",
    ]


def job_script(profile: Profile) -> str:
    """The script of one job, with the places of what is known only when a cluster starts."""
    job = getattr(library(f"dask_jobqueue.{profile.kind}", f"a {profile.kind} profile"), f"{profile.kind.upper()}Job")
    options = job_options(profile, shared_folder(profile.shared) / "run-HOST-PID-RANDOM", Path("/dev"))
    script: str = job("tls://SCHEDULER:PORT", name="factory-0", **options).job_script()
    return script.replace("/dev/", f"{shared_folder(profile.shared)}/logs/")


def queue_cluster(profile: Profile, keys: Path, dashboard: bool) -> Any:
    """A scheduler in this process and no job yet; `adapt` submits them."""
    names = library(f"dask_jobqueue.{profile.kind}", f"a {profile.kind} profile")
    options = job_options(profile, keys, private(shared_folder(profile.shared) / "logs"))
    pages = {"dashboard_address": LOOPBACK_PAGES, "dashboard": dashboard}
    answers: list[str] = []
    job = _telling(getattr(names, f"{profile.kind.upper()}Job"), answers)
    made = getattr(names, f"{profile.kind.upper()}Cluster")
    cluster = made(job_cls=job, scheduler_options=pages, silence_logs="error", **options)
    cluster.answers = answers
    return cluster


def _telling(job: Any, answers: list[str]) -> Any:
    """A kind of job that notes what the queue says to each: nothing, or why it refuses.

    Dask only logs that, and waits for a job that will never be.
    """
    class Telling(job):  # type: ignore[misc]
        async def _submit_job(self, script_filename: str) -> str:
            try:
                out: str = await super()._submit_job(script_filename)
            except (RuntimeError, OSError) as error:
                self.status = Status.failed
                why = str(error).partition("stderr:")[2].strip() or str(error)
                answers.append(f"{self.submit_command} refused a job: {why}")
                raise
            answers.append("")
            return out

    return Telling
