"""The name of this process, which no other process has."""

import hashlib
import os
import re
import secrets
import socket
from functools import lru_cache
from pathlib import Path


def process_name() -> str:
    """The name of this process in pg_stat_activity, Redis' client list, health, leases and logs.

    `ledgerq:<host>:<machine>:<pid>:<random>`: two processes never have one name, even in containers with one host name.
    At most 63 ASCII characters, because PostgreSQL cuts longer names.
    """
    return _named(socket.gethostname(), os.getpid())


def runs_here(name: str) -> bool:
    """True if the process of that name runs in this container, or on this machine if there is no container."""
    return name.startswith(f"{_machine(socket.gethostname())}:")


@lru_cache(maxsize=8)
def _named(host: str, pid: int) -> str:
    """The name, made once, because each job asks for it. A forked child has another pid, and so gets another name."""
    return f"{_machine(host)}:{pid}:{secrets.token_hex(3)}"


def _machine(host: str) -> str:
    """`ledgerq:`, 24 characters of the host's name, and a digest that differs between any two containers."""
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
    """The process's pid namespace. Containers on one machine differ in it, even if host name and pid are equal."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux, or a container without it
        return ""
