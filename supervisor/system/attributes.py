"""What a child process is made to be: user, groups, niceness, limits, cores, umask, the kernel's
wish to kill it first.

Parsed and looked up once, before anything starts; `apply` is called in the child, between fork and
exec. A value that this process may not set is found by trying it in a child that does nothing else.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import resource
from collections.abc import Callable
from dataclasses import field, replace

from ...shared import kernel
from ...shared.frozen import dataclass

# What the kernel itself calls the user that owns nothing, where no such name is known.
NOBODY = 65534
LARGEST_ID = (1 << 32) - 1


class Refused(ValueError):
    """One line: the flag, the value, why it can't be had."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """`uid`, `gid`, `groups`: None to stay what the master is. `limits`: resource → (soft, hard).
    `cores`: the worker with seat i runs on core i modulo their number; empty: anywhere.
    `environment`: what such a user's processes expect."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None
    nice: int | None = None
    limits: tuple[tuple[str, int, int], ...] = ()
    cores: tuple[int, ...] = ()
    umask: int | None = None
    oom_score_adj: int | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def other_user(self) -> bool:
        """Whether the child will be somebody else than this process."""
        return self.uid not in (None, os.geteuid()) or self.gid not in (None, os.getegid())

    def of_template(self) -> Attributes:
        """The part that workers have from whom they are forked from: all but their cores."""
        return replace(self, cores=())

    def of_user_alone(self) -> Attributes:
        """The part that counts for every process, not only for workers."""
        return Attributes(self.uid, self.gid, self.groups, environment=self.environment)


def _number(text: str, flag: str) -> int:
    """The number of a user or group. The largest of all means "as it is" to the kernel
    (setresuid(2)).

    Raises:
        Refused: nobody has it.
    """
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= LARGEST_ID:
        raise Refused(f"{flag}: nobody has the number {text[:40]}: expected one below {LARGEST_ID}")
    return int(text)


def group_id(name: str, flag: str) -> int:
    """Look a group up by its name or number.

    Raises:
        Refused: there is none.
    """
    if name.isdecimal():
        return _number(name, flag)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Refused(f"{flag}: there is no group {name!r}") from None


def user_id(name: str, flag: str) -> int:
    """Look a user up by name or number.

    Raises:
        Refused: there is none.
    """
    if name.isdecimal():
        return _number(name, flag)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise Refused(f"{flag}: there is no user {name!r}") from None


def look_up(
    user: str | None, group: str | None, nice: int | None, limits: tuple[tuple[str, int, int], ...],
    cores: str | tuple[int, ...] | None, umask: int | None, oom_score_adj: int | None,
) -> Attributes:
    """Make the attributes of what was asked for, and try them.

    Raises:
        Refused: somebody or something doesn't exist here, or this process may not set it.
    """
    uid, gid, groups, environment = _who(user, group)
    here = sorted(os.sched_getaffinity(0))
    wanted = tuple(here) if cores == "spread" else cores or ()
    missing = [core for core in wanted if core not in here]
    if missing or isinstance(wanted, str):
        raise Refused(
            f"--cpu-affinity: core {missing[0]} is not one of those that may be used: "
            f"{_ranges(here)}"
        )
    made = Attributes(uid, gid, groups, nice, limits, wanted, umask, oom_score_adj, environment)
    _try(made)
    return made


def _who(
        user: str | None,
        group: str | None) -> tuple[int | None, int | None, tuple[int, ...] | None, dict[str, str]]:
    gid = None if group is None else group_id(group, "--group")
    if user is None:
        return None, gid, None if gid is None else (gid,), {}
    try:
        entry = pwd.getpwuid(_number(user, "--user")) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        if not user.isdecimal():
            raise Refused(f"--user: there is no user {user!r}") from None
        if gid is None:
            raise Refused(
                f"--user: there is no user with the number {user}, so --group is needed too"
            ) from None
        return int(user), gid, (gid,), {}
    gid = entry.pw_gid if gid is None else gid
    groups = tuple(sorted({gid, *os.getgrouplist(entry.pw_name, entry.pw_gid)}))
    return entry.pw_uid, gid, groups, {
        "USER": entry.pw_name, "LOGNAME": entry.pw_name, "HOME": entry.pw_dir}


def web_user(name: str | None) -> tuple[int, int] | None:
    """Who the web sidecar is to become, (uid, gid): the user that was asked for, nobody where we
    are root, else None: who we are.

    Raises:
        Refused: there is no such user, or this process may not become it.
    """
    own = os.geteuid()
    try:
        entry = pwd.getpwuid(_number(
            name, "--web-user")) if name is not None and name.isdecimal() else pwd.getpwnam(
                name or "nobody")
        found = entry.pw_uid, entry.pw_gid
    except KeyError:
        if name is not None:
            raise Refused(f"--web-user: there is no user {name!r}") from None
        found = NOBODY, NOBODY
    if name is not None and own not in (0, found[0]):
        raise Refused(
            f"--web-user: only root may choose who serves the page, and this is user {own}")
    return found if own == 0 else None


def _ranges(cores: list[int]) -> str:
    return ", ".join(str(core) for core in cores)


def _try(attributes: Attributes) -> None:
    """Apply everything in a child that then leaves."""
    if attributes == Attributes():
        return
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            apply(attributes, 0)
        # whatever it is, this child must not go on as if it were the master
        except BaseException as error:
            os.write(writer, (str(error) or type(error).__name__).encode()[:4000])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        reason = answer.read().decode(errors="replace")
    os.waitpid(pid, 0)
    if reason:
        raise Refused(reason)


def apply(attributes: Attributes, seat: int) -> None:
    """Make this process what `attributes` say. What needs privileges comes before they are given
    up.

    Raises:
        Refused: the kernel says no.
    """
    changes_user = attributes.other_user or attributes.groups is not None
    if changes_user:
        kernel.load()
    for name, soft, hard in attributes.limits:
        _do(f"--rlimit: cannot set {name} to {_limit_text(soft)}:{_limit_text(hard)}",
            lambda name=name, soft=soft, hard=hard:  # type: ignore[misc]
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard)))
    if attributes.nice is not None:
        renice(attributes.nice)
    if attributes.cores:
        core = attributes.cores[seat % len(attributes.cores)]
        _do(f"--cpu-affinity: cannot run on core {core}", lambda: os.sched_setaffinity(0, {core}))
    if attributes.oom_score_adj is not None:
        _do(f"--oom-score-adj: cannot set {attributes.oom_score_adj}",
            lambda: _write_oom_score(attributes.oom_score_adj or 0))
    if attributes.umask is not None:
        os.umask(attributes.umask)
    if not changes_user:
        return
    if attributes.other_user or os.geteuid() == 0:
        groups, gid, uid = attributes.groups or (), attributes.gid, attributes.uid
        _do("--group: cannot change the groups", lambda: os.setgroups(groups))
        if gid is not None:
            _do(f"--group: cannot become group {gid}", lambda: os.setresgid(gid, gid, gid))
        if uid is not None:
            _do(f"--user: cannot become user {uid}", lambda: os.setresuid(uid, uid, uid))
    # From now on no program that is exec'ed can have more than this process has.
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


def _limit_text(number: int) -> str:
    return "unlimited" if number == resource.RLIM_INFINITY else str(number)


def renice(number: int) -> None:
    """Set this process's niceness.

    Raises:
        Refused: the kernel says no.
    """
    _do(f"--nice: cannot set {number}", lambda: os.setpriority(os.PRIO_PROCESS, 0, number))


def _write_oom_score(number: int) -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(number))


def _do(what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except (OSError, ValueError) as error:
        raise Refused(
            f"{what}: {getattr(error, 'strerror', None) or error} (expected root, or a value that "
            "this user may "
            "set)") from None
