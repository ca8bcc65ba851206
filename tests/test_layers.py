"""The import arrows of docs/architecture.md, over the syntax trees, and what really gets loaded in each process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from .harness import ROOT

STDLIB = set(sys.stdlib_module_names)
# What a pure module may use of the standard library.
PURE = {
    "pool": {"__future__", "collections", "dataclasses", "enum"},
    "observe": {"__future__", "collections", "dataclasses"},
    "lineage": {"__future__", "collections", "typing"},
    "redaction": {"__future__", "collections", "dataclasses", "functools", "itertools", "json", "re", "typing",
                  "urllib"},
    "planner": {"__future__", "collections", "dataclasses"},
    "report": {"__future__", "collections", "time", "typing"},
    "formats": {"__future__", "collections", "json", "re", "time", "typing"},
    "hints": {"__future__"},
    "journal": {"__future__", "collections", "dataclasses", "typing"},
    "tally": {"__future__", "bisect", "collections", "dataclasses", "typing"},
    "contract": {"__future__", "collections"},
    "complaints": {"__future__", "collections", "re"},
}


def imports(path: Path) -> dict[str, set[str]]:
    """Module → names of every import: relative ones with their dots, absolute ones by their first part."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name.split(".")[0], set())
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if node.level == 0:
                module = module.split(".")[0]
            found.setdefault(module, set()).update(alias.name for alias in node.names)
    return found


def absolute(path: Path) -> set[str]:
    return {module for module in imports(path) if not module.startswith(".")}


@pytest.mark.parametrize("path", sorted((ROOT / "supervisor").glob("*.py")), ids=lambda path: path.stem)
def test_supervisor(path: Path) -> None:
    assert absolute(path) <= STDLIB | {"psutil", "setproctitle"}
    beyond = {module for module in imports(path) if module.startswith("..")}
    assert beyond <= {"..control", "..control.protocol", "..control.server"}
    assert imports(path).get("..control", set()) <= {"einhorn", "peer", "printable", "protocol", "server"}
    if path.stem in PURE:
        assert absolute(path) <= PURE[path.stem]
    if path.stem == "planner":
        assert {module for module in imports(path) if module.startswith(".")} == {".pool"}
    if path.stem == "pool":
        assert not any(module.startswith(".") for module in imports(path))


@pytest.mark.parametrize("path", sorted((ROOT / "control").glob("*.py")), ids=lambda path: path.stem)
def test_control(path: Path) -> None:
    allowed = {"cli": {"click"}, "completion": {"click"}, "show": {"rich"}, "top": {"rich", "textual"},
               "einhorn": {"yaml"}}.get(path.stem, set())
    assert absolute(path) <= STDLIB | allowed
    beyond = {module for module in imports(path) if module.startswith("..")}
    assert beyond <= ({"..supervisor", "..supervisor.settings"} if path.stem == "cli" else set())
    assert imports(path).get("..supervisor", set()) <= {"settings"}
    if path.stem in ("protocol", "gate", "einhorn", "printable"):
        assert not absolute(path) & {"os", "socket", "time", "select", "signal"}


@pytest.mark.parametrize("path", sorted((ROOT / "control" / "web").glob("*.py")), ids=lambda path: path.stem)
def test_web(path: Path) -> None:
    assert absolute(path) <= STDLIB | {"prometheus_client"} | ({"setproctitle"} if path.stem == "__main__" else set())
    beyond = {module for module in imports(path) if module.startswith("..")}
    assert beyond <= {"..", "..client", "..protocol", "..privileges"}
    assert imports(path).get("..", set()) <= {"gate", "printable", "protocol"}


@pytest.mark.parametrize("path", sorted((ROOT / "worker").glob("*.py")), ids=lambda path: path.stem)
def test_worker(path: Path) -> None:
    assert absolute(path) <= STDLIB | {"gunicorn_adapter": {"gunicorn"}, "gunicorn_draining": {"uvicorn"}}.get(path.stem, set())
    ast.parse(path.read_text(), feature_version=(3, 9))
    # A file beside the adapter is found before others while Python starts it: what the adapter imports must not be called so.
    assert path.stem in ("__init__", "accepting", "asgi") or path.stem.startswith("gunicorn_")
    beyond = {module for module in imports(path) if module.startswith(".")}
    assert beyond <= ({".", ".accepting"} if path.stem == "asgi" else set())


def loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    return set(out.split())


def test_what_the_master_loads() -> None:
    heavy = {"click", "rich", "yaml", "asyncio", "gunicorn", "psutil", "prometheus_client", "subprocess", "threading", "ctypes",
             "tomllib", "logging"}
    assert not loaded("import einhornpy.supervisor.__main__") & heavy


def test_what_status_loads() -> None:
    modules = loaded("import einhornpy.control.cli, einhornpy.control.show")
    assert not modules & {"asyncio", "psutil", "rich", "prometheus_client", "gunicorn", "einhornpy.supervisor", "yaml",
                          "textual", "einhornpy.control.top", "einhornpy.control.completion"}


def test_the_package_is_a_namespace_without_code() -> None:
    import importlib.metadata
    import importlib.util

    spec = importlib.util.find_spec("einhornpy")
    assert spec is not None
    assert spec.origin is None
    from einhornpy.supervisor.master import VERSION

    assert importlib.metadata.version("einhornpy") == VERSION
    for room in ("supervisor", "control", "worker"):
        found = importlib.util.find_spec(f"einhornpy.{room}")
        assert found is not None
        assert found.origin is not None
        assert (Path(found.origin).parent / "py.typed").exists()
