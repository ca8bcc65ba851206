"""How a process of ours becomes somebody who owns nothing, after it has read what it needs, and
ends with its parent."""

from __future__ import annotations

import os
import signal
import sys

from ..shared import kernel
from .terminal import say


def become(user: tuple[int, int] | None) -> None:
    """Become this user, (uid, gid), for good, unable to gain any right; None: stay who we are."""
    if user is not None:
        try:
            kernel.load()
            os.setgroups([])
            os.setresgid(user[1], user[1], user[1])
            os.setresuid(user[0], user[0], user[0])
        except PermissionError:
            # A container's root without any capability: it owns as little as anybody there.
            say(f"einhornpy: cannot become user {user[0]}, stays user {os.geteuid()}", sys.stderr)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


def die_with(parent: int) -> None:
    """Be killed when the parent, a pid, is gone. Comes after `become`: the kernel forgets it when
    the user changes (prctl(2))."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def adopt_orphans() -> None:
    """Become the parent of every orphan below us, for good: it stays so across exec, and no child
    inherits it (prctl(2))."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)


def by_descriptor(directory: str) -> str:
    """A name of a directory that stays good for whoever may not pass the directories above it."""
    return f"/proc/self/fd/{os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)}"
