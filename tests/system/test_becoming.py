"""What a child says when it can't become the program that it is to be: the step, and what that was
about."""

from __future__ import annotations

import os
import pwd
import resource
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from einhornpy.supervisor.system.attributes import Attributes
from einhornpy.supervisor.system.processes import Exit, Launch, Processes

from ..harness import DEADLINE, WORKER, Master


@pytest.fixture
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.close()


def ended(processes: Processes, launch: Launch) -> Exit:
    fd = os.pidfd_open(processes.start(launch))
    try:
        assert select.select([fd], [], [], DEADLINE)[0]
    finally:
        os.close(fd)
    (exit,) = processes.reap()
    return exit


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_every_step_of_a_start_is_named_with_what_it_is_about(processes: Processes,
                                                              tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    orphaned = script(tmp_path / "orphaned", f"#!{gone}/bin/python -u\n")
    closed = script(tmp_path / "closed", "#!/bin/sh\n", 0o644)
    broken = script(tmp_path / "broken", "\x7fELF")
    long = f"/{'long/' * 200}"
    for launch, why in [
        (Launch(["true"], str(gone), {}),
         f"cannot change to the directory {gone}: No such file or directory"),
        (Launch(["true"], f"{orphaned}/x", {}),
         f"cannot change to the directory {orphaned}/x: Not a directory"),
        (Launch(["true"], long, {}),
         f"cannot change to the directory {long}: No such file or directory"),
        (Launch(["a\nb"], "/", {}), "cannot run a b: command not found"),
        (Launch([str(gone)], "/", {}), f"cannot run {gone}: command not found"),
        (Launch([orphaned], "/", {}), f"cannot run {orphaned}, which {gone}/bin/python is to "
         "interpret: No such file or directory"),
        (Launch([closed], "/", {}),
         f"cannot run {closed}: permission denied (it is not executable)"),
        (Launch([broken], "/", {}), f"cannot run {broken}: Exec format error"),
        (Launch(["true"], "/", {}, program=str(gone)), f"cannot run {gone}: command not found"),
        (Launch(["python"], "/", {}, program=closed, interpreter="/bin/true"),
         f"cannot run {closed}: permission denied (it is not executable)"),
        (Launch(["python"], "/", {}, program=orphaned, interpreter=str(gone)),
         f"cannot run {orphaned}, which {gone} is to interpret: command not found"),
        (Launch(["/bin/sh"], "/", {"A": "x" * (1 << 18)}),
         "cannot run /bin/sh: Argument list too long"),
        (Launch(["true"], "/", {}, attributes=Attributes(limits=(("nofile", 2, 1),))),
         "--rlimit: cannot set nofile to 2:1: "),
    ]:
        exit = ended(processes, launch)
        assert exit.status == 127
        assert exit.error is not None
        assert exit.error.startswith(why)


def test_who_may_not_enter_which_directory_is_named(processes: Processes, place: Path) -> None:
    """A file behind it seems not to be there: stat(2) fails as the search for a missing one does,
    but for its EACCES."""
    if os.geteuid() != 0:
        pytest.skip("only root can start something as another user")
    place.chmod(0o755)
    home = place / "home"
    home.mkdir()
    shell = script(home / "sh", "#!/bin/sh\n")
    linked = place / "linked"
    linked.symlink_to(shell)
    interpreted = script(place / "interpreted", f"#!{shell}\n")
    roots = script(place / "roots", "#!/bin/sh\n", 0o750)
    home.chmod(0o700)
    entry = pwd.getpwnam("www-data")
    www = Attributes(entry.pw_uid, entry.pw_gid, (entry.pw_gid,))
    barred = f"user www-data may not enter {home}"
    for command, directory, path, why in [
        (shell, "/", "", f"cannot run {shell}: permission denied ({barred})"),
        (str(linked), "/", "", f"cannot run {linked}: permission denied ({barred})"),
        ("./home/sh", str(place), "", f"cannot run ./home/sh: permission denied ({barred})"),
        ("sh", "/", str(home), f"cannot run sh: command not found, and {barred}"),
        (interpreted, "/", "", f"cannot run {interpreted}, which {shell} is to interpret: "
         f"Permission denied ({barred})"),
        (roots, "/", "", f"cannot run {roots}: permission denied (user www-data may not run it)"),
        ("true", str(home), "", f"cannot change to the directory {home}: "
         f"Permission denied ({barred})"),
        ("true", f"{home}/in/it", "", f"cannot change to the directory {home}/in/it: "
         f"Permission denied ({barred})"),
    ]:
        launch = Launch([command], directory, {"PATH": path}, attributes=www)
        assert ended(processes, launch).error == why
    reached = Launch(["true"], "/", {"PATH": f"{home}:/usr/bin:/bin"}, attributes=www)
    assert ended(processes, reached).status == 0


def test_a_limit_of_descriptors_that_cannot_be_set_is_named(processes: Processes) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes._limits = (hard + 1, hard)
    assert ended(processes, Launch(["true"], "/", {})).error == (
        f"cannot limit open descriptors to {hard + 1}:{hard}: current limit exceeds maximum limit")
    processes._limits = (hard, hard)
    exit = ended(processes, Launch(["true"], None, {"PATH": "/usr/bin:/bin"}))
    assert (exit.status, exit.error) == (0, None)


def test_what_comes_before_the_fork_is_named_too(start: Callable[..., Master]) -> None:
    master = start("-n", "1", "-m", "notify", "--on-worker-exit", "true", "--", *WORKER, "notify")
    (worker,) = master.wait_ready()["workers"]
    limits = resource.prlimit(master.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(master.pid, resource.RLIMIT_NOFILE, (8, limits[1]))
    os.kill(worker["pid"], signal.SIGKILL)
    why = "cannot make the pipes and sockets that it is given: Too many open files"
    assert why in master.wait_log(" worker cannot be started ")
    why = "cannot be started: cannot make the files that it is given: Too many open files"
    assert why in master.wait_log(" hook failed ")
    resource.prlimit(master.pid, resource.RLIMIT_NOFILE, limits)
    master.wait_ready()
