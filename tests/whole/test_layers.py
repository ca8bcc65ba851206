"""The arrows between the rooms (docs/architecture.md), over the syntax trees, and what really gets
loaded in each process.

A room is a folder. A room may import itself and those that `ARROWS` names, and nothing else; the
rooms are listed so that each imports only rooms above it, which is why there can be no circle.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..harness import ROOT

STDLIB = set(sys.stdlib_module_names)
ARROWS: dict[str, set[str]] = {
    "shared": set(),
    "worker": set(),
    "supervisor/core": {"shared"},
    "supervisor/programs": set(),
    "supervisor/reporting": {"shared", "supervisor/core"},
    "supervisor/system": {"shared", "supervisor/core", "supervisor/reporting"},
    "supervisor/settings": {"shared", "supervisor/core", "supervisor/reporting"},
    "supervisor/sockets": {
        "shared", "supervisor/core", "supervisor/reporting", "supervisor/system"},
    "supervisor/places": {
        "shared", "supervisor/core", "supervisor/reporting", "supervisor/system",
        "supervisor/sockets"},
    "supervisor/control_socket": {"shared", "supervisor/system"},
    "supervisor/outside": {
        "shared", "supervisor/core", "supervisor/reporting", "supervisor/system",
        "supervisor/settings", "supervisor/sockets", "supervisor/places"},
    "supervisor/logs": {
        "shared", "supervisor/programs", "supervisor/reporting", "supervisor/system",
        "supervisor/settings", "supervisor/outside"},
    "supervisor/launch": {
        "shared", "supervisor/core", "supervisor/reporting", "supervisor/system",
        "supervisor/settings", "supervisor/sockets", "supervisor/places", "supervisor/logs",
        "worker"},  # those of ONE_FILE, and nothing else
    "supervisor/steering": {
        "shared", "supervisor/control_socket", "supervisor/core", "supervisor/reporting",
        "supervisor/system", "supervisor/settings", "supervisor/sockets", "supervisor/places",
        "supervisor/outside", "supervisor/logs", "supervisor/launch"},
    "supervisor": {
        "shared", "supervisor/control_socket", "supervisor/core", "supervisor/reporting",
        "supervisor/system", "supervisor/settings", "supervisor/sockets", "supervisor/places",
        "supervisor/outside", "supervisor/logs", "supervisor/launch", "supervisor/steering"},
    "control": {"shared"},
    "control/web": {"shared", "control"},
    "control/top": {"shared", "control"},
    "control/deploy": {"shared", "control"},
    # The command line is made from the table of settings: the one arrow between those two.
    "control/cli": {
        "shared", "control", "control/top", "control/deploy", "supervisor/settings"},}
# A room that may import one file of another one.
ONE_FILE = {("supervisor/launch", "worker/template_messages.py"),
            ("supervisor/launch", "worker/traffic_slot.py")}
# What a room may import that is neither ours nor the standard library's; a file, where it is that
# one alone.
THIRD_PARTY: dict[str, set[str]] = {
    "shared/einhorn.py": {"yaml"},
    "supervisor": {"setproctitle"},
    "supervisor/programs": {"setproctitle"},
    "supervisor/sockets/listeners.py": {"psutil"},
    "supervisor/sockets/leftovers.py": {"psutil"},
    "control/progress.py": {"rich"},
    "control/cli": {"click"},
    "control/top": {"rich", "textual"},
    "control/web": {"prometheus_client"},
    "control/web/__main__.py": {"setproctitle"},
    "worker/gunicorn_classes.py": {"gunicorn"},
    "worker/gunicorn_settings.py": {"gunicorn"},
    "worker/gunicorn_template.py": {"gunicorn"},
    "worker/gunicorn_worker.py": {"gunicorn"},
    "worker/gunicorn_draining.py": {"uvicorn"},
    "worker/gunicorn_http2.py": {"gunicorn"},
}
# What pure modules may use of the standard library (math: the statistics of a verdict).
PURE = {"__future__", "bisect", "collections", "dataclasses", "enum", "functools", "itertools",
        "json", "math", "operator", "re", "typing", "urllib"}
# A date is a sum: of the time it is given, not of the clock.
CALENDAR = {"supervisor/reporting/report.py", "supervisor/logs/formats.py"}
PURE_ROOMS = {"supervisor/core", "supervisor/reporting"}
PURE_FILES = {"supervisor/logs/formats.py", "supervisor/sockets/addresses.py",
              "shared/backoff.py", "shared/commands.py", "shared/protocol.py",
              "shared/einhorn.py", "shared/frozen.py", "shared/printable.py", "control/gate.py",
              "worker/template_messages.py"}
FILES = sorted(path for room in ARROWS for path in (ROOT / room).glob("*.py"))


def room_of(path: Path) -> str:
    return str(path.parent.relative_to(ROOT))


def imports(path: Path) -> tuple[set[str], set[str]]:
    """The rooms of ours that a file imports from, and the first parts of other names."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for alias in node.names:
                named = base / alias.name
                file = next((each for each in (named.with_suffix(".py"), base.with_suffix(".py"))
                             if each.exists()), base / "__init__.py")
                assert file.exists(), f"{path}: {alias.name}"
                if (room_of(path), str(file.relative_to(ROOT))) not in ONE_FILE:
                    ours.add(room_of(file))
    return ours, others


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    room, file = room_of(path), str(path.relative_to(ROOT))
    ours, others = imports(path)
    assert ours - {room} <= ARROWS[room]
    assert others <= STDLIB | THIRD_PARTY.get(room, set()) | THIRD_PARTY.get(file, set())
    if room in PURE_ROOMS or file in PURE_FILES:
        assert others - THIRD_PARTY.get(file,
                                        set()) <= PURE | ({"time"} if file in CALENDAR else set())


def test_no_arrow_goes_back() -> None:
    rooms = list(ARROWS)
    for number, room in enumerate(rooms):
        assert ARROWS[room] <= {*rooms[:number]}, room


def test_every_folder_is_a_room() -> None:
    folders = {room_of(path) for top in ("shared", "supervisor", "control", "worker")
               for path in (ROOT / top).rglob("*.py")}
    assert folders == ARROWS.keys()


def test_the_core() -> None:
    for path in (ROOT / "supervisor" / "core").glob("*.py"):
        # Of what is shared only these, which are as pure as the core.
        shared = [line for line in path.read_text().splitlines() if "...shared" in line]
        assert set(shared) <= {"from ...shared import backoff",
                               "from ...shared.frozen import dataclass"}
        assert imports(path)[0] <= {"supervisor/core"} | ({"shared"} if shared else set())


@pytest.mark.parametrize("path", sorted((ROOT / "worker").glob("*.py")),
                         ids=lambda path: path.stem)
def test_worker(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))
    # A file beside the adapter is found before others while Python starts it: what the adapter
    # imports must not be called so.
    assert path.stem in (
        "__init__", "accepting", "busy_slot", "describing", "fork_safety", "master_socket",
        "own_page", "traffic_slot") or path.stem.startswith(("asgi", "gunicorn_", "template_"))
    assert imports(path)[0] <= {"worker"}


def test_the_master_knows_of_workers_only_what_templates_say() -> None:
    for path in (ROOT / "supervisor").rglob("*.py"):
        named = re.findall(r"^from \.+worker(?:\.\w+)? import (\w+)$", path.read_text(), re.MULTILINE)
        assert set(named) <= {"template_messages"}, path


def loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True,
                         check=True).stdout
    return set(out.split())


def test_what_the_master_loads() -> None:
    heavy = {
        "click", "rich", "yaml", "asyncio", "gunicorn", "psutil", "prometheus_client", "subprocess",
        "threading", "ctypes", "tomllib", "logging"}
    assert not loaded("import einhornpy.supervisor.__main__") & heavy


def test_what_status_loads() -> None:
    modules = loaded(
        "import einhornpy.control.cli.main, einhornpy.control.cli.status, einhornpy.control.show")
    assert not modules & {
        "asyncio", "psutil", "rich", "prometheus_client", "gunicorn", "einhornpy.supervisor",
        "yaml", "textual", "einhornpy.control.top.app", "einhornpy.control.cli.completion"}


def test_the_package_is_a_namespace_without_code() -> None:
    import importlib.metadata
    import importlib.util

    spec = importlib.util.find_spec("einhornpy")
    assert spec is not None
    assert spec.origin is None
    from einhornpy.supervisor.master import VERSION

    assert importlib.metadata.version("einhornpy") == VERSION
    for room in ("shared", "supervisor", "control", "worker"):
        found = importlib.util.find_spec(f"einhornpy.{room}")
        assert found is not None
        assert found.origin is not None
        assert (Path(found.origin).parent / "py.typed").exists()
