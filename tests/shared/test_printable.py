"""Whatever apps, releases and file names hold, no terminal is steered by it, and no line broken."""

from __future__ import annotations

import ast
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from einhornpy.control import terminal
from einhornpy.control.cli import main
from einhornpy.shared import printable
from einhornpy.supervisor.logs import formats
from einhornpy.supervisor.settings.sources import BadSetting, load
from hypothesis import given
from hypothesis import strategies as st

from ..harness import APPS, EINHORNPY, ROOT, Master, base_environment, get
from ..terminals import Tmux, on_terminal

Start = Callable[..., Master]
NASTY = (
    "a\x1b[2J\x1b]0;title\x07b\x9b31mc\u202ed\u2066e\u200ff\rg\ng\vh\fi\x85j\u2028k\u2029l\x7fm\x00n"
    "\x1b[32mready\x1b[0m\U000e0041o\x08p")
ESCAPED = (
    r"a\x1b[2J\x1b]0;title\x07b\x9b31mc\u202ed\u2066e\u200ff\rg\ng\x0bh\x0ci\x85j\u2028k\u2029l\x7fm\x00n"
    r"\x1b[32mready\x1b[0m\U000e0041o\x08p")
WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]
# What `einhornpy` itself may send to a terminal: its colours.
OURS = re.compile("\x1b\\[(?:0|3[123])m")
# What rich and Textual draw with: moves of the cursor, colours, modes, and no text of others.
DRAWING = re.compile("\x1b\\[[?>]?[0-9;]*[A-Za-z]|\x1b[=>78(]B?")


def steering(text: str) -> list[str]:
    """The characters of a text that could do something to a terminal, but for ends of lines."""
    return [
        each for each in text
        if each != "\n" and unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co")]


@given(st.text())
def test_a_line_stays_a_line_and_can_be_printed(text: str) -> None:
    shown = printable.escaped(text)
    assert shown.isprintable()
    assert printable.escaped(shown) == shown
    assert terminal.shown(text, colours=False).replace("\t", "").isprintable()
    assert not steering(OURS.sub("", terminal.shown(text, colours=True)).replace("\t", ""))
    assert json.loads(printable.as_json({text: [text]})) == {text: [text]}
    assert printable.as_json(text).isprintable()
    assert printable.as_json(text).isascii()
    line = formats.output_line(text.encode(errors="surrogatepass")).decode()
    assert line.replace("\t", "").isprintable()


def test_what_is_nasty_is_shown_as_escapes() -> None:
    assert printable.escaped(NASTY) == ESCAPED
    assert printable.document({NASTY: [NASTY, 1, None,
                                       True]}) == {ESCAPED: [ESCAPED, 1, None, True]}
    for ordinary in ("Grüße, 世界 ✓ — שלום", "/srv/shop v1.2", ""):
        assert printable.escaped(ordinary) == ordinary


def broken(start: Start, place: Path, *arguments: str) -> Master:
    """A master whose second release says something nasty in every way there is, and fails."""
    (place / "nasty").write_text(NASTY)
    script = (f"if test -e broken; then cat nasty >&2; exec {sys.executable} -c '{SAYS_WHY}'; fi;"
              'exec "$0" "$@"')
    master = start("-n", "1", "-m", "manual", "--max-failures", "1", "-c", "shop", "-d",
                   f"{place}/x.sock", *arguments, "--", "sh", "-c", script, *WORKER[:-1], "ack",
                   NASTY.replace("\x00", ""))
    master.wait_ready()
    (place / "broken").touch()
    return master


SAYS_WHY = """
import json, os, socket
with socket.socket(socket.AF_UNIX) as control:
    control.connect(os.environ["EINHORN_SOCK_PATH"])
    said = {"command": "worker:failed", "pid": os.getpid(), "error": open("nasty", newline="").read()}
    control.sendall(json.dumps(said).encode() + b"\\n")
    control.recv(1)
raise SystemExit(3)
"""


def test_every_command_on_a_terminal(start: Start, place: Path) -> None:
    master = broken(start, place, "--web", "127.0.0.1:0", "--worker-output", "prefix")
    nasty = NASTY.replace("\0", "")  # no word of a command line can hold it
    commands: list[tuple[int, list[str]]] = [(5, ["upgrade", "--release", "bad"]),
                                             (5, ["status", "--wait"]), (0, ["history"]),
                                             (0, ["show", "1"]), (0, ["list"]),
                                             (1, ["shell", "-e",
                                                  "history; state; status; upgrade"]),
                                             (2, ["scale", nasty]), (1, [nasty]),
                                             (69, ["status", "-d", f"/tmp/{nasty[:50]}"]),
                                             (69, ["status", "-c", nasty]),
                                             (1, ["shell", "-e", nasty]),
                                             (2, ["status", "--release", nasty]),]
    environment = base_environment(place) | {"EINHORNPY_SOCKET_PATH": master.path}
    for expected, command in commands:
        code, text = on_terminal([EINHORNPY, *command], environment)
        assert code == expected, (command, text)
        drawn = DRAWING.sub("", text).replace("\r", "") if "--release" in command else OURS.sub(
            "", text)
        assert not steering(drawn), (command, steering(drawn), text)
        assert "\x1b[2J" not in text
        assert "\x1b[32mready\x1b[0m\\U" not in text
    code, text = on_terminal([EINHORNPY, "status"],
                             environment | {"COLUMNS": "1000", "NO_COLOR": "1"})
    assert f": {ESCAPED}\n" in text
    for command in (["status"], ["history"]):
        _, text = on_terminal([EINHORNPY, *command, "--json"], environment)
        assert text.isascii()
        assert not steering(text)
        document = json.loads(text)
        upgrade = document["upgrade"] if "upgrade" in document else document[0]
        assert upgrade["error"] == NASTY  # with all its data
    for path in ("/readyz", "/status", "/healthz"):
        assert not steering(get(master.web_address, path)[1])
    assert get(master.web_address, "/readyz")[1].count("\n") == 1, master.log()
    assert not steering(master.log())
    assert all(" shop " in line or line.startswith("shop ") for line in master.log().splitlines())


def test_events_and_top_on_a_terminal(start: Start, place: Path) -> None:
    master = broken(start, place)
    assert master.cli("upgrade", "--release", "bad").returncode == 5
    environment = base_environment(place) | {"EINHORNPY_SOCKET_PATH": master.path}
    for command in ("top", "events"):
        tmux = Tmux(place, [EINHORNPY, command], environment)
        try:
            while command == "events" and r"\x1b[2J" not in tmux.screen():
                master.cli("upgrade")  # it tells only what happens from now on
            tmux.sees(r"\x1b[2J")
            assert not steering(tmux.screen())
            assert "title" not in tmux.about("pane_title")
        finally:
            tmux.close()


def test_a_release_that_cannot_be_printed_is_refused_at_the_door(
        capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("two\nlines", "\x1b[31mred", "\u202etxet", "", "x" * 201):
        for command in (["upgrade", "--release", label], ["status", "--release",
                                                          label], ["rollback", "--to", label]):
            with pytest.raises(SystemExit) as left:
                main.main(command)
            assert left.value.code == 2
            said = capsys.readouterr()
            assert said.out == ""
            assert said.err.count("\n") == 1
            assert "expected a label of 1 to 200 printable characters" in said.err
            assert not steering(said.err)
        with pytest.raises(BadSetting, match=r"^--release: got .*, expected a label of 1 to 200 "):
            load({"release": label}, ["app"], {}, "/dir")


def test_a_unit_names_what_cannot_be_printed_by_its_escapes(
        capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main.main([
            "unit", "--chdir",
            str(tmp_path), "--env", "A=b\n\x85\u202e\U000e0041", "--", "/bin/true"])
    assert r'"A=b\x0a\u0085\u202e\U000e0041"' in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main.main(["unit", "--chdir", "/srv\nExecStartPre=/bin/false", "--", "/bin/true"])
    assert left.value.code == 2
    assert capsys.readouterr().out == ""


# --- nobody prints around it ---

PRINTING = {
    "echo", "secho", "echo_via_pager", "print", "print_json", "print_exception", "writelines"}


def printing(tree: ast.AST) -> Iterator[int]:
    """The lines that print in another way than by `say`, or by showing what `terminal.shown`
    returned."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        own = bool(node.args) and ast.unparse(node.args[0]).startswith("terminal.shown(")
        last = called.rpartition(".")[2]
        if (last in PRINTING and not own) or re.search(r"(?:stdout|stderr)\b.*\.write$",
                                                       called) or called == "os.write":
            yield node.lineno


@pytest.mark.parametrize("path", sorted((ROOT / "control").rglob("*.py")),
                         ids=lambda path: path.stem)
def test_one_module_prints(path: Path) -> None:
    found = list(printing(ast.parse(path.read_text())))
    assert not found or path.stem == "terminal", (
        f"{path.name} prints in lines {found}: expected terminal.say")


def test_a_line_that_prints_is_found() -> None:
    for line in ("print(1)", "click.echo('x')", "sys.stdout.write('x')",
                 "sys.stderr.buffer.write(b'x')", "os.write(1, b'x')", "console.print(text)",
                 "traceback.print_exception(error)"):
        assert list(printing(ast.parse(line))) == [1], line
    for line in ("say('x')", "console.print(terminal.shown(line, False), markup=False)",
                 "file.write('x')"):
        assert not list(printing(ast.parse(line))), line
