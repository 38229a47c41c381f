"""A small program that keeps an embedded server alive exactly as long as somebody uses it.

It is the server's parent. It waits for the exclusive lock on `users.lock`, which the kernel
grants once every user has gone, by leaving or by kill -9, and then asks the server for a fast
shutdown. A user that comes back meanwhile waits for the keeper's end. Should the keeper itself
be killed, Linux tells the server (PR_SET_PDEATHSIG); elsewhere the next user finds the server
by its lock and stops it on leaving.

Run by path with `python -I -S`, so it imports the standard library only, starts in
milliseconds and holds no secret: its environment is empty and its arguments are
`users.lock uid gid program arguments…`. Descriptors 1 and 2 are the server's log; the
descriptor of `server.lock` is inherited and passed on by not being closed.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import threading
from typing import NoReturn

PR_SET_PDEATHSIG = 1
FAST_SHUTDOWN = signal.SIGINT
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CANNOT_RUN = 127


def keep(arguments: list[str]) -> NoReturn:
    """Start the server as a child of a process without parent or terminal; end with it."""
    users_lock, uid, gid, *command = arguments
    if os.fork():
        os._exit(0)
    # A session of its own: Ctrl-C in the user's terminal must not reach the server before
    # those who use it have finished.
    os.setsid()
    os.umask(0o077)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    keeper = os.getpid()
    server = os.fork()
    if server == 0:
        become_server(keeper, int(uid), int(gid), command)
    watcher = threading.Thread(target=stop_when_unused, args=(users_lock, server), daemon=True)
    watcher.start()
    os.waitpid(server, 0)
    os._exit(0)


def stop_when_unused(users_lock: str, server: int) -> None:
    """Wait until nobody holds the users' lock, then stop the server. The lock stays held."""
    descriptor = os.open(users_lock, os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.kill(server, FAST_SHUTDOWN)


def become_server(keeper: int, uid: int, gid: int, command: list[str]) -> NoReturn:
    """Drop privileges, tie our life to the keeper's, and turn into the server."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)
    try:
        if uid != os.geteuid():
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
        # After setuid, which would clear it.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, FAST_SHUTDOWN)
        # The keeper may have died before the line above took effect.
        if os.getppid() == keeper:
            os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
    os._exit(CANNOT_RUN)


if __name__ == "__main__":
    keep(sys.argv[1:])
