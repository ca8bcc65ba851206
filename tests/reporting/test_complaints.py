"""A start that fails outside gunicorn names its reason: picked out of what the program wrote to its
standard error."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from einhornpy.supervisor.reporting.complaints import complaint

from ..harness import BREAKABLE, Master

Start = Callable[..., Master]
DEEP = """\
  File "/srv/shop.py", line 5, in life
    raise NoDatabase("gone")
    ^^^^^^^^^^^^^^^^^^^^^^^^
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"Traceback (most recent call last):\n{DEEP}shop.NoDatabase: gone\n",
         "shop.NoDatabase: gone"),
        # Its beginning is cut off, its message has more lines, and the server has another word to
        # say.
        (f"{DEEP}shop.NoDatabase: gone\nfor good\n\nERROR:    Application startup failed. Exiting.",
         "shop.NoDatabase: gone"),
        ('  File "/srv/shop.py", line 1\n    def f(:\n          ^\nSyntaxError: invalid syntax',
         "SyntaxError: invalid syntax"),
        (f"Traceback:\n{DEEP}KeyError: 1\n\nDuring handling of the above exception, another "
         f"exception occurred:\n\n{DEEP}Gone",
         "Gone"),
        ('    | Traceback (most recent call last):\n    |   File "x.py", line 1, in f\n    |     '
         'g()\n    | shop.Gone: no database\n'
         "    +------------------------------------", "shop.Gone: no database"),
        ("x.LifespanFailureError: Lifespan failure in startup. 'Traceback (most recent call "
         f"last):\n{DEEP}Gone: all\n'",
         "Gone: all"),
        ("INFO:     Waiting for application startup.\nERROR:    no database\nERROR:    Application "
         "startup failed. Exiting.",
         "ERROR: no database"),
        ("ERROR:    [Errno 98] address already in use\nINFO:     Waiting for application shutdown.",
         "ERROR: [Errno 98] address already in use"),
        ("Usage: uvicorn [OPTIONS] APP\n\nError: No such option '--x'.",
         "Error: No such option '--x'."),
        ("/srv/a.js:1\nthrow new Error('x')\n^\n\nError: no database\n    at f (/srv/a.js:1:32)\n  "
         "  at node:internal/main:28:49 {\n"
         "  code: 'EDB'\n}\n\nNode.js v20.20.2", "Error: no database"),
        ("Error: Cannot find module './x'\nRequire stack:\n- /srv/b.js\n    at f "
         "(node:internal:1207:15) {\n  code: 'X'\n}\n\nNode.js v2",
         "Error: Cannot find module './x'"),
        ("Error: listen EADDRINUSE\n    at f (node:net:1:1)\nEmitted 'error' event on Server "
         "instance at:\n    at f (node:net:2:2)",
         "Error: listen EADDRINUSE"),
        ("Error: outer\n    at f (a.js:1:1) {\n  [cause]: TypeError: inner\n      at f "
         "(a.js:1:2)\n}",
         "Error: outer"),
        ("a.rb:1:in `<main>': no database (RuntimeError)\n\tfrom a.rb:3:in `x'",
         "a.rb:1:in `<main>': no database (RuntimeError)"),
        ("panic: no database\n\ngoroutine 1 [running]:\nmain.main()\n\t/srv/main.go:4 +0x2c\nexit "
         "status 2",
         "panic: no database"),
        ("Exception in thread \"main\" java.lang.RuntimeException: gone\n\tat "
         "Shop.main(Shop.java:3)",
         "Exception in thread \"main\" java.lang.RuntimeException: gone"),
        ("no errors so far\nall is well", None),
        ("", None),])
def test_the_telling_line_is_picked(text: str, found: str | None) -> None:
    assert complaint(text.splitlines()) == found


def test_the_last_line_is_taken_for_want_of_a_better_one() -> None:
    node = [
        "/srv/c.js:1", "throw 'gone'", "^", "gone", "(Use `node --trace-uncaught ...` to see more)",
        "", "Node.js v20.20.2"]
    assert complaint(node, or_last=True) == "gone"
    assert complaint(node) is None
    assert complaint(["", "^^"], or_last=True) is None


FASTAPI = """
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def life(app):
    raise RuntimeError("no database")
    yield

app = FastAPI(lifespan=life)
"""
LISTENING = "require('net').createServer().listen({ fd: 77 })\n"


@pytest.mark.parametrize(("command", "code", "error"), [
    (["uvicorn", "--fd", "3", "shop:app"], 3, "RuntimeError: no database"),
    (["uvicorn", "--fd", "3", "shop:nothing"], 3, "Error loading ASGI app. Attribute"),
    (["hypercorn", "-w", "0", "--bind", "fd://3", "shop:app"], 1, "RuntimeError: no database"),
    (["hypercorn", "-w", "0", "--bind", "fd://3", "gone:app"
      ], 1, "NoAppError: Cannot load application from 'gone:app'"),
    (["node", "listening.js"], 1, "Error: listen EINVAL: invalid argument"),
    (["sh", "-c", "echo it is too late >&2; exit 4"], 4, "it is too late"),],
                         ids=lambda value: "-".join(value)[:30]
                         if isinstance(value, list) else None)
def test_a_first_start_that_fails_says_why(start: Start, place: Path, command: list[str], code: int,
                                           error: str) -> None:
    if shutil.which(command[0]) is None and command[0] == "node":
        pytest.skip("node is not installed on this machine")
    (place / "shop.py").write_text(FASTAPI)
    (place / "listening.js").write_text(LISTENING)
    master = start("-n", "1", "-b", "127.0.0.1:0", "-m", "notify", "--max-failures", "1", "--",
                   *command)
    assert master.wait_exit() == 3
    (line,) = [each for each in master.log().splitlines() if "giving up" in each]
    assert error in line
    assert f"status={code}" in master.wait_log("worker died")


def test_an_upgrade_that_fails_says_why_and_how(start: Start, place: Path) -> None:
    (place / "worker.py").write_text(BREAKABLE[2])
    master = start("-n", "1", "-m", "notify", "--max-failures", "1", "--", sys.executable,
                   "worker.py")
    master.wait_ready()
    (place / "worker.py").write_text("raise LookupError('no such shop')\n")
    result = master.cli("upgrade")
    assert result.returncode == 5
    upgrade = master.status()["upgrade"]
    assert upgrade["reason"] == "a worker exited with code 1 before it was ready"
    assert upgrade["error"] == "LookupError: no such shop"
    assert "LookupError: no such shop" in result.stderr
    assert upgrade["last_lines"][-1] == "LookupError: no such shop"
