"""The folder in which an embedded server keeps everything it has: names, owners and modes.

    <data>/                  0700; under root 0710 with the server's group, so that it can pass
      start.lock             held while somebody starts or leaves
      users.lock             shared by everybody who uses the server
      server.lock            held by the server itself, through an inherited descriptor
      password app_password  0600, the two logins
      postgresql.conf pg_hba.conf
      postgres.log           the previous one is postgres.log.1
      postgres-<version>/    under root: the binaries, which the server cannot change
      cluster/               0700, the server's: the database
      socket/                0700, the server's: its Unix socket

Under root everything but `cluster` and `socket` stays root's: a server that was broken into
can then neither replace a password nor lead root through a symbolic link.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from billing.errors import EmbeddedServerError
from billing.store.embedded.account import ServerAccount

LOG_LIMIT_BYTES = 16 * 1024 * 1024
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def default_data_dir() -> Path:
    """`/var/lib/steelyard` for root, else the place the XDG rules name."""
    if os.geteuid() == 0:
        return Path("/var/lib/steelyard")
    base = os.environ.get("XDG_DATA_HOME", "")
    if base.startswith("/"):
        return Path(base, "steelyard")
    return Path.home().joinpath(".local", "share", "steelyard")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFolder:
    """Paths inside one data folder, and the account that the server part belongs to."""

    root: Path
    account: ServerAccount

    @property
    def start_lock(self) -> Path:
        return self.root.joinpath("start.lock")

    @property
    def users_lock(self) -> Path:
        return self.root.joinpath("users.lock")

    @property
    def server_lock(self) -> Path:
        return self.root.joinpath("server.lock")

    @property
    def cluster(self) -> Path:
        return self.root.joinpath("cluster")

    @property
    def socket(self) -> Path:
        return self.root.joinpath("socket")

    @property
    def log(self) -> Path:
        return self.root.joinpath("postgres.log")

    @property
    def settings(self) -> Path:
        return self.root.joinpath("postgresql.conf")

    @property
    def access_rules(self) -> Path:
        return self.root.joinpath("pg_hba.conf")

    def owner_password(self) -> str:
        return self._secret(self.root.joinpath("password"))

    def app_password(self) -> str:
        return self._secret(self.root.joinpath("app_password"))

    def make(self) -> None:
        """Make the folder, or check that nobody else can change the one that is there.

        Parents are made if absent and never changed. A folder that exists keeps its mode;
        under root the server's group gets leave to pass through it, nothing more.

        Raises:
            EmbeddedServerError: the folder is another user's, or others may write to it.
        """
        self.root.parent.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(mode=0o700, exist_ok=True)
        found = self.root.stat()
        if found.st_uid != os.geteuid() or found.st_mode & OTHERS_MAY_WRITE:
            raise EmbeddedServerError(
                f"{self.root} belongs to another user, or others may write to it",
                remedy="name a data folder that only you can change",
            )
        if self.account.separate and not found.st_mode & stat.S_IXOTH:
            self.account.let_read(self.root)
            self.root.chmod(stat.S_IMODE(found.st_mode) & ~stat.S_IRWXG | stat.S_IXGRP)

    def make_own(self, path: Path) -> Path:
        """Make a folder that belongs to the server's account alone."""
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o700)
        self.account.give(path)
        return path

    def write(self, path: Path, text: str) -> None:
        """Write a file that the server reads and only we change; all of it or nothing."""
        draft = path.with_name(path.name + ".new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        if self.account.separate:
            self.account.let_read(draft)
            draft.chmod(0o640)
        draft.replace(path)

    def open_log(self) -> int:
        """Open the server's log for appending, after setting a large one aside."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_name("postgres.log.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self.log, flags, 0o600)

    def sync(self) -> None:
        """Make renames inside the folder survive a power cut."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _secret(self, path: Path) -> str:
        """Read a password, or make one up on first use. Called under the start lock."""
        if path.exists():
            return path.read_text(encoding="ascii").strip()
        made = secrets.token_urlsafe(32)
        draft = path.with_name(path.name + ".new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(made + "\n")
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
        self.sync()
        return made
