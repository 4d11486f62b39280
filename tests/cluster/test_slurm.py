"""On a real SLURM (one node on loopback, started here): whatever happens to its jobs, the store has the laptop's bytes.

Budget: 2 minutes on two idle cores, 3 beside other tests.  Skipped with a reason where slurm-wlm and munge are not
installed; CI installs them.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

from cluster.connect import connect
from cluster.keys import security_in, write_keys
from cluster.profiles import load_profile
from factory.recipe import load
from factory.store import materialise, status
from tests.cluster.slurm import Slurm, slurm, why_not
from tests.test_kill import RECIPE, tree

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
FACTORY = Path(sys.executable).with_name("factory")
FEW, MANY = 300, 4_000  # samples of the split train: seconds of work, and long enough to be interrupted
PROFILE = """\
kind: slurm
workers: 2
cores: 1
memory: 1 GB
walltime: 00:30:00
partition: short
interface: lo
shared: {shared}
job_extra: [--requeue]
prologue: ["export FACTORY_PROLOGUE=seen"]
"""


class Site:
    """SLURM, a recipe, and what the laptop makes of it."""

    def __init__(self, system: Slurm, folder: Path):
        self.slurm, self.folder = system, folder
        self.recipe = folder / "many.yaml"
        self.recipe.write_text(RECIPE)
        self.shared = folder / "shared"
        self.profile = folder / "my.yaml"
        self.profile.write_text(PROFILE.format(shared=self.shared))
        self.trees: dict[int, dict[str, bytes | None]] = {}

    def laptop(self, samples: int) -> dict[str, bytes | None]:
        if samples not in self.trees:
            store = self.folder / f"laptop_{samples}"
            materialise(load(self.recipe, samples={"train": samples}), store, threads=2, durable="process")
            self.trees[samples] = tree(store)
        return self.trees[samples]

    @contextmanager
    def make(self, store: Path, samples: int) -> Iterator[subprocess.Popen[str]]:
        """`factory make` as a user starts it; it must end well within the block."""
        command = [str(FACTORY), "make", str(self.recipe), str(store), "--samples", f"train={samples}",
                   "--cluster", str(self.profile), "--durable", "process"]
        # A worker that is lost is given up sooner than on a busy site
        env = self.slurm.env | {"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "2s"}
        with subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                yield process
                told = process.communicate(timeout=90)
            finally:
                if process.poll() is None:
                    process.terminate()
            assert process.returncode == 0, told

    def done(self, store: Path) -> int:
        return sum(split.committed for split in status(store).splits)

    def until(self, true: Callable[[], Any], seconds: float = 60) -> Any:
        ends = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < ends, self.slurm.call("squeue", "--array")
            time.sleep(0.1)
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("slurm")
    with slurm(folder) as system:
        yield Site(system, folder)


@pytest.fixture(autouse=True)
def nothing_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After every test: no job, no key, no spill folder."""
    monkeypatch.setenv("SLURM_CONF", str(site.slurm.conf))
    spill = site.folder / "spill"
    spill.mkdir(exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(spill))  # jobs take over the environment of whoever submits them
    yield
    site.slurm.wait()
    assert not site.shared.exists() or [p.name for p in site.shared.iterdir()] == ["logs"]
    assert not [p for p in spill.rglob("*") if p.is_file() and p.suffix in (".pem", ".crt")]
    assert not list(spill.glob("mr-factory-*")), "spill folders go with their jobs"


def listening(conf: Path) -> set[str]:
    """Addresses at which this SLURM and all that it or its users started listen."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURM_CONF") == str(conf):
                found |= {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    return found


def refused(address: str, **more: Any) -> bool:
    try:
        client: Any = Client(address, timeout="3s", **more)
    except (OSError, TimeoutError):
        return True
    client.close()
    return False


def test_jobs_make_the_laptops_bytes_and_strangers_are_refused(site: Site, tmp_path: Path) -> None:
    expected = site.laptop(MANY)
    with site.make(tmp_path / "store", MANY):
        job = site.until(lambda: site.slurm.jobs("RUNNING"))[0]
        site.until(lambda: (tmp_path / "store").exists() and site.done(tmp_path / "store"))
        script = site.slurm.call("scontrol", "write", "batch_script", job, "-")
        address = re.search(r"tls://127\.0\.0\.1:\d+", script)
        assert address is not None
        assert "#SBATCH -p short" in script
        assert "#SBATCH --requeue" in script
        assert "BEGIN" not in script, "keys are named in scripts, not written there"
        run, = site.shared.glob("run-*")
        assert {stat.S_IMODE(p.stat().st_mode) for p in (site.shared, run)} == {0o700}
        assert {stat.S_IMODE(p.stat().st_mode) for p in run.iterdir()} == {0o600}
        spill = list((site.folder / "spill").glob("mr-factory-*"))
        assert spill
        assert {stat.S_IMODE(p.stat().st_mode) for p in spill} == {0o700}
        assert listening(site.slurm.conf) == {"127.0.0.1"}

        assert not refused(address[0], security=security_in(run)), "with the keys it is open"
        assert refused(address[0].replace("tls", "tcp"))
        write_keys(tmp_path)
        assert refused(address[0], security=security_in(tmp_path))
    assert tree(tmp_path / "store") == expected
    assert not run.exists()


def test_cancelled_jobs_are_replaced_and_the_bytes_are_the_same(site: Site, tmp_path: Path) -> None:
    store, expected = tmp_path / "store", site.laptop(MANY)
    with site.make(store, MANY) as process:
        first = site.until(lambda: len(found := site.slurm.jobs("RUNNING")) == 2 and found)
        site.until(lambda: store.exists() and site.done(store) > 20)
        site.slurm.call("scancel", *first)  # all of them
        site.until(lambda: not set(first) & set(site.slurm.jobs()))
        assert process.poll() is None
        assert status(store).code == 2, "cancelled in the middle"
    assert tree(store) == expected


def test_a_job_that_slurm_refuses_ends_in_a_sentence(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(site.profile.read_text().replace("partition: short", "partition: nowhere"))
    done = subprocess.run([FACTORY, "make", site.recipe, tmp_path / "store", "--cluster", path], text=True, timeout=60,
                          capture_output=True, env=site.slurm.env)
    assert done.returncode == 1, done.stderr
    last = done.stderr.rstrip().splitlines()[-2:]
    assert last == ["sbatch refused a job: sbatch: error: invalid partition specified: nowhere",
                    "sbatch: error: Batch job submission failed: Invalid partition name specified"], done.stderr
    assert not (tmp_path / "store").exists()


def test_workers_come_with_the_work_and_go_with_it(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "adaptive.yaml"
    path.write_text(site.profile.read_text().replace("workers: 2", "adaptive: {minimum: 0, maximum: 2}"))
    expected = site.laptop(FEW)
    with connect(load_profile(path)) as client:
        driver: Any = client
        assert len(site.slurm.jobs()) == 1, "the one that answered first"
        slept = driver.map(time.sleep, [0.3] * 40, pure=False)
        site.until(lambda: len(site.slurm.jobs("RUNNING")) == 2)
        seen = driver.submit(lambda: {k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "FACTORY_PROLOGUE")}).result()
        assert seen == {"OMP_NUM_THREADS": "1", "FACTORY_PROLOGUE": "seen"}
        driver.gather(slept)
        del slept  # results that somebody holds keep a worker
        site.until(lambda: not site.slurm.jobs())
        materialise(load(site.recipe, samples={"train": FEW}), tmp_path / "store", client)
    assert tree(tmp_path / "store") == expected


def test_an_array_of_parts_stopped_and_submitted_again(site: Site, tmp_path: Path) -> None:
    """The template as it is; a signal such as SLURM sends before a job's time is up ends a part in a sentence."""
    expected = site.laptop(MANY)
    script, store = tmp_path / "array.sbatch", tmp_path / "store"
    script.write_text(site.slurm.call(str(FACTORY), "cluster", "template", "array.sbatch"))
    user = {"cwd": tmp_path}
    submit = ["sbatch", "--parsable", "--array=1-3", "--mem=1G", f"--export=ALL,PATH={FACTORY.parent}:/usr/bin:/bin",
              str(script), str(site.recipe), str(store), "--samples", f"train={MANY}"]
    job = site.slurm.call(*submit, **user).strip()
    for task in (1, 2):
        out = tmp_path / f"factory-{job}_{task}.out"
        site.until(lambda out=out: out.exists() and "samples" in out.read_text())  # it has begun, and hears
        site.slurm.call("scancel", "--batch", "--signal=TERM", f"{job}_{task}")
    site.slurm.wait()
    told = [(tmp_path / f"factory-{job}_{task}.out").read_text() for task in (1, 2, 3)]
    assert any("goes on where this stopped" in text for text in told[:2]), told  # a fast one may be through before
    assert status(store).code == 2
    job = site.slurm.call(*submit, **user).strip()
    site.slurm.wait()
    assert status(store).code == 0, [p.read_text() for p in tmp_path.glob("factory-*.out")]
    assert tree(store) == expected


def test_a_driver_that_is_killed_or_stopped(site: Site, tmp_path: Path) -> None:
    """kill -9: its workers end by themselves.  Ctrl-C: it takes its jobs along.  Then the same command finishes."""
    store = tmp_path / "store"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        command = [str(FACTORY), "make", str(site.recipe), str(store), "--samples", f"train={MANY}",
                   "--cluster", str(site.profile), "--durable", "process"]
        before = site.done(store) if store.exists() else 0
        with subprocess.Popen(command, env=site.slurm.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              start_new_session=True) as process:
            site.until(lambda before=before: store.exists() and site.done(store) > before + 10)
            os.killpg(process.pid, number)
            _, told = process.communicate(timeout=30)
        assert process.returncode == code, told
        assert "Traceback" not in told
        assert status(store).code == 2
        site.slurm.wait(30)
    assert "goes on where this stopped" in told
    with site.make(store, MANY):
        pass
    assert tree(store) == site.laptop(MANY)


def test_the_page_for_users_is_true(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of docs/cluster.md that says it was tried, as it stands there, with few samples of a small recipe."""
    page = (Path(__file__).parents[2] / "docs/cluster.md").read_text()
    blocks = dict(re.findall(r"<!-- tried: (\w+) -->\n```sh\n(.*?)```", page, re.DOTALL))
    assert list(blocks) == ["array", "profile", "driver", "job", "watch"]
    monkeypatch.setenv("PATH", f"{FACTORY.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("USER", "root")
    (tmp_path / "shared").mkdir()

    def run(name: str) -> str:
        lines = blocks[name].replace("rim_t1", str(site.recipe)).replace("/shared/", f"{tmp_path}/shared/")
        return site.slurm.call("bash", "-euc", lines.replace("train=1000000", f"train={FEW}"), cwd=tmp_path)

    run("array")
    run("profile")
    text = (tmp_path / "my.yaml").read_text()
    for old, new in (("workers: 4", "adaptive: {minimum: 0, maximum: 1}"), ("4 GB", "1 GB"),
                     ("# interface: ib0", "interface: lo"), ("# partition", "partition"),
                     ("# shared: ~/.cache/mr-factory/cluster", f"shared: {site.shared}")):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "my.yaml").write_text(text)
    assert "#SBATCH -p short" in run("driver")
    run("job")
    site.slurm.wait()
    assert "no damage found" in run("watch")
    for name in ("array", "driver", "job"):
        assert tree(tmp_path / f"shared/{name}.zarr") == site.laptop(FEW), name
