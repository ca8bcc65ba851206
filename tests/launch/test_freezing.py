"""What a command means when its generation is made means the same when links have moved."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from einhornpy.supervisor.core.generation import Recipe
from einhornpy.supervisor.launch import freezing
from einhornpy.supervisor.launch.freezing import Frozen
from einhornpy.supervisor.launch.recognition import Gunicorn, Refused

SCRIPT = "#!/bin/sh\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two releases, each with programs and a virtual environment, and `current`."""
    for name in ("1", "2"):
        release = tmp_path / "releases" / name
        make(release / "bin" / "web", SCRIPT)
        make(release / "bin" / "server", "\x7fELF")
        make(release / "venv" / "pyvenv.cfg", "")
        (release / "venv" / "bin").mkdir()
        (release / "venv" / "bin" / "python").symlink_to("python3")
        (release / "venv" / "bin" / "python3").symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "current").symlink_to("releases/1")
    return tmp_path


def make(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def frozen(root: Path, words: str, named: str = "", path: str = "current/bin:/usr/bin:/bin",
           ) -> Frozen:
    """`words`, frozen in a directory and a PATH below `root`, and told by their paths below it."""
    directory = str(root / named)
    environment = {"PATH": path.replace("current", f"{root}/current")}
    command = words.replace("ROOT", str(root)).split()
    links = freezing.links_of(command, directory, os.path.realpath(directory), environment)
    found = freezing.freeze(command, os.path.realpath(directory), environment, links)

    def told(word: str) -> str:
        return word.replace(str(root), "ROOT")

    return Frozen(told(found.program), told(found.interpreter), tuple(map(told, found.words)))


SERVER, WEB = "ROOT/releases/1/bin/server", "ROOT/releases/1/bin/web"
PYTHON = "ROOT/releases/1/venv/bin/python"


@pytest.mark.parametrize(("words", "named", "program", "command"), [
    # By path, absolute or relative, and through PATH.
    ("ROOT/current/bin/server -v", "", SERVER, f"{SERVER} -v"),
    ("current/bin/server", "", SERVER, SERVER),
    ("bin/server", "current", SERVER, SERVER),
    ("server", "", SERVER, "server"),
    # A script is told its own path, however it was found.
    ("web", "", WEB, WEB),
    ("bin/web a b", "current", WEB, f"{WEB} a b"),
    # A Python finds its virtual environment by its link.
    ("current/venv/bin/python -m app", "", PYTHON, f"{PYTHON} -m app"),
    ("venv/bin/python3 -m app", "current", f"{PYTHON}3", f"{PYTHON}3 -m app"),
    # Arguments: the first that is a file shows through which links the release is reached.
    ("true current/bin/web --to=ROOT/current/x", "", None, f"true {WEB} --to=ROOT/releases/1/x"),
    ("true -c ROOT/current/bin/web current/venv/bin/python", "", None,
     f"true -c {WEB} {PYTHON}"),
    ("env A=current/x current/bin/web", "", None, f"env A=ROOT/releases/1/x {WEB}"),
    # These are none of ours: nothing says that the release is reached by them.
    ("true --to ROOT/current http://a/current a/b current", "", None,
     "true --to ROOT/current http://a/current a/b current"),
    ("true ROOT/current/none.py", "", None, "true ROOT/current/none.py"),
])
def test_links_are_followed_once(root: Path, words: str, named: str, program: str | None,
                                 command: str) -> None:
    found = frozen(root, words, named)
    assert " ".join(found.words) == command
    assert program is None or found.program == program
    assert not found.interpreter


def test_the_last_link_of_a_program_is_followed_but_its_name_is_kept(root: Path) -> None:
    make(root / "busybox-1.36", "\x7fELF")
    (root / "busybox").symlink_to("busybox-1.36")
    (root / "sh").symlink_to("busybox")
    assert frozen(root, "ROOT/sh -c x") == Frozen(
        "ROOT/busybox-1.36", "", ("ROOT/sh", "-c", "x"))
    assert frozen(root, "sh", path=str(root)).words == ("sh",)
    # Where the name is the same, so is what it means: a program looks for its files there.
    (root / "server").symlink_to("current/bin/server")
    assert frozen(root, "ROOT/server") == Frozen(SERVER, "", (SERVER,))
    # A script is told only one path.
    (root / "start").symlink_to("current/bin/web")
    assert frozen(root, "./start").words == (WEB,)


def test_a_python_elsewhere_is_followed_while_its_name_stays(root: Path) -> None:
    make(root / "python-3.1" / "python3.1", "\x7fELF")
    (root / "python-3.1" / "python3").symlink_to("python3.1")
    (root / "python3").symlink_to("python-3.1/python3")
    python = "ROOT/python-3.1/python3"
    assert frozen(root, "ROOT/python3 -m app") == Frozen(python, "", (python, "-m", "app"))


@pytest.mark.parametrize(("line", "interpreter", "options"), [
    ("#!ROOT/current/venv/bin/python -s", PYTHON, "-s"),
    ("#!/usr/bin/env -S python -s -O", PYTHON, "-s -O"),
    ("#!/usr/bin/env python", PYTHON, ""),
    ("#!current/venv/bin/python", PYTHON, ""),
    ("#!/bin/sh\n'''exec' \"ROOT/current/venv/bin/python\" \"$0\" \"$@\"\n' '''", PYTHON, ""),
    # The system's own, and what isn't found or understood: the kernel's business.
    ("#!/bin/sh -e", "", ""),
    ("#!/usr/bin/python3 -s", "", ""),
    (f"#!{PYTHON}", "", ""),
    ("#!/usr/bin/env -i python", "", ""),
    ("#!/usr/bin/env A=1 python", "", ""),
    ("#!/usr/bin/env none-such", "", ""),
    ("#!", "", ""),
])
def test_the_interpreter_of_a_script(root: Path, line: str, interpreter: str,
                                     options: str) -> None:
    make(root / "current" / "bin" / "web", line.replace("ROOT", str(root)) + "\n")
    before = (interpreter, *options.split()) if interpreter else ()
    assert frozen(root, "current/bin/web a", path="current/venv/bin:/usr/bin") == Frozen(
        WEB, interpreter, (*before, WEB, "a"))


def test_an_interpreter_that_is_no_python_is_followed(root: Path) -> None:
    make(root / "ruby-3.1", "\x7fELF")
    (root / "ruby").symlink_to("ruby-3.1")
    make(root / "web", f"#!{root}/ruby\n")
    assert frozen(root, "./web") == Frozen(
        "ROOT/web", "ROOT/ruby-3.1", ("ROOT/ruby", "ROOT/web"))


@pytest.mark.parametrize(("named", "command", "resolved"), [
    ("current", "true", True), ("", "current/bin/web", True), ("", "true", False)])
def test_of_an_environment_only_where_code_is_looked_for(root: Path, named: str, command: str,
                                                         resolved: bool) -> None:
    given = {
        "PATH": f"{root}/current/bin::{root}/other:/bin:bin", "VIRTUAL_ENV": f"{root}/current/venv",
        "PYTHONPATH": f"{root}/current/lib", "HOME": f"{root}/current"}
    directory = os.path.realpath(root / named)
    links = freezing.links_of([command], str(root / named), directory, given)
    release = f"{root}/releases/1" if resolved else f"{root}/current"
    assert freezing.environment(given, directory, links) == {
        "PATH": f"{release}/bin::{root}/other:/bin:bin", "VIRTUAL_ENV": f"{release}/venv",
        "PYTHONPATH": f"{release}/lib", "HOME": f"{root}/current"}


@pytest.mark.parametrize("gone", [False, True])
def test_a_hook_finds_its_program_though_the_release_is_gone(root: Path, gone: bool) -> None:
    typed = {"PATH": f"{root}/current/bin:/none", "PYTHONPATH": "lib", "A": "1"}
    release = root / "releases" / ("gone" if gone else "1")
    held = {"PATH": f"{release}/bin:/none", "A": "2"}
    assert freezing.without_gone(held, typed) == {
        "PATH": typed["PATH"] if gone else held["PATH"], "A": "2"}


def test_what_is_gone_is_named(root: Path) -> None:
    command = ["true", f"{root}/current/bin/web", f"--pid={root}/x", f"{root}/current/bin/new"]
    links = freezing.links_of(command, "/", "/", {})
    held = freezing.freeze(command, "/", {}, links)
    freezing.check(held, command)
    (root / "releases" / "1").rename(root / "gone")
    with pytest.raises(Refused, match=re.escape(f"{root}/releases/1/bin/")):
        freezing.check(held, command)
    for lost in (Frozen(f"{root}/x", "", ("x",)), Frozen("/bin/sh", f"{root}/x", ("x",))):
        with pytest.raises(Refused, match=f"cannot run {root}/x: No such file or directory"):
            freezing.check(lost, ["x"])


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a/../a")
    given: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}/a/x"}
    links = freezing.links_of(["true", "a/x"], f"{tmp_path}/a", str(tmp_path), given)
    assert freezing.freeze(["true", "a/x"], str(tmp_path), given, links).words[0] == "true"
    assert freezing.environment(given, str(tmp_path), links)["PATH"] == given["PATH"]


def test_a_frozen_venv_is_the_same_to_python(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "1"], check=True)
    (tmp_path / "current").symlink_to("1")
    command = [f"{tmp_path}/current/bin/python", "-c", "import sys; print(sys.prefix)"]
    links = freezing.links_of(command, "/", "/", {})
    held = freezing.freeze(command, "/", {}, links)
    told = subprocess.run(held.words, executable=held.program, check=True, capture_output=True,
                          text=True)
    assert told.stdout.strip() == f"{tmp_path}/1"


def test_gunicorn_is_frozen_as_its_python_runs_it(root: Path) -> None:
    python = str(root / "current" / "venv" / "bin" / "python")
    config = make(root / "releases" / "1" / "conf.py", "")
    arguments = ("-c", f"{root}/current/conf.py", f"--chdir={root}/current", "app:wsgi")
    links = freezing.links_of(["true", *arguments], "/", "/", {})
    read = Gunicorn(python, arguments, options=("-s",))
    gunicorn, held = freezing.freeze_gunicorn(read, "/", {}, links)
    release = f"{root}/releases/1"
    assert gunicorn == Gunicorn(f"{release}/venv/bin/python", (
        "-c", str(config), f"--chdir={release}", "app:wsgi"), options=("-s",))
    assert held.words == (gunicorn.python, "-s", "-m", "gunicorn", *gunicorn.arguments)
    assert again(held, files={}) == gunicorn


def test_what_starts_gunicorn_in_its_own_way_is_a_command_like_any_other(root: Path) -> None:
    start = str(root / "current" / "bin" / "web")
    links = freezing.links_of([start], "/", "/", {})
    read = Gunicorn(start, (f"{root}/current/x", "gunicorn"), wrapped=True)
    gunicorn, held = freezing.freeze_gunicorn(read, "/", {}, links)
    release = f"{root}/releases/1"
    assert gunicorn == Gunicorn(f"{release}/bin/web", (f"{release}/x", "gunicorn"), wrapped=True)
    assert again(held, files={}) == gunicorn
    # Where no template has read anything, it is something else.
    assert again(held, files=None) is None


def again(held: Frozen, files: Mapping[str, str] | None) -> Gunicorn | None:
    """The gunicorn of a recipe that was made of this."""
    return freezing.gunicorn_of(Recipe(("x",), "/", program=held.program, words=held.words,
                                       interpreter=held.interpreter, files=files))
