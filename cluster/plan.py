"""What a profile would do, in words or as the very script: nothing is started and nothing submitted."""

from __future__ import annotations

import json

from cluster.kubernetes import resources
from cluster.profiles import QUEUES, Profile
from cluster.queues import job_script


def plan(profile: Profile) -> str:
    """The script of one job, the resources of Kubernetes, or what would be started where.

    Raises
    ------
    ValueError
        dask-jobqueue is needed and is not installed.
    """
    if profile.kind in QUEUES:
        return job_script(profile)
    if profile.kind == "kubernetes":
        return json.dumps(resources(profile, "mr-factory-RANDOM", None), indent=1)
    if profile.kind == "ssh":
        at = f"{profile.user or 'you'}@"
        return "\n".join([f"ssh -p {profile.port} {at}{profile.hosts[0]}    the scheduler",
                          *(f"ssh -p {profile.port} {at}{host}    a worker of {profile.threads} threads"
                            for host in profile.hosts[1:])])
    if profile.kind == "mpi":
        return ("OMP_NUM_THREADS=1 mpirun -n N factory make RECIPE STORE --cluster PROFILE\n"
                "process 0 schedules, process 1 drives, each of the other N - 2 is a worker")
    if profile.kind == "address":
        return f"a client of {profile.address} with the certificate {profile.tls_cert}"
    return "worker processes of this machine, reached on 127.0.0.1 only"


def size(profile: Profile) -> str:
    """How many workers, in a sentence."""
    low, high = profile.bounds
    count = f"{high}" if low == high else f"{low} to {high}, by the work that is left"
    if profile.kind in ("ssh", "mpi", "address"):
        return {"ssh": f"{len(profile.hosts) - 1} workers", "mpi": "as many workers as mpirun starts, less two",
                "address": "as many workers as it has"}[profile.kind]
    held = f", {profile.job_workers} a job" if profile.job_workers > 1 and profile.kind != "local" else ""
    return f"workers: {count}{held}; threads of each: {profile.threads}"
