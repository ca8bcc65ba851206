"""What a process finds of itself before it is forked, by real threads, sockets, files and children
in a fresh Python; and imports are as ever while it watches them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from einhornpy.worker import fork_safety

from ..harness import DEADLINE

DRIVER = """
import json, sys
from einhornpy.worker import fork_safety
sys.path.insert(0, sys.argv[1])
import before
watch = fork_safety.Watch()
watch.begin()
try:
    import app
finally:
    watch.end()
before.now()
print(json.dumps([each.told() for each in watch.findings()]))
"""
BEFORE = "def now(): pass"
THREAD = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
THREAD_OF_ITS_OWN = """
import threading
def wait():
    threading.Event().wait()
def start():
    threading.Thread(target=wait, daemon=True).start()
"""
# pthread_create(3) of pause(2): Python's threading doesn't know it.
NATIVE = """
import ctypes
libc = ctypes.CDLL(None)
tid = ctypes.c_ulong()
assert libc.pthread_create(ctypes.byref(tid), None, libc.pause, None) == 0
"""
# It ends with us, since its standard input does.
CHILD = """
import subprocess, sys
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
"""


def write(directory: Path, modules: dict[str, str]) -> None:
    for name, text in modules.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run(directory: Path, app: str, before: str = BEFORE, **modules: str) -> list[dict[str, Any]]:
    """What is found once `app` is imported. `modules`: others beside it, by name."""
    write(directory, {"app.py": app, "before.py": before}
          | {f"{name}.py": text for name, text in modules.items()})
    done = subprocess.run([sys.executable, "-c", DRIVER, str(directory)], cwd=directory, text=True,
                          capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def seen(directory: Path, app: str, before: str = BEFORE, **modules: str,
         ) -> list[tuple[str, str | None]]:
    """Kind and module of each finding."""
    return [(each["kind"], each["module"]) for each in run(directory, app, before, **modules)]


@pytest.mark.parametrize(("kind", "code"), [
    ("thread", THREAD),
    ("native thread", NATIVE),
    ("listening socket", "import socket; held = socket.create_server(('127.0.0.1', 0))"),
    ("file", "held = open('written', 'w')"),
    ("event loop", "import select; held = select.epoll()"),
    ("event loop", "import asyncio; held = asyncio.new_event_loop()"),
    ("child process", CHILD),
])
def test_each_kind_is_found_with_the_module_that_has_made_it(tmp_path: Path, kind: str, code: str,
                                                             ) -> None:
    assert seen(tmp_path, "import shop.pool", **{"shop/pool": code}) == [(kind, "shop.pool")]


@pytest.mark.parametrize("family", ["inet", "unix"])
def test_a_connection_is_found_with_whom_it_is_to(tmp_path: Path, family: str) -> None:
    address: Any = ("127.0.0.1", 0) if family == "inet" else str(tmp_path / "socket")
    with socket.socket(socket.AF_INET if family == "inet" else socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        there = listener.getsockname()
        (found,) = run(tmp_path, f"import socket; held = socket.socket(socket.AF_{family.upper()})"
                                 f"; held.connect({there!r})")
    assert (found["kind"], found["module"]) == ("connection", "app")
    assert found["what"] == f"to {there[0]}:{there[1]}" if family == "inet" else "to " + there


def test_a_thread_is_told_by_its_name_and_by_what_it_runs(tmp_path: Path) -> None:
    (found,) = run(tmp_path, """
import threading
class Flusher:
    def flush(self):
        threading.Event().wait()
threading.Thread(target=Flusher().flush, name="flush", daemon=True).start()
""")
    assert found["what"] == "'flush' (app.Flusher.flush)"
    assert "post_fork" in found["advice"]


def test_what_appears_after_an_import_of_its_own_is_the_importers(tmp_path: Path) -> None:
    assert seen(tmp_path, f"import other\n{THREAD}\nfile = open('written', 'w')\nimport third",
                other="held = open('first', 'w')", third="") == [
        ("thread", "app"), ("file", "other"), ("file", "app")]


def test_what_was_there_before_is_nobodys(tmp_path: Path) -> None:
    before = "\n".join([BEFORE, THREAD, NATIVE, CHILD, "import socket, asyncio",
                        "held = [open('written', 'w'), socket.create_server(('127.0.0.1', 0)),"
                        " asyncio.new_event_loop()]"])
    assert seen(tmp_path, "", before) == []


def test_what_has_gone_by_the_end_is_not_found(tmp_path: Path) -> None:
    assert seen(tmp_path, """
import asyncio, socket, subprocess, threading
thread = threading.Thread(target=int)
thread.start()
thread.join()
subprocess.run(["true"], check=True)
asyncio.run(asyncio.sleep(0))
with open("written", "w"), socket.create_server(("127.0.0.1", 0)) as listener:
    socket.create_connection(listener.getsockname()).close()
""") == []


def test_a_thread_that_is_about_to_end_is_not_found(tmp_path: Path) -> None:
    """It ends while we look."""
    assert seen(tmp_path, """
import before, os, threading
threading.Thread(target=os.read, args=(before.pipe[0], 1)).start()
""", "import os\npipe = os.pipe()\ndef now(): os.write(pipe[1], b'.')") == []


@pytest.mark.parametrize("code", [
    "held = open('log', 'a')",
    "import logging; logging.basicConfig(filename='log', filemode='w')",
    "held = open(__file__)",
    "import os; held = os.pipe()",
    "held = open('/dev/null', 'w')",
    "import socket; held = socket.socket(type=socket.SOCK_DGRAM); held.connect(('127.0.0.1', 9))",
    "import socket; held = socket.socket()",
    "import socket; held = socket.socketpair()",
    "from multiprocessing import heap; held = heap.Arena(4096)",
    "import mmap; held = mmap.mmap(-1, 4096)",
])
def test_what_is_safe_is_not_found(tmp_path: Path, code: str) -> None:
    assert seen(tmp_path, code) == []


def test_connections_that_are_made_later_are_told_once(tmp_path: Path) -> None:
    """As the template looks again before it forks; what came with the order to fork is passed by.
    """
    write(tmp_path, {"app.py": "import socket; listener = socket.create_server(('127.0.0.1', 0))\n"
                               "first = socket.create_connection(listener.getsockname())"})
    done = subprocess.run([sys.executable, "-c", """
import socket, sys
from einhornpy.worker import fork_safety
sys.path.insert(0, "")
watch = fork_safety.Watch()
watch.begin()
import app
watch.end()
assert [each.kind for each in watch.findings()] == ["connection", "listening socket"]
assert watch.connections_since([]) == []
second, given = (socket.create_connection(app.listener.getsockname()) for _ in range(2))
assert [each.kind for each in watch.connections_since([given.fileno()])] == ["connection"]
assert watch.connections_since([given.fileno()]) == []
"""], cwd=tmp_path, text=True, capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", fork_safety.SAFE_THREADS)
def test_threads_that_begin_again_in_a_fork_are_not_found(tmp_path: Path, package: str) -> None:
    """By what they run, wherever they are started; nothing is taken for safe by half its name."""
    parts = package.split(".")
    for last in (parts[-1], parts[-1] + "_not"):
        directory = "/".join([*parts[:-1], last])
        write(tmp_path, {f"{directory}/__init__.py": "",  # before what is installed
                         f"{directory}/inner.py": THREAD_OF_ITS_OWN})
    assert seen(tmp_path, f"import {package}.inner as it; it.start()") == []
    assert seen(tmp_path, f"import {package}_not.inner as it; it.start()") == [("thread", "app")]


def test_looking_changes_nothing(tmp_path: Path) -> None:
    """Neither descriptors nor modules; and asyncio and multiprocessing stay out."""
    (tmp_path / "app.py").write_text("held = open('written', 'w')")
    done = subprocess.run([sys.executable, "-c", """
import os, sys
from einhornpy.worker import fork_safety
sys.path.insert(0, "")
watch = fork_safety.Watch()
finders = list(sys.meta_path)
watch.begin()
import app
watch.end()
modules, descriptors = set(sys.modules), os.listdir("/proc/self/fd")
assert [each.kind for each in watch.findings()] == ["file"]
assert (set(sys.modules), os.listdir("/proc/self/fd")) == (modules, descriptors)
assert sys.meta_path == finders
assert not {"asyncio", "multiprocessing", "gevent"} & modules
assert "exec_module" not in vars(app.__spec__.loader)
"""], cwd=tmp_path, text=True, capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")


# Each is run as the import of an app while it is watched.
WAYS_TO_IMPORT = {
    "a namespace package": """
import namespace.part
assert namespace.part.HERE and list(namespace.__path__) and namespace.__file__ is None
""",
    "a zip file": """
import sys, zipped.one
assert zipped.one.two.NAME == "zipped.two"
assert type(zipped.one.__loader__).__name__ == "zipimporter"
import zipped.three
""",
    "a lazy loader": """
import importlib.util, sys
spec = importlib.util.find_spec("plain")
spec.loader = importlib.util.LazyLoader(spec.loader)
lazy = importlib.util.module_from_spec(spec)
sys.modules["plain"] = lazy
spec.loader.exec_module(lazy)
assert "RUNS" not in object.__getattribute__(lazy, "__dict__")
assert lazy.RUNS == 1
""",
    "a reload": """
import importlib, plain
assert importlib.reload(plain) is plain
assert plain.RUNS == 2
assert importlib.reload(plain).RUNS == 3
""",
    "a spec that is asked for, and not used": """
import importlib.util
assert importlib.util.find_spec("plain").origin.endswith("plain.py")
assert importlib.util.find_spec("no_such_module") is None
import plain
assert plain.RUNS == 1
""",
    "what is built in, frozen, or an extension": """
import sys
for name in ("_sre", "marshal", "zipimport", "_ctypes", "_json", "__hello__"):
    sys.modules.pop(name, None)
import _sre, marshal, zipimport, _ctypes, _json, __hello__
""",
    "a circle": """
import circle
assert circle.other.circle is circle
""",
    "an import that fails, and is tried again": """
import os
for _ in range(2):
    try:
        import failing
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError
os.environ["FAILING"] = "no"
import failing
try:
    import no_such_module
except ModuleNotFoundError as error:
    assert error.name == "no_such_module"
""",
    "a module that runs as a program": """
import runpy
assert runpy.run_module("plain", run_name="__main__")["RUNS"] == 1
""",
    "sources, resources and copies": """
import copy, importlib.resources, inspect, pickle, plain
assert "RUNS" in inspect.getsource(plain)
assert importlib.resources.files("namespace").joinpath("part.py").is_file()
assert copy.copy(plain.__spec__) == plain.__spec__
pickle.dumps(plain.__spec__.loader)
""",
    "imports in several threads": """
import threading
modules = ["plain", "circle", "namespace.part", "zipped.one", "zipped.three"]
threads = [threading.Thread(target=__import__, args=(name,)) for name in modules * 4]
for each in threads:
    each.start()
for each in threads:
    each.join()
import plain
assert plain.RUNS == 1
""",
    "a finder that asks all others": """
import importlib.util, sys
class Delegating:
    def __init__(self):
        self.asked = []
        self.within = set()
    def find_spec(self, name, path=None, target=None):
        if name in self.within:
            return None
        self.within.add(name)
        self.asked.append(name)
        try:
            return importlib.util.find_spec(name)
        finally:
            self.within.discard(name)
first, last = Delegating(), Delegating()
sys.meta_path.insert(0, first)
sys.meta_path.insert(2, last)
import plain
assert plain.RUNS == 1
assert first.asked.count("plain") == 1
sys.meta_path.remove(first)
import namespace.part
assert last.asked.count("namespace.part") == 1
sys.meta_path.remove(last)
""",
    "a finder that loads, too": """
import importlib.util, sys
class Generating:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("made"):
            return importlib.util.spec_from_loader(name, self)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        if module.__name__ == "made":
            import made_too
        module.NAME = module.__name__
finder = Generating()
sys.meta_path.append(finder)
import made, made_too
assert (made.NAME, made_too.NAME) == ("made", "made_too")
assert not vars(finder)
""",
    "a finder of the old kind": """
import sys
class Old:
    def find_module(self, name, path=None):
        return None
sys.meta_path.insert(1, Old())
import plain
del sys.meta_path[1]
""",
}


@pytest.mark.parametrize("way", WAYS_TO_IMPORT)
def test_imports_are_as_ever_while_they_are_watched(tmp_path: Path, way: str) -> None:
    """It does what it does when nobody watches."""
    write(tmp_path, {
        "namespace/part.py": "HERE = True", "circle.py": "import other",
        "other.py": "import circle", "failing.py": "import os\n1 / (os.environ.get('FAILING') == 'no')",
        "plain.py": "RUNS = globals().get('RUNS', 0) + 1"})
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "")
        archive.writestr("zipped/one.py", "import zipped.two as two")
        archive.writestr("zipped/two.py", "NAME = __name__")
        archive.writestr("zipped/three.py", "")
    code = f"import sys; sys.path.append({str(tmp_path / 'archive.zip')!r})\n" + WAYS_TO_IMPORT[way]
    (tmp_path / "app.py").write_text(code)
    plain = subprocess.run([sys.executable, "-B", "app.py"], cwd=tmp_path, text=True,
                           capture_output=True, timeout=DEADLINE)
    assert (plain.returncode, plain.stderr) == (0, "")
    assert seen(tmp_path, code) == []


def test_an_import_that_fails_fails_as_ever(tmp_path: Path) -> None:
    write(tmp_path, {"before.py": BEFORE, "app.py": "import failing", "failing.py": "1 / 0"})
    done = subprocess.run([sys.executable, "-c", DRIVER, str(tmp_path)], text=True,
                          capture_output=True, timeout=DEADLINE, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
    assert f'File "{tmp_path / "failing.py"}", line 1, in <module>' in done.stderr
    assert os.listdir(tmp_path)
