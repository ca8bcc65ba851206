"""The bundle: it holds what a template needs, and stays what it was."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from einhornpy.supervisor.launch import bundle
from einhornpy.supervisor.system.own_code import OwnCode

from ..harness import DEADLINE


@pytest.fixture
def fd() -> Iterator[int]:
    own_code = OwnCode()
    made = bundle.make(own_code)
    os.close(own_code.fd)
    yield made
    os.close(made)


def test_it_is_a_zip_that_nobody_changes(fd: int) -> None:
    with zipfile.ZipFile(open(fd, "rb", closefd=False)) as archive:
        assert archive.testzip() is None
        assert "__main__.py" in archive.namelist()
    assert not os.get_inheritable(fd)
    with pytest.raises(PermissionError):
        os.write(fd, b"x")
    with pytest.raises(PermissionError):
        os.truncate(fd, 0)


def test_what_it_holds_is_enough(fd: int, place: Path) -> None:
    """In a Python that sees gunicorn and nothing of ours: every module can be imported, and none
    imports asyncio before gevent could patch it."""
    for name in ("gunicorn", "packaging"):
        os.symlink(str(distribution(name).locate_file(name)), place / name)
    program = (
        f"import sys; sys.path[:0] = ['/proc/self/fd/{fd}', {str(place)!r}]\n"
        "import importlib, pkgutil, einhornpy_adapter as package\n"
        "names = [each.name for each in pkgutil.iter_modules(package.__path__)]\n"
        "for name in names:\n    importlib.import_module('einhornpy_adapter.' + name)\n"
        "print(len(names), 'asyncio' in sys.modules, 'gunicorn' in sys.modules)\n"
        "import gunicorn.app.wsgiapp\n"
        "print('asyncio' in sys.modules, 'einhornpy' in sys.modules)")
    out = subprocess.run(
        [sys.base_exec_prefix + "/bin/python3", "-I", "-S", "-c", program], pass_fds=[fd],
        capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert out.stderr == ""
    assert out.stdout.split()[1:] == ["False", "False", "False", "False"]
