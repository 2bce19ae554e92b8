"""Private folders: no links, owned by this user, and closed to every other user of the machine."""

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
    """A folder or a file is not private, so it is neither used nor removed."""

    def __init__(
        self, path: Path, problem: str, cure: str = "take it away, or name another folder"
    ) -> None:
        super().__init__(f"{path}: {problem}; {cure}")


def make_private(folder: Path, owners: Iterable[int] = ()) -> None:
    """Make the folder if it is missing, and close it to all users but its owner: this user, or one of `owners`.

    Raises:
        NotPrivate: the path is a link, a file or another user's folder, or another user may replace it. Neither the
            path nor the target of a link has changed then.
        OSError: the folder can't be made.
    """
    check_way(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_way(folder)  # the umask may have opened the new parent folders to others
    with suppress(FileExistsError):
        folder.mkdir(mode=PRIVATE)
    check_owner(folder, owners)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchmod(opened, PRIVATE)
    finally:
        os.close(opened)


def check_way(folder: Path) -> None:
    """Refuse a folder that another user could replace, because a folder or a link above it is open to that user.

    Raises:
        NotPrivate: names the folder above, and says who may change its content.
        OSError: the links on the path go in a circle.
    """
    for place in _leading_to(folder.absolute().parent):
        found = place.lstat()
        mode, sticky = found.st_mode, found.st_mode & stat.S_ISVTX
        cure = "name a folder that stands below none but yours and root's"
        if found.st_uid not in {0, os.geteuid()}:
            raise NotPrivate(place, "belongs to another user, who may replace what is in it", cure)
        if stat.S_ISLNK(mode) or sticky:  # in a sticky folder, users replace only their own files
            continue
        if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and _has_others(found.st_gid)):
            cure = f"take that right away (chmod go-w), or {cure}"
            raise NotPrivate(place, "other users may replace what is in it", cure)


def check_owner(folder: Path, owners: Iterable[int] = ()) -> None:
    """Refuse a path that is no folder, or a folder that belongs neither to this user nor to one of `owners`.

    Raises:
        NotPrivate: the path is a link, is no folder, or belongs to another user.
    """
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise NotPrivate(folder, "is a symbolic link")
    if not stat.S_ISDIR(found.st_mode):
        raise NotPrivate(folder, "is not a folder")
    if found.st_uid not in {os.geteuid(), *owners}:
        raise NotPrivate(folder, "belongs to another user")


def close_tree(folder: Path, owners: Iterable[int] = ()) -> None:
    """Close everything in a private folder to other users; refuse links, through which a change could leave the folder.

    Raises:
        NotPrivate: the folder holds a symbolic link, a file with a second name, or something of another user.
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
    """The folder for a socket: `folder`, or a temporary one if the socket's path would be too long or not plain."""
    place = folder.resolve()
    plain = re.fullmatch(r"[\w./-]+", str(place), re.ASCII)
    if plain and len(f"{place}/{name}") <= _MAX_SOCKET:
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="ledgerq-") as short:
        yield Path(short)


def give(folder: Path, owner: int) -> None:
    """Make another user the owner of a folder and of everything in it. Only root can do so."""
    for path in (folder, *_entries(folder)):
        os.chown(path, owner, owner, follow_symlinks=False)


def remove_tree(folder: Path, owners: Iterable[int] = ()) -> None:
    """Remove a folder with everything in it, if it exists. It must belong to this user or to one of `owners`.

    Raises:
        NotPrivate: the folder is a link, belongs to another user, or can't be removed.
    """
    if not os.path.lexists(folder):
        return
    check_owner(folder, owners)
    try:
        shutil.rmtree(folder)  # removes links, and never follows one
    except OSError as error:
        raise NotPrivate(folder, f"can't be removed ({error.strerror})") from error


def open_private(path: Path, flags: int, owners: Iterable[int] = ()) -> int:
    """Open a file, made if it is missing, and close it to other users. Returns the file descriptor.

    Raises:
        NotPrivate: the path is a link, belongs to another user, or is no plain file.
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
    """The folder, all folders above it, and the targets of links among them, as far as they exist."""
    with suppress(FileNotFoundError):
        folder.stat()  # raises for links in a circle
    for place in (*reversed(folder.parents), folder):
        if not os.path.lexists(place):
            return
        yield place
        if place.is_symlink():
            yield from _leading_to(place.parent / place.readlink())


def _has_others(group: int) -> bool:
    """True if the group has another member than root and this user: many users have a group of their own."""
    users = {user.pw_name: user for user in pwd.getpwall()}
    members = {name for name, user in users.items() if user.pw_gid == group}
    with suppress(KeyError):
        members |= set(grp.getgrgid(group).gr_mem)
    us = {name for name, user in users.items() if user.pw_uid in {0, os.geteuid()}}
    return bool(members - us)


def _entries(folder: Path) -> Iterable[Path]:
    for name, folders, files in os.walk(folder):  # links to folders are listed and not entered
        yield from (Path(name, each) for each in (*folders, *files))
