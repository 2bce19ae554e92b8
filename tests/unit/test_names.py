"""A worker's name is unique per boot of its process, whatever host name, container or number it has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ledgerq.runtime import process_name as naming
from ledgerq.runtime.process_name import process_name, runs_here

LONG = "ledgerq-worker-of-the-shop-in-europe-west3-7d9f8b6c5d-"


@pytest.fixture(autouse=True)
def _ask_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    naming._named.cache_clear()


def as_pod(
    monkeypatch: pytest.MonkeyPatch, host: str, *, pid: int = 1, namespace: str = "pid:[1]"
) -> str:
    """Our name, if this were a container like that."""
    monkeypatch.setattr("socket.gethostname", lambda: host)
    monkeypatch.setattr("os.getpid", lambda: pid)
    monkeypatch.setattr(naming, "_pid_namespace", lambda: namespace)
    return process_name()


@pytest.mark.parametrize(
    "host",
    ["x", "", LONG * 5, "a|b c\x1b[2J\n:é🙂", "-" * 253, "host:7", "\udcff", "a" * 63],
)
def test_a_name_is_short_plain_and_without_what_separates_names(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """It travels in `token|since|attempt|worker`, in CLIENT SETNAME and in pg_stat_activity."""
    name = as_pod(monkeypatch, host, pid=4_194_304)
    assert len(name.encode()) <= 63
    assert re.fullmatch(r"ledgerq:[A-Za-z0-9._-]+:[0-9a-f]{8}:4194304:[0-9a-f]{6}", name)
    assert runs_here(name)


def test_two_pods_with_long_equal_beginnings_and_pid_1_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A probe never takes another pod's worker for its own."""
    one = as_pod(monkeypatch, LONG + "abcde")
    other = as_pod(monkeypatch, LONG + "fghij")
    assert one != other
    assert runs_here(other)
    assert not runs_here(one)


def test_two_containers_with_one_host_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the namespace of their process numbers, or by the boot of their machines."""
    one = as_pod(monkeypatch, "worker", namespace="pid:[4026532001]")
    naming._named.cache_clear()
    assert runs_here(as_pod(monkeypatch, "worker", namespace="pid:[4026532002]"))
    assert not runs_here(one)
    naming._named.cache_clear()
    here = as_pod(monkeypatch, "worker", namespace="pid:[4026532001]")
    assert runs_here(here)
    assert runs_here(one)
    monkeypatch.setattr(naming, "_boot_id", lambda: "another boot")
    assert not runs_here(here)


def test_a_process_that_starts_again_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's second process is pid 1 on the same host too; it is still seen as here."""
    program = "from ledgerq.runtime.process_name import process_name; print(process_name())"
    command = [sys.executable, "-c", program]
    names = [
        subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=_root()
        ).stdout.strip()
        for _ in range(2)
    ]
    assert names[0] != names[1]
    assert all(runs_here(name) for name in names)
    one = as_pod(monkeypatch, "worker")
    naming._named.cache_clear()
    assert as_pod(monkeypatch, "worker") != one


def test_a_name_stays_as_long_as_its_process() -> None:
    """It is asked for with each job."""
    assert process_name() == process_name()


def test_a_forked_child_has_a_name_of_its_own() -> None:
    """It must not be taken for its parent in leases or health."""
    reading, writing = os.pipe()
    ours = process_name()
    child = os.fork()
    if child == 0:
        os.write(writing, process_name().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 200).decode()
    os.close(reading)
    os.close(writing)
    assert theirs != ours
    assert f":{child}:" in theirs
    assert runs_here(theirs)


def test_names_work_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS, or where a container hides it."""
    monkeypatch.setattr(Path, "read_text", _missing)
    monkeypatch.setattr(Path, "readlink", _missing)
    name = process_name()
    assert re.fullmatch(r"ledgerq:[\w.-]+:[0-9a-f]{8}:\d+:[0-9a-f]{6}", name)
    assert runs_here(name)


@pytest.mark.parametrize("name", ["ledgerq:host:7", "ledgerq:", "", "arq", "ledgerq:a:b:c:d:e:f"])
def test_a_name_of_another_version_runs_elsewhere(name: str) -> None:
    """During a deploy both write theirs; none is a reason to fail."""
    assert not runs_here(name)


def _missing(*_: object, **__: object) -> str:
    raise FileNotFoundError


def _root() -> Path:
    return Path(naming.__file__).parents[2]
