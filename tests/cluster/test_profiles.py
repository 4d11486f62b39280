"""Profiles: strict reading, sentences, and what would be submitted.

Budget: 10 s on two cores.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.keys import write_keys
from cluster.kubernetes import forwarded, resources
from cluster.plan import plan, size
from cluster.profiles import LEGAL, LIMIT, Profile, ProfileError, load_profile, memory, read_profile, walltime
from cluster.templates import HERE, names, read
from factory.cli.app import app

BASE = {
    "local": "kind: local\n", "mpi": "kind: mpi\n", "ssh": "kind: ssh\nhosts: [a, b]\n",
    **{kind: f"kind: {kind}\nmemory: 4 GB\n" for kind in ("slurm", "pbs", "lsf", "sge")},
    "kubernetes": "kind: kubernetes\nmemory: 4 GB\nimage: r.example/f:1\nclaim: stores\n",
    "address": "kind: address\naddress: tls://h:8786\ntls_ca: /a\ntls_cert: /b\ntls_key: /c\n",
}
QUEUE = """\
workers: 6
cores: 4
threads: 2
memory: 8 GB
walltime: 30:00:00
queue: long
account: grp
interface: ib0
scratch: $TMPDIR
shared: /shared/me
job_extra: [one thing]
prologue: [module load python]
python: /opt/python
"""
# What each queue calls it, and how its lines begin
HEADERS = {
    "slurm": ["#SBATCH -p long", "#SBATCH -A grp", "#SBATCH --cpus-per-task=4", "#SBATCH --mem=8G",
              "#SBATCH -t 30:00:00", "#SBATCH one thing"],
    "pbs": ["#PBS -q long", "#PBS -A grp", "#PBS -l select=1:ncpus=4:mem=7630MB", "#PBS -l walltime=30:00:00",
            "#PBS one thing"],
    "lsf": ["#BSUB -q long", '#BSUB -P "grp"', "#BSUB -n 4", "#BSUB -W 30:00", "#BSUB one thing"],
    "sge": ["#$ -q long", "#$ -P grp", "#$ -l h_rt=30:00:00", "#$ one thing"],
}
FAULTS = [
    ("kind: slurm\nmemory: 4 GB\nwaltime: 01:00:00\n", r"here, line 3: a slurm profile has no 'waltime' \(did you mean "
                                                       r"walltime\?\); it has about, account, .*workers"),
    ("kind: slrum\n", r"line 1: kind: 'slrum' is not one of address, kubernetes, local"),
    ("workers: 2\n", "say its kind: one of address"),
    ("- 1\n", "a profile is a mapping"),
    ("", "a profile is a mapping"),
    ("kind: [\n", "this is no YAML"),
    ("kind: local\nkind: ssh\n", "line 2: kind is given twice"),
    ("kind: local\nworkers: 0\n", r"line 2: workers: '0' is not a whole number from 1"),
    ("kind: local\nworkers: 2.5\n", "'2.5' is not a whole number"),
    ("kind: local\nworkers: [2]\n", "workers: 'a sequence' is not a whole number"),
    ("kind: local\nworkers: true\n", "'true' is not a whole number"),
    ("kind: local\ncores: 2\n", "a local profile has no 'cores'"),
    ("kind: local\nmemory: 4\n", "memory: '4' is not a size with its unit"),
    ("kind: local\nmemory: 4 PB\n", "not a size with its unit"),
    ("kind: local\nmemory: 1 kB\n", "at least a megabyte"),
    ("kind: slurm\nworkers: 2\n", "a slurm profile needs memory"),
    ("kind: slurm\nmemory: 4 GB\nwalltime: 90\n", "'90' is not hours:minutes:seconds"),
    ("kind: slurm\nmemory: 4 GB\nwalltime: 00:00:10\n", "at least a minute"),
    ("kind: slurm\nmemory: 4 GB\nqueue: a\npartition: b\n", "queue and partition are one thing"),
    ("kind: slurm\nmemory: 4 GB\ncores: 3\nthreads: 2\n", "a multiple of 2"),
    ("kind: slurm\nmemory: 4 GB\nadaptive: 8\n", r"adaptive: '8' is not \{minimum: 0, maximum: 8\}"),
    ("kind: slurm\nmemory: 4 GB\nadaptive: {minimum: 8, maximum: 2}\n", "the minimum 8 is above the maximum 2"),
    ("kind: slurm\nmemory: 4 GB\nadaptive: {minimum: 1}\n", "adaptive needs a maximum"),
    ("kind: slurm\nmemory: 4 GB\nadaptive: {min: 1, maximum: 2}\n", r"no 'min' \(did you mean minimum"),
    ("kind: slurm\nmemory: 4 GB\nprologue: module load x\n", "is not a list"),
    ("kind: ssh\nhosts: [a]\n", "name at least two"),
    ("kind: address\naddress: tcp://h:1\ntls_ca: /a\ntls_cert: /b\ntls_key: /c\n", "is not tls://host:port"),
    ("kind: address\naddress: tls://h:1\n", "an address profile needs|a address profile needs tls_ca"),
]
HOSTILE = [
    ("queue", "a b"), ("queue", "a;id"), ("queue", "$(id)"), ("queue", "a\nb"), ("queue", "-x"), ("queue", "a'b"),
    ("account", "`id`"), ("interface", "lo --preload evil"), ("python", "/bin/sh -c id"), ("python", "python"),
    ("scratch", "/tmp/$(id)"), ("scratch", '/tmp/"; id; "'), ("scratch", "tmp"), ("shared", "/tmp/a b"),
    ("shared", "/tmp/$HOME"), ("job_extra", ["a\nid"]), ("job_extra", ["\x1b[2J"]), ("prologue", ["a\rid"]),
    ("prologue", ["a\u2028id"]), ("prologue", [""]), ("job_extra", ["x" * 501]), ("about", "a\x00b"),
]


@pytest.mark.parametrize(("text", "said"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_is_told_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        read_profile(text, "here")


@pytest.mark.parametrize(("field", "value"), HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_reaches_a_shell_that_it_would_obey(field: str, value: str | list[str]) -> None:
    given = {"kind": "slurm", "memory": "4 GB", field: value}
    with pytest.raises(ProfileError) as caught:
        read_profile(json.dumps(given), "here")
    assert not set(str(caught.value)) & set("\x1b\r\x00\u2028")


def test_all_faults_at_once() -> None:
    with pytest.raises(ProfileError) as caught:
        read_profile("kind: local\nworkers: none\nthreads: -1\ncolour: red\n", "here")
    assert [re.search(r"line (\d)", line)[1] for line in str(caught.value).splitlines()] == ["4", "2", "3"]  # type: ignore[index]


def test_hostile_files(tmp_path: Path) -> None:
    bomb = "kind: local\nworkers: &a [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '*a'] * 9)}]\n" for n in range(30))
    for text in (bomb, "[" * 20_000, "kind: !!python/object/apply:os.system [id]\n", "x" * (LIMIT + 1), "\x00", "\xff"):
        path = tmp_path / "hostile.yaml"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ProfileError) as caught:
            load_profile(path)
        assert len(str(caught.value)) < 20_000
    with pytest.raises(ProfileError, match="no such file"):
        load_profile(tmp_path / "none.yaml")
    with pytest.raises(ProfileError, match=r"'slrum' \(did you mean slurm\?\); there are local, slurm"):
        load_profile("slrum")


@pytest.mark.parametrize("kind", sorted(LEGAL))
def test_every_kind_can_be_read_and_shown(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(BASE[kind])
    profile = load_profile(path)
    assert (profile.kind, profile.name) == (kind, "mine")
    assert plan(profile)
    assert "worker" in size(profile)


def test_numbers() -> None:
    assert [memory(text) for text in ("4 GB", "4GB", "500 MiB", "1.5 G")] == [4 * 10**9, 4 * 10**9, 500 * 2**20,
                                                                             1_500_000_000]
    assert [walltime(text) for text in ("01:00:00", "10:00:00", "2-00:00:30")] == [3600, 36_000, 172_830]
    both = read_profile("kind: slurm\nmemory: 4 GB\npartition: a\n", "x"), read_profile(
        "kind: slurm\nmemory: 4 GB\nqueue: a\n", "x")
    assert both[0] == both[1], "the words of the field, both of them"
    assert read_profile("kind: slurm\nmemory: 4 GB\nadaptive: {minimum: 0, maximum: 5}\n", "x").bounds == (0, 5)
    with pytest.raises(ProfileError, match="a local profile has no cores"):
        Profile("local", cores=3)


@pytest.mark.parametrize("kind", sorted(HEADERS))
def test_the_script_of_a_job(kind: str) -> None:
    script = plan(read_profile(f"kind: {kind}\n{QUEUE}", "x"))
    for line in HEADERS[kind]:
        assert line in script.splitlines()
    body = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert body[0] == "module load python"
    assert "export OMP_NUM_THREADS=1" in body
    assert 'FACTORY_SCRATCH=$(mktemp -d "$TMPDIR/mr-factory-XXXXXXXXXX") || exit 1' in body
    command = body[-1]
    assert command.startswith("/opt/python -m distributed.cli.dask_worker tls://SCHEDULER:PORT --name factory-0")
    for words in ("--nthreads 2", "--nworkers 2", "--memory-limit 3.73GiB", "--lifetime 97200s", "--interface ib0",
                  "--dashboard-address 127.0.0.1:0", "--protocol tls://",
                  "--tls-key /shared/me/run-HOST-PID-RANDOM/key.pem"):
        assert words in command
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert not Path("/shared").exists(), "showing makes no folder"


def test_resources_of_kubernetes(tmp_path: Path) -> None:
    write_keys(tmp_path)
    profile = read_profile(BASE["kubernetes"] + "workers: 5\ncores: 2\n", "x")
    secret, cluster = resources(profile, "n", tmp_path)["items"]
    assert {name: base64.b64decode(text) for name, text in secret["data"].items()} == {
        path.name: path.read_bytes() for path in tmp_path.iterdir()}
    worker, scheduler = (cluster["spec"][role]["spec"] for role in ("worker", "scheduler"))
    assert cluster["spec"]["worker"]["replicas"] == 3, "two workers of one thread a pod"
    for pod in (worker, scheduler):
        (container,) = pod["containers"]
        assert {"--tls-ca-file", "/etc/mr-factory-keys/key.pem"} <= set(container["args"])
        assert {"name": "OMP_NUM_THREADS", "value": "1"} in container["env"]
        assert pod["volumes"][0]["secret"] == {"secretName": "n", "defaultMode": 0o400}
        assert not pod["automountServiceAccountToken"]
    assert worker["containers"][0]["resources"]["limits"] == {"cpu": "2", "memory": "4000000000"}
    assert "tls://n-scheduler.default.svc.cluster.local:8786" in worker["containers"][0]["args"]
    assert "127.0.0.1:8787" in scheduler["containers"][0]["args"], "pages on the pod's loopback"
    assert "key.pem" in secret["data"]


def test_what_kubectl_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that notes how it is called: resources are deleted also when the block fails."""
    told = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin/kubectl"
    stand_in.write_text(f"#!{sys.executable}\nimport sys, time\nopen({str(told)!r}, 'a').write(' '.join(sys.argv[1:3])"
                        "+ '\\n')\nif 'port-forward' in sys.argv:\n    print('Forwarding from 127.0.0.1:4321 -> 8786', "
                        "flush=True)\n    time.sleep(60)\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    write_keys(tmp_path)
    profile = read_profile(BASE["kubernetes"], "x")
    with pytest.raises(ConnectionError, match=r"tls://127\.0\.0\.1:4321"), forwarded(profile, tmp_path) as address:
        raise ConnectionError(address)
    assert told.read_text().splitlines() == ["create -f", "wait --namespace", "port-forward --namespace",
                                             "delete --namespace"]
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="needs the program kubectl"), forwarded(profile, tmp_path):
        pass


def test_templates_are_whole() -> None:
    for name in names():
        text = read(name)
        if name.endswith(".sbatch"):
            assert subprocess.run(["bash", "-n", HERE / name]).returncode == 0
        else:
            load_profile(name.removesuffix(".yaml"))
            # What is commented out is legal, too
            opened = re.sub(r"^# (\w+: )", r"\1", text, flags=re.MULTILINE)
            every = read_profile(opened.replace("adaptive", "# adaptive", 1), name)
            assert every.scratch
            assert yaml.safe_load(text)["kind"] == every.kind
    with pytest.raises(ValueError, match=r"did you mean array\.sbatch"):
        read("aray.sbatch")


def test_the_command_line(tmp_path: Path) -> None:
    def told(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, list(words))
        return done.exit_code, done.output

    assert "#SBATCH --mem=4G" in told("cluster", "show", "slurm")[1]
    shown = json.loads(told("cluster", "show", "slurm", "--json")[1])
    assert shown["size"] == "workers: 4; threads of each: 1"
    assert set(json.loads(told("cluster", "list", "--json")[1])["kinds"]) == set(LEGAL)
    assert told("cluster", "template", "array.sbatch")[1].startswith("#!/bin/bash")
    code, text = told("make", "rim_t1", str(tmp_path / "s"), "--cluster", "slrum")
    assert code == 1
    assert "did you mean slurm" in text
    code, text = told("make", "rim_t1", str(tmp_path / "s"), "--cluster", "slurm", "--workers", "2")
    assert code == 2
    assert "not both" in text
    assert told("make", "rim_t1", str(tmp_path / "s"), "--report", "x.html")[0] == 2
    assert not list(tmp_path.iterdir()), "all of it was refused before anything was made"
