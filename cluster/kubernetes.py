"""Workers as pods, made by the operator of dask-kubernetes.

The operator's own Python client speaks to schedulers without encryption only (2026.3), so the resources are handed
over by ``kubectl``, and the scheduler, which takes nothing but TLS, is reached through a port on loopback.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.keys import FILES
from cluster.profiles import Profile
from cluster.queues import ONE_THREAD

KEYS, SPILL = "/etc/mr-factory-keys", "/spill"
PORT, PAGES = 8786, "127.0.0.1:8787"
PATIENCE = 600.0  # seconds for the scheduler's pod to start, image and all


def resources(profile: Profile, name: str, folder: Path | None) -> dict[str, Any]:
    """A secret with the keys, and the cluster.

    Parameters
    ----------
    folder : where the keys are; without one, the secret is shown empty
    """
    keys = {file: base64.b64encode((folder / file).read_bytes()).decode() if folder else "" for file in FILES.values()}
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": keys,
              "metadata": {"name": name, "namespace": profile.namespace}}
    address = f"tls://{name}-scheduler.{profile.namespace}.svc.cluster.local:{PORT}"
    tls = [part for what, file in FILES.items()
           for part in (f"--tls-{'ca-file' if what == 'ca' else what}", f"{KEYS}/{file}")]
    scheduler = ["dask", "scheduler", "--protocol", "tls", "--port", str(PORT), "--dashboard-address", PAGES, *tls]
    worker = ["dask", "worker", address, "--name", "$(DASK_WORKER_NAME)", "--protocol", "tls",
              "--nthreads", str(profile.threads), "--nworkers", str(profile.job_workers),
              "--memory-limit", str((profile.memory or 0) // profile.job_workers), "--local-directory", SPILL,
              "--no-dashboard", "--dashboard-address", "127.0.0.1:0", *tls]
    ports = [{"name": "tcp-comm", "containerPort": PORT}]
    # A probe over HTTP would need the dashboard on the pod's own address; that the port is open says enough
    alive = {"tcpSocket": {"port": PORT}, "periodSeconds": 5}
    service = {"type": "ClusterIP", "ports": [{"name": "tcp-comm", "port": PORT, "targetPort": "tcp-comm"}],
               "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}}
    pods = -(-profile.workers // profile.job_workers)
    cluster = {
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
        "metadata": {"name": name, "namespace": profile.namespace},
        "spec": {
            "scheduler": {"service": service, "spec": _pod(profile, name, "scheduler", scheduler, {
                "ports": ports, "readinessProbe": alive, "livenessProbe": alive})},
            "worker": {"replicas": pods, "spec": _pod(profile, name, "worker", worker, {
                "resources": {what: {"cpu": str(profile.job_cores), "memory": str(profile.memory)}
                              for what in ("requests", "limits")}})},
        },
    }
    return {"apiVersion": "v1", "kind": "List", "items": [secret, cluster]}


def _pod(profile: Profile, name: str, role: str, command: list[str], more: dict[str, Any]) -> dict[str, Any]:
    """A pod with the keys, the volume of the store and a place to spill to, and without rights in the cluster."""
    env = ONE_THREAD | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "10",
                        "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]", "XDG_CACHE_HOME": f"{SPILL}/cache"}
    mounts = [{"name": "keys", "mountPath": KEYS, "readOnly": True}, {"name": "spill", "mountPath": SPILL},
              {"name": "store", "mountPath": profile.mount}]
    container = {"name": role, "image": profile.image, "args": command, "volumeMounts": mounts,
                 "env": [{"name": key, "value": value} for key, value in env.items()],
                 "securityContext": {"allowPrivilegeEscalation": False}} | more
    return {"containers": [container], "automountServiceAccountToken": False, "volumes": [
        {"name": "keys", "secret": {"secretName": name, "defaultMode": 0o400}}, {"name": "spill", "emptyDir": {}},
        {"name": "store", "persistentVolumeClaim": {"claimName": profile.claim}}]}


@contextmanager
def forwarded(profile: Profile, folder: Path) -> Iterator[str]:
    """The cluster's address on loopback, for as long as the block lasts; then all its resources go.

    Raises
    ------
    ValueError
        No kubectl here, or what it complained about.
    """
    name = f"mr-factory-{secrets.token_hex(4)}"
    place = ["--namespace", profile.namespace]
    _kubectl("create", "-f", "-", given=json.dumps(resources(profile, name, folder)))
    try:
        _wait(name, place)
        command = ["kubectl", "port-forward", *place, "--address", "127.0.0.1", f"deployment/{name}-scheduler",
                   f":{PORT}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
                if found is None:
                    raise ValueError("kubectl port-forward did not open a port to the scheduler")
                yield f"tls://127.0.0.1:{found[1]}"
            finally:
                process.terminate()
    finally:
        _kubectl("delete", *place, "--ignore-not-found", "--wait=false", f"daskcluster.kubernetes.dask.org/{name}",
                 f"secret/{name}")


def _wait(name: str, place: list[str]) -> None:
    """Until the scheduler's pod is ready; the operator makes its deployment a moment after the cluster."""
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            _kubectl("wait", *place, "--for=condition=Available", "--timeout=30s", f"deployment/{name}-scheduler")
            return
        except ValueError:
            if time.monotonic() > ends:
                raise
            time.sleep(1)


def _kubectl(*arguments: str, given: str | None = None) -> None:
    try:
        subprocess.run(["kubectl", *arguments], input=given, text=True, capture_output=True, check=True)
    except FileNotFoundError:
        raise ValueError("a kubernetes profile needs the program kubectl, which is not installed here") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"kubectl {arguments[0]} failed: {error.stderr.strip()}") from None
