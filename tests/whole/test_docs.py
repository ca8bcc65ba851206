"""The docs are true where a program can tell: the reference is new, links lead somewhere, commands
and flags exist, JSON parses, what must be documented is, and the snippets for workers work."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from einhornpy.control import gate
from einhornpy.control.cli.main import cli
from einhornpy.supervisor.core import worker_environment
from einhornpy.supervisor.core.generation import Generation, Recipe
from einhornpy.supervisor.settings import table
from einhornpy.supervisor.settings.sources import TABLES
from einhornpy.worker.gunicorn_settings import ARBITER_HOOKS

from ..harness import BIN, DEADLINE, ROOT, Master

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md",
         *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def generator(name: str) -> ModuleType:
    """A script of docs/ that writes a page."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" /
            "reference.md").read_text() == generator("generate_reference").reference()


def test_the_man_page_is_up_to_date_well_formed_and_installed() -> None:
    page = ROOT / "docs" / "man" / "einhornpy.1"
    module = generator("generate_man")
    assert page.read_text() == module.page()
    assert {*gate.CODES.values(), *gate.OUTCOMES.values()} <= {*module.EXIT_CODES}
    lint = subprocess.run(["mandoc", "-Tlint", "-Werror", str(page)], capture_output=True,
                          text=True, timeout=DEADLINE)
    assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")
    shown = subprocess.run(["mandoc", "-Tutf8", "-Owidth=78",
                            str(page)], capture_output=True, text=True, timeout=DEADLINE).stdout
    shown = re.sub(".\b", "", shown)
    for name in cli.list_commands(click.Context(cli)):
        assert f"       einhornpy {name}" in shown, name
    for setting in table.SETTINGS.values():
        assert setting.flags[-1] in shown
    installed = Path(sys.prefix) / "share" / "man" / "man1" / "einhornpy.1"
    assert installed.read_text() == page.read_text()
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    found = subprocess.run(["man", "-w", "einhornpy"], env=environment, capture_output=True,
                           text=True, timeout=DEADLINE)
    assert found.stdout.strip() == str(installed), found.stderr


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" in target:
            continue
        found = page.parent / target if target else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), f"{target}#{anchor}"


@each_page
def test_paths_of_ours_exist(page: Path) -> None:
    ours = r"(?:shared|supervisor|control|worker|tests|bench|docs|examples)/[\w./*-]*"
    for named in re.findall(rf"`({ours})`", page.read_text()):
        assert any(ROOT.glob(named)), named


def test_the_map_has_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for top in ("shared", "supervisor", "control", "worker"):
        for room in {file.parent.relative_to(ROOT) for file in (ROOT / top).rglob("*.py")}:
            assert f"| `{room}/` |" in page, room


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words after each `einhornpy` that somebody is told to type: in shell blocks, indented
    lines and backticks."""
    text = page.read_text()
    typed = [
        line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()]
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        typed += [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    unfenced = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    typed += re.findall(r"^ {4}(.*)$", unfenced, re.MULTILINE) + re.findall(r"`([^`]+)`", unfenced)
    for line in typed:
        for words in re.findall(r"(?:^|[\s(])einhornpy (.+?)(?= [|>&]|[;)]|$)", line):
            yield words.split()


@each_page
def test_commands_and_flags_exist(page: Path) -> None:
    context = click.Context(cli)
    for words in command_lines(page):
        name = "run" if words[0] in ("--", "[OPTIONS]") or words[0].startswith("-") else words[0]
        command = cli.get_command(context, name)
        assert command is not None, words
        if name == "unit":  # it takes a command line of run
            command = cli.get_command(context, "run")
            assert command is not None
        known = {
            flag for parameter in command.params
            for flag in (*parameter.opts, *parameter.secondary_opts)}
        for word in words[: words.index("--") if "--" in words else None]:
            assert not re.fullmatch(r"--?[a-z][a-z-]*", word) or word in {*known, "-h", "--help"
                                                                          }, words


def test_fenced_blocks_parse() -> None:
    blocks = [
        found for page in PAGES
        for found in re.findall(r"```(json|toml|python)\n(.*?)```", page.read_text(), re.DOTALL)]
    assert {kind for kind, _ in blocks} == {"json", "toml", "python"}
    for kind, block in blocks:
        match kind:
            case "json":
                json.loads(block)
            case "toml":
                given = tomllib.loads(block)
                for name in TABLES:
                    inner = given.pop(name, {})
                    given |= {f"{name}_{key}": value for key, value in inner.items()}
                assert {key.replace("-", "_") for key in given} <= {*table.SETTINGS, "command"}
            case _:
                compile(block, "docs", "exec")


def test_what_must_be_documented_is() -> None:
    pages = {page.stem: page.read_text() for page in PAGES}
    status = pages["status"]
    for word, code in gate.CODES.items():
        assert f"| `{word}` | {code} |" in status
    for code in (*gate.CODES.values(), *gate.OUTCOMES.values(), gate.USAGE, gate.NO_MASTER,
                 gate.TIMED_OUT, gate.INTERRUPTED):
        assert re.search(rf"^\| {code} \|", status, re.MULTILINE), code
    recipe = Recipe(("true",), "/", release="r", timeout=1.0)
    given = worker_environment.environment(Generation(1, recipe), worker=1, index=0, master=1,
                                           control_socket="", notify_socket="",
                                           families=["AF_INET"], names=[""], stop_signal="SIGTERM",
                                           control_fd=4)
    for variable in (*given, "LISTEN_PID", "WATCHDOG_PID"):
        assert f"`{variable}`" in pages["running"], variable
    for hook in ARBITER_HOOKS:
        assert f"| `{hook}` |" in pages["gunicorn"], hook


@pytest.mark.parametrize(("mode", "sign"), [("notify", "READY=1"), ("manual", "worker:ack")])
def test_the_snippets_for_workers_work(start: Callable[..., Master], mode: str, sign: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "readiness.md").read_text(),
                        re.DOTALL)
    (snippet,) = [block for block in blocks if sign in block]
    master = start("-n", "1", "-m", mode, "--stop-signal", "TERM", "--", sys.executable, "-c",
                   f"{snippet}\nimport signal\nsignal.pause()")
    assert master.wait_ready()["ready"] == 1
