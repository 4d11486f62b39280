"""From a profile to workers that make: on this machine, over ssh and under MPI; and how a run is stopped.

Budget: 60 s on two cores.  The parts with ssh and MPI skip with a reason where sshd or mpirun are not installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest

from cluster.connect import connect, reported, tunnel
from cluster.keys import private, run_folder, write_keys
from cluster.profiles import Profile
from factory.recipe import load
from factory.store import materialise, status
from tests.cluster.slurm import free_ports, until
from tests.test_kill import RECIPE, tree

FACTORY = Path(sys.executable).with_name("factory")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ.get("PATH", ""))
needs_sshd = pytest.mark.skipif(SSHD is None or os.geteuid() != 0, reason="no sshd to start as root (openssh-server)")
needs_mpi = pytest.mark.skipif(
    shutil.which("mpirun") is None or importlib.util.find_spec("mpi4py") is None or os.geteuid() != 0,
    reason="no mpirun or mpi4py to start as root (openmpi-bin, pip install 'mr-factory[mpi]')")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "many.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def expected(recipe: Path, tmp_path: Path) -> dict[str, bytes | None]:
    materialise(load(recipe), tmp_path / "laptop", threads=1, durable="process")
    return tree(tmp_path / "laptop")


def test_workers_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with connect(Profile("local", workers=2, memory=10**9, scratch=str(tmp_path)), dashboard=True) as client:
        driver: Any = client
        assert driver.scheduler.address.startswith("tls://127.0.0.1:")
        assert driver.dashboard_link.startswith("http://127.0.0.1:")
        told = driver.run(lambda: [os.environ.get(name) for name in THREADS])
        assert list(told.values()) == [["1"] * 4] * 2
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        heard = {c.laddr.ip for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
        assert heard == {"127.0.0.1"}
        spill, = tmp_path.iterdir()
        assert spill.stat().st_mode & 0o777 == 0o700
        assert driver.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures) == 10
        port = driver.dashboard_link.rpartition(":")[2].partition("/")[0]
        assert tunnel(Profile("local"), driver).startswith(f"ssh -N -L 8787:127.0.0.1:{port} ")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert not list(tmp_path.iterdir())
    assert dask.config.get("distributed.scheduler.allowed-failures") == 3, "settings of others are as they were"


def test_a_client_of_a_scheduler_that_others_started(tmp_path: Path) -> None:
    private(tmp_path / "keys")
    write_keys(tmp_path / "keys")
    names = {"ca-file": "ca", "cert": "cert", "key": "key"}
    tls = [part for what, name in names.items() for part in (f"--tls-{what}", str(tmp_path / "keys" / f"{name}.pem"))]
    port, = free_ports(1)
    address = f"tls://127.0.0.1:{port}"
    common = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--no-dashboard", *tls]
    with ExitStack() as stack:
        for words in (["dask_scheduler", "--port", str(port), "--protocol", "tls"], ["dask_worker", address]):
            log = stack.enter_context((tmp_path / f"{words[0]}.log").open("w"))
            process = stack.enter_context(subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{words[0]}", *words[1:], *common], stdout=log, stderr=log))
            stack.callback(process.terminate)
        profile = Profile("address", address=address, tls_ca=tls[1], tls_cert=tls[3], tls_key=tls[5])
        for _ in range(2):  # leaving does not stop what was there before
            with connect(profile) as client:
                driver: Any = client
                assert driver.submit(sum, [1, 2]).result() == 3


def test_private_folders(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o777)
    assert private(open_to_all).stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(open_to_all)
    with pytest.raises(OSError):
        private(tmp_path / "link")
    with run_folder(str(tmp_path / "shared")) as one:
        host = one.name.removeprefix("run-").rpartition(f"-{os.getpid()}-")[0]
        left = tmp_path / "shared" / f"run-{host}-999999999-abc"
        left.mkdir()
        with run_folder(str(tmp_path / "shared")) as other:
            assert one.exists()
            assert not left.exists(), "of a run that was killed"
            assert other.stat().st_mode & 0o777 == 0o700
    assert not list((tmp_path / "shared").iterdir())


def test_a_report_is_kept(recipe: Path, expected: dict[str, bytes | None], tmp_path: Path) -> None:
    page, store = tmp_path / "report.html", tmp_path / "store"
    done = subprocess.run([FACTORY, "make", recipe, store, "--workers", "2", "--report", page], capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Dask Performance Report" in page.read_text()
    assert "Traceback" not in done.stderr
    assert tree(store) == expected


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(ValueError, match=r"a report needs bokeh.*pip install 'mr-factory\[cluster\]'"), \
            reported(tmp_path / "r.html"):
        pass


@pytest.mark.parametrize(("number", "how"), [
    (signal.SIGINT, ["--threads", "1"]), (signal.SIGTERM, ["--threads", "2"]), (signal.SIGINT, ["--workers", "2"]),
    (signal.SIGTERM, ["--cluster", "local"])], ids=["ctrl-c", "term-threads", "ctrl-c-workers", "term-cluster"])
def test_stopping_a_make(number: signal.Signals, how: list[str], recipe: Path, tmp_path: Path) -> None:
    """As a terminal does it (the whole group gets the signal), and as a job system does it (the process alone)."""
    store, big = tmp_path / "store", ["--samples", "train=20000", "--durable", "process"]
    command = [str(FACTORY), "make", str(recipe), str(store), *how, *big]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        until(lambda: status(store).code == 2 and sum(s.committed for s in status(store).splits) > 5)
        family = psutil.Process(process.pid).children(recursive=True)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        out, told = process.communicate(timeout=30)
    assert process.returncode == 130, told
    assert told.rstrip().splitlines()[-1] == (f"Stopped. What is made is kept: `factory make {recipe} {store} ...` "
                                              "again, with the same options, goes on where this stopped.")
    assert "Traceback" not in told
    assert "Error" not in told
    assert not out
    assert not psutil.wait_procs(family, timeout=10)[1], "workers go with the command"
    assert status(store).code == 2


def test_a_stopped_make_goes_on(recipe: Path, tmp_path: Path) -> None:
    sizes = {"train": 1200}
    command = [str(FACTORY), "make", str(recipe), str(tmp_path / "store"), "--workers", "2", "--samples", "train=1200",
               "--durable", "process"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: sum(s.committed for s in status(tmp_path / "store").splits) > 5)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 130
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    materialise(load(recipe, samples=sizes), tmp_path / "laptop", threads=2, durable="process")
    assert tree(tmp_path / "store") == tree(tmp_path / "laptop")


@contextmanager
def sshd(folder: Path) -> Iterator[Path]:
    """An sshd on loopback that lets one throw-away key in; yields a profile for it."""
    folder.mkdir(mode=0o700)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port, = free_ports(1)
    for name in ("host", "me"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    host = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host[0]} {host[1]}\n")
    (folder / "conf").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/me.pub\n"
        f"PidFile {folder}/pid\nUsePAM no\nPasswordAuthentication no\nStrictModes no\n")
    profile = folder / "ssh.yaml"
    profile.write_text(
        f"kind: ssh\nhosts: [127.0.0.1, 127.0.0.1, 127.0.0.1]\nuser: root\nport: {port}\nssh_key: {folder}/me\n"
        f"known_hosts: {folder}/known\ninterface: lo\nshared: {folder}/shared\n")
    assert SSHD is not None
    with (folder / "log").open("w") as log, subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "conf"],
                                                             stderr=log) as process:
        until(lambda: "listening" in (folder / "log").read_text())
        try:
            yield profile
        finally:
            process.terminate()


@needs_sshd
def test_over_ssh(recipe: Path, expected: dict[str, bytes | None], tmp_path: Path) -> None:
    with sshd(tmp_path / "ssh") as profile:
        done = subprocess.run([FACTORY, "make", recipe, tmp_path / "store", "--cluster", profile], text=True,
                              capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "INFO" not in done.stderr
        assert tree(tmp_path / "store") == expected
        assert not list((tmp_path / "ssh/shared").iterdir())
        (tmp_path / "ssh/known").write_text("")
        done = subprocess.run([FACTORY, "make", recipe, tmp_path / "other", "--cluster", profile], text=True,
                              capture_output=True, timeout=120)
        assert done.returncode == 1, "a host that is not known is not trusted"
        assert done.stderr.rstrip().splitlines()[-1].startswith("nothing was started by ssh on 127.0.0.1, port ")
        assert not (tmp_path / "other").exists()


@needs_mpi
def test_under_mpi(recipe: Path, expected: dict[str, bytes | None], tmp_path: Path) -> None:
    (tmp_path / "mpi.yaml").write_text(f"kind: mpi\ninterface: lo\nshared: {tmp_path}/shared\n")
    make = [FACTORY, "make", recipe, tmp_path / "store", "--cluster", tmp_path / "mpi.yaml"]
    place = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(["mpirun", "--oversubscribe", "-n", "4", *make], text=True, capture_output=True, env=place,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is finished") == 1
    assert tree(tmp_path / "store") == expected
    assert not list((tmp_path / "shared").iterdir())
    done = subprocess.run(make, text=True, capture_output=True, env=place, timeout=60)
    assert "needs at least 3 processes" in done.stderr
