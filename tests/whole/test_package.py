"""What a wheel holds: every file of the rooms, and the manual page. The tests themselves run from
an editable install."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from ..harness import DEADLINE, ROOT

ROOMS = ("shared", "supervisor", "control", "worker")
MAN = "docs/man/einhornpy.1"


def test_a_wheel_holds_every_file(place: Path) -> None:
    source = place / "source"
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    (source / MAN).parent.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", MAN):
        shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index",
                    "--no-build-isolation", "-w", str(place), str(source)], check=True, cwd=place,
                   timeout=DEADLINE)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if "dist-info" not in name}
    files = {f"einhornpy/{path.relative_to(source)}"
             for room in ROOMS for path in (source / room).rglob("*") if path.is_file()}
    (man,) = {name for name in held if name.endswith("/share/man/man1/einhornpy.1")}
    assert held - {man} == files
