"""Folders that are ours alone: no link, nobody else's, closed to every other user of the machine."""

import grp
import os
import pwd
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ledgerq.errors import LedgerqError

PRIVATE = 0o700
_OTHERS = 0o077
_MAX_SOCKET = 100  # bytes of a Unix socket's path: 108 on Linux, 104 on macOS


class NotPrivate(LedgerqError):
    """A folder or a file is not ours alone, so it is neither used nor removed."""

    def __init__(
        self, path: Path, problem: str, cure: str = "take it away, or name another folder"
    ) -> None:
        super().__init__(f"{path}: {problem}; {cure}")


def make_private(folder: Path, owners: Iterable[int] = ()) -> None:
    """Make the folder, or take the one that is there; either way only its owner can enter it.

    Raises:
        NotPrivate: it is a link, a file or somebody else's, or another user may put something else in
            its place. Neither it nor what it points to has changed.
        OSError: it can't be made.
    """
    check_way(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_way(folder)  # what was made just now may be open to others, as the umask has it
    with suppress(FileExistsError):
        folder.mkdir(mode=PRIVATE)
    check_owner(folder, owners)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchmod(opened, PRIVATE)
    finally:
        os.close(opened)


def check_way(folder: Path) -> None:
    """Refuse a folder that another user may swap for one of theirs: by a folder or a link above it.

    Raises:
        NotPrivate: it names the folder above, and who may change what is in it.
        OSError: the way goes in a circle.
    """
    for place in _leading_to(folder.absolute().parent):
        found = place.lstat()
        mode, sticky = found.st_mode, found.st_mode & stat.S_ISVTX
        cure = "name a folder that stands below none but yours and root's"
        if found.st_uid not in {0, os.geteuid()}:
            raise NotPrivate(place, "belongs to another user, who may replace what is in it", cure)
        if stat.S_ISLNK(mode) or sticky:  # in a sticky folder each may replace their own only
            continue
        if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and _has_others(found.st_gid)):
            cure = f"take that right away (chmod go-w), or {cure}"
            raise NotPrivate(place, "other users may replace what is in it", cure)


def check_owner(folder: Path, owners: Iterable[int] = ()) -> None:
    """Refuse what is no folder, or not a folder of ours or of these owners.

    Raises:
        NotPrivate: as it says.
    """
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise NotPrivate(folder, "is a symbolic link")
    if not stat.S_ISDIR(found.st_mode):
        raise NotPrivate(folder, "is not a folder")
    if found.st_uid not in {os.geteuid(), *owners}:
        raise NotPrivate(folder, "belongs to another user")


def close_tree(folder: Path, owners: Iterable[int] = ()) -> None:
    """Close everything in a private folder to other users, and refuse what could lead out of it.

    Raises:
        NotPrivate: a link in it, a second name of a file, or something of another user.
    """
    allowed = {os.geteuid(), *owners}
    for path in _entries(folder):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise NotPrivate(path, "is a symbolic link")
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            raise NotPrivate(path, "is a file with a second name")
        if found.st_uid not in allowed:
            raise NotPrivate(path, "belongs to another user")
        if found.st_mode & _OTHERS:
            path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


@contextmanager
def socket_folder(folder: Path, name: str) -> Iterator[Path]:
    """The folder, or for the while another private one if a socket's path in it is too long or too odd."""
    place = folder.resolve()
    plain = re.fullmatch(r"[\w./-]+", str(place), re.ASCII)
    if plain and len(f"{place}/{name}") <= _MAX_SOCKET:
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="ledgerq-") as short:
        yield Path(short)


def give(folder: Path, owner: int) -> None:
    """Make somebody else the owner of a folder and of all in it. Only root can."""
    for path in (folder, *_entries(folder)):
        os.chown(path, owner, owner, follow_symlinks=False)


def remove_tree(folder: Path, owners: Iterable[int] = ()) -> None:
    """Remove a folder of ours with all in it; where there is none, nothing happens.

    Raises:
        NotPrivate: it is a link or somebody else's.
    """
    if not os.path.lexists(folder):
        return
    check_owner(folder, owners)
    try:
        shutil.rmtree(folder)  # removes links, and never follows one
    except OSError as error:
        raise NotPrivate(folder, f"can't be removed ({error.strerror})") from error


def open_private(path: Path, flags: int, owners: Iterable[int] = ()) -> int:
    """Open a file of ours, made closed to others if it is missing; the descriptor.

    Raises:
        NotPrivate: it is a link, somebody else's, or no plain file.
    """
    try:
        opened = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if path.is_symlink():
            raise NotPrivate(path, "is a symbolic link") from error
        raise
    found = os.fstat(opened)
    ours = found.st_uid in {os.geteuid(), *owners}
    if not (ours and stat.S_ISREG(found.st_mode) and found.st_nlink == 1):
        os.close(opened)
        raise NotPrivate(path, "is not a plain file of ours")
    os.fchmod(opened, 0o600)
    return opened


def _leading_to(folder: Path) -> Iterator[Path]:
    """The folder, all above it, and where links among them lead; as far as they are there."""
    with suppress(FileNotFoundError):
        folder.stat()  # raises for links in a circle
    for place in (*reversed(folder.parents), folder):
        if not os.path.lexists(place):
            return
        yield place
        if place.is_symlink():
            yield from _leading_to(place.parent / place.readlink())


def _has_others(group: int) -> bool:
    """True if somebody else is in the group: many a user has one of their own."""
    users = {user.pw_name: user for user in pwd.getpwall()}
    members = {name for name, user in users.items() if user.pw_gid == group}
    with suppress(KeyError):
        members |= set(grp.getgrgid(group).gr_mem)
    us = {name for name, user in users.items() if user.pw_uid in {0, os.geteuid()}}
    return bool(members - us)


def _entries(folder: Path) -> Iterable[Path]:
    for name, folders, files in os.walk(folder):  # links to folders are listed and not entered
        yield from (Path(name, each) for each in (*folders, *files))
