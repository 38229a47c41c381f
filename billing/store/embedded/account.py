"""Which user of the operating system the embedded server runs as.

PostgreSQL refuses to run as root, and a server that shares root's files would be worth
attacking. Started by root it therefore gets a system user of its own; started by anybody else
it runs as that person, and this module has nothing to do.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from billing.errors import EmbeddedServerError

SYSTEM_USER = "steelyard"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAccount:
    """Numeric user and group of the server, and whether they are another's than ours."""

    uid: int
    gid: int
    separate: bool

    def give(self, path: Path) -> None:
        """Make the account own a file or folder that we made."""
        if self.separate:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def let_read(self, path: Path) -> None:
        """Let the account's group see a file or folder that stays ours."""
        if self.separate:
            os.chown(path, -1, self.gid, follow_symlinks=False)


def server_account() -> ServerAccount:
    """Return the account to use, creating the system user when root has none yet.

    Raises:
        EmbeddedServerError: root, and the system user can neither be found nor made.
    """
    if os.geteuid() != 0:
        return ServerAccount(uid=os.geteuid(), gid=os.getegid(), separate=False)
    entry = _find_user() or _create_user()
    if entry.pw_uid == 0:
        raise EmbeddedServerError(
            f"the user {SYSTEM_USER!r} is another name for root, and PostgreSQL refuses root",
            remedy=f"give {SYSTEM_USER!r} its own user id, or start Steelyard as another user",
        )
    return ServerAccount(uid=entry.pw_uid, gid=entry.pw_gid, separate=True)


def _find_user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return None


def _create_user() -> pwd.struct_passwd:
    remedy = (
        f"create it (useradd --system --no-create-home {SYSTEM_USER}), start Steelyard as an"
        " ordinary user, or name a server in STEELYARD_DATABASE_URL"
    )
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise EmbeddedServerError(
            f"the system user {SYSTEM_USER!r} is missing and there is no useradd to make it",
            remedy=remedy,
        )
    nologin = shutil.which("nologin", path="/usr/sbin:/sbin:/usr/bin:/bin") or "/bin/false"
    made = subprocess.run(
        [
            *(program, "--system", "--user-group", "--no-create-home"),
            *("--home-dir", "/nonexistent", "--shell", nologin, SYSTEM_USER),
        ],
        capture_output=True,
        check=False,
        cwd="/",
    )
    # Somebody else may have made the user between our look and our call: look once more.
    entry = _find_user()
    if entry is None:
        raise EmbeddedServerError(
            f"useradd could not create the system user {SYSTEM_USER!r}"
            f" (exit status {made.returncode})",
            remedy=remedy,
        )
    return entry
