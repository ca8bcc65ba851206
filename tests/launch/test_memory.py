"""What counts as used, and what can still be had: pages of files are nobody's, in either version of
control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from einhornpy.supervisor.launch.memory import (
    NO_LIMIT,
    V1,
    V2,
    Group,
    available_memory,
    group_memory,
    memory,
    own_memory,
    room,
)

from ..harness import DEADLINE

MIB = 1 << 20
HOST = 5000 * MIB
# What v1 says where there is no limit.
UNLIMITED = 0x7FFFFFFFFFFFF000


def write(directory: Path, files: dict[str, object]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(f"{content}\n")


def stat(**numbers: int) -> str:
    return "\n".join(f"{name} {number * MIB}" for name, number in numbers.items())


def v2(directory: Path, limit: object, used: int, high: object = "max", **numbers: int) -> None:
    write(directory, {"memory.max": limit, "memory.high": high, "memory.current": used * MIB,
                      "memory.stat": stat(anon=used, **numbers)})


def v1(directory: Path, limit: int, used: int, **numbers: int) -> None:
    write(directory, {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used * MIB,
                      "memory.stat": stat(inactive_file=1, active_file=1, **numbers)})


Lay = Callable[..., Path]


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """Make a /proc that says where control groups are mounted, below which directory of theirs, and
    in which one we are."""

    def made(*mounts: tuple[str, Path, str], ours: str) -> Path:
        proc = tmp_path / "proc"
        write(proc, {"meminfo": f"MemTotal: {HOST >> 9} kB\nMemFree: 1 kB\n"
                                f"MemAvailable: {HOST >> 10} kB"})
        write(proc / "self", {
            "cgroup": ours,
            "mountinfo": "".join(
                f"30 23 0:26 {root} {directory} rw,nosuid shared:4 - {kind}\n"
                for kind, directory, root in mounts) + "31 23 0:27 / / rw - ext4 /dev/vda rw"})
        return proc

    return made


CGROUP2, MEMORY = "cgroup2 cgroup2 rw,nsdelegate", "cgroup cgroup rw,memory"


@pytest.mark.parametrize(("groups", "bytes"), [
    ([], 1000), ([Group(NO_LIMIT, 1 << 40, 0)], 1000),
    ([Group(600, 500, 0)], 100), ([Group(600, 590, 400)], 410),
    ([Group(600, 700, 0)], 0, ), ([Group(600, 100, 200)], 600),
    ([Group(900, 800, 700), Group(500, 480, 30)], 50), ([Group(5000, 100, 0)], 1000)])
def test_the_room_is_that_of_the_tightest(groups: list[Group], bytes: int) -> None:
    assert room(1000, groups) == bytes


def test_v2_counts_what_cannot_be_reclaimed_and_every_limit_above(lay: Lay,
                                                                  tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    app = root / "web.slice/app.service"
    proc = lay((CGROUP2, root, "/"), ours="0::/web.slice/app.service")
    v2(app, "max", 900)
    v2(root / "web.slice", "max", 900)
    write(root, {"cgroup.controllers": "memory"})  # the root itself has no limit, and counts nothing
    assert available_memory(proc) == HOST
    v2(app, 1000 * MIB, 990, inactive_file=100, active_file=300, slab_reclaimable=50, shmem=200)
    assert available_memory(proc) == 460 * MIB
    v2(app, 1000 * MIB, 990, high=900 * MIB, inactive_file=400)
    assert available_memory(proc) == 310 * MIB
    v2(root / "web.slice", 2000 * MIB, 1990, inactive_file=100)
    assert available_memory(proc) == 110 * MIB
    # What is counted late may exceed what it is a part of.
    v2(root / "web.slice", 2000 * MIB, 10, inactive_file=500)
    assert available_memory(proc) == 310 * MIB


def test_v1_counts_what_cannot_be_reclaimed_and_every_limit_above(lay: Lay,
                                                                  tmp_path: Path) -> None:
    root, unified = tmp_path / "memory", tmp_path / "unified"
    proc = lay((CGROUP2, unified, "/"), (MEMORY, root, "/"), ("cgroup cgroup rw,cpu,cpuacct",
                                                             tmp_path / "cpu", "/"),
               ours="9:name=systemd:/\n4:memory:/pod/app\n1:cpu,cpuacct:/pod\n0::/")
    unified.mkdir()
    for directory in (root, root / "pod", root / "pod/app"):
        v1(directory, UNLIMITED, 9000)
    assert available_memory(proc) == HOST
    v1(root / "pod/app", 1000 * MIB, 995, total_inactive_file=200, total_active_file=300)
    assert available_memory(proc) == 505 * MIB
    v1(root / "pod", 2000 * MIB, 1990, total_inactive_file=100)
    assert available_memory(proc) == 110 * MIB


@pytest.mark.parametrize(("root", "ours"), [
    ("/docker/1", "/docker/1"), ("/", "/"), ("/", "/docker/1"), ("/docker/1", "/"),
    ("/docker/1", "/../2")])
def test_a_container_sees_its_own_group_as_the_root(lay: Lay, tmp_path: Path, root: str,
                                                    ours: str) -> None:
    """With and without a namespace of its own (cgroup_namespaces(7))."""
    proc = lay((CGROUP2, tmp_path / "2", root), (MEMORY, tmp_path / "1", root),
               ours=f"3:memory:{ours}\n0::{ours}")
    v2(tmp_path / "2", 1000 * MIB, 990, active_file=600)
    v1(tmp_path / "1", UNLIMITED, 1)
    assert available_memory(proc) == 610 * MIB
    v1(tmp_path / "1", 700 * MIB, 600, total_active_file=200)
    assert available_memory(proc) == 300 * MIB


def test_without_control_groups_and_without_anything(lay: Lay, tmp_path: Path) -> None:
    assert available_memory(lay(ours="")) == HOST
    assert available_memory(tmp_path / "nowhere") >= 1 << 60
    assert available_memory(lay((CGROUP2, tmp_path / "gone", "/"), ours="0::/a")) == HOST


# --- the real ones ---

# Joins a group, and fills its page cache; prints what can be had.
READER = """
import os, sys
from einhornpy.supervisor.launch.memory import available_memory
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
with open(sys.argv[2], "wb") as file:
    for _ in range(96):
        file.write(bytes(1 << 20))
    file.flush()
    os.fsync(file.fileno())
print(available_memory())
"""


@pytest.fixture
def group() -> Iterator[tuple[Path, str]]:
    """A control group of this host's that may use 128 MiB, and what the file is called that says
    how much it uses."""
    paths = {names: path for _, names, path in (
        line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())}
    for mount, path, names in (("/sys/fs/cgroup/memory", paths.get("memory"), V1),
                               ("/sys/fs/cgroup", paths.get(""), V2)):
        made = Path(f"{mount}{path}/einhornpy-test-{os.getpid()}")
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            (made / names.limits[0]).write_text(str(128 * MIB))
            yield made, names.used
            return
        except OSError:
            continue
        finally:
            made.rmdir()
    pytest.skip("no control group can be made here")


def test_a_group_that_has_read_files_is_not_short_of_memory(group: tuple[Path, str],
                                                            tmp_path: Path) -> None:
    directory, used = group
    # elsewhere than in memory
    path = Path("/var/tmp") / f"einhornpy-test-{os.getpid()}"
    try:
        process = subprocess.run([sys.executable, "-c", READER, str(directory), str(path)],
                                 capture_output=True, text=True, check=False, timeout=DEADLINE)
        assert process.returncode == 0, process.stderr
        assert int((directory / used).read_text()) > 90 * MIB, "its cache is counted as used"
        assert 64 * MIB < int(process.stdout) <= 128 * MIB
    finally:
        path.unlink(missing_ok=True)


MAPPED = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
assert sum(mapped[::4096]) == 0
own = bytearray(b"x" * (16 << 20))
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_file_that_is_mapped_is_not_used(tmp_path: Path) -> None:
    with (tmp_path / "model").open("wb") as file:
        file.truncate(64 * MIB)
    with subprocess.Popen([sys.executable, "-c", MAPPED, str(tmp_path / "model")],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        pid = process.pid
        resident = memory(pid)
        used = group_memory([pid], 1)[pid]
        needed = own_memory(pid)
        assert group_memory([pid], 1 << 40)[pid] == resident, "asked for no more than it costs"
        process.communicate()
    assert resident is not None
    assert resident > 80 * MIB
    assert 16 * MIB < used < 64 * MIB
    assert 16 * MIB < needed < 64 * MIB
    assert own_memory(pid) == 0
