"""The name of this process, among all that share a queue."""

import hashlib
import os
import re
import secrets
import socket
from functools import lru_cache
from pathlib import Path


def process_name() -> str:
    """Our name among all workers: in pg_stat_activity, Redis' client list, health, leases and logs.

    `ledgerq:<host>:<machine>:<pid>:<drawn at start>`: no two processes have had the same one, whatever
    container they run in. At most 63 characters of ASCII: PostgreSQL cuts what is longer.
    """
    return _named(socket.gethostname(), os.getpid())


def runs_here(name: str) -> bool:
    """True if the process of that name runs on this machine, or in this container."""
    return name.startswith(f"{_machine(socket.gethostname())}:")


@lru_cache(maxsize=8)
def _named(host: str, pid: int) -> str:
    """Asked for with each job, so made once a process; a forked child has another pid, so another name."""
    return f"{_machine(host)}:{pid}:{secrets.token_hex(3)}"


def _machine(host: str) -> str:
    """The host's name, cut, and a digest of all that tells two containers apart."""
    whole = f"{host}\0{_boot_id()}\0{_pid_namespace()}"
    digest = hashlib.sha256(whole.encode(errors="surrogateescape")).hexdigest()[:8]
    shown = re.sub(r"[^A-Za-z0-9._-]", "-", host)[:24] or "unnamed"
    return f"ledgerq:{shown}:{digest}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux, or a container without it
        return ""


def _pid_namespace() -> str:
    """Two containers on one machine have two, even if both are pid 1 of a host with the same name."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # as above
        return ""
