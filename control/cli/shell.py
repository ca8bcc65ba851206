"""The commands of the control socket given by hand: what `einhornsh` is to Einhorn.

readline of the standard library knows history, editing and completion; it is imported on a terminal
only.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from ...shared import commands
from .. import client
from ..terminal import say, say_block, say_json
from .options import Connect, Exit, which_master

HISTORY_LENGTH = 1000
_numbers = itertools.count(1)


@click.command()
@which_master
@click.option("-e", "--execute", "lines", metavar="COMMANDS", multiple=True,
              help="Give these commands, then leave.")
def shell(connect: Connect, lines: tuple[str, ...]) -> None:
    """Give commands of the control socket by hand, as einhornsh does; help lists them.

    Words after a command are its arguments, NAME=VALUE ones by name; a semicolon ends one. On a
    terminal there is history and completion. Exit codes: 0 all of them were carried out, 1 the last
    one that wasn't, 69 no master there.
    """
    with connect(None, verbatim=True) as master:
        raise Exit(run(master, lines))


def run(master: client.Client, lines: Sequence[str]) -> int:
    """Give the commands in `lines`, or else those that come on standard input; return the exit
    code: 0, or 1 if the master refused one, which ends `lines` there.

    Raises:
        MasterGone: the master hung up.
    """
    if not lines and sys.stdin.isatty():
        return converse(master)
    well = True
    for line in lines or sys.stdin:
        for command in commands_of(line):
            if command[:1] in (["exit"], ["quit"]):
                return 0 if well else 1
            well = bool(command) and give(master, command) and well
            if lines and not well:
                return 1
    return 0 if well else 1


def converse(master: client.Client) -> int:
    """Give what somebody types on a terminal, until he leaves; return 0. Raises as `run` does."""
    say(ask(master, "ehlo", {}, user=os.environ.get("USER", ""))["message"])
    say('Type "help" for the commands, "exit" to leave.')
    with line_editing(list(ask(master, "help", {})["result"]["commands"])):
        while True:
            try:
                line = input("> ")
            except EOFError:
                say("")
                return 0
            except KeyboardInterrupt:
                say("")
                continue
            for command in filter(None, commands_of(line)):
                if command[0] in ("exit", "quit"):
                    return 0
                with contextlib.suppress(KeyboardInterrupt):
                    give(master, command)


def commands_of(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, as a shell reads them; a semicolon ends a command. No
    words, after a line on standard error, for what can't be read."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=";")
    reader.whitespace_split = True
    words: list[str] = []
    try:
        for word in reader:
            if set(word) == {";"}:
                if words:
                    yield words
                words = []
            else:
                words.append(word)
    except ValueError as error:
        say(f"einhornpy: cannot read {line.strip()!r}: {error}", sys.stderr)
        yield []
        return
    if words:
        yield words


def give(master: client.Client, words: Sequence[str]) -> bool:
    """Give one command and print its answers; return whether it was carried out."""
    named = dict(
        word.split("=", 1) for word in words[1:] if "=" in word and not word.startswith(("{", "=")))
    args: Any = {key: value_of(value) for key, value in named.items()} if named else list(words[1:])
    try:
        last = ask(master, words[0], args, tell=True)
    except client.Failed as error:
        say(f"einhornpy: {error}", sys.stderr)
        return False
    if is_told_by_result(words[0]):
        say_json(last["result"], indent=2)
    # An upgrade that went back was carried out, but not as it was meant.
    return last["result"].get("outcome") in (None, "done")


def ask(master: client.Client, command: str, args: Any, tell: bool = False,
        **beside: Any) -> dict[str, Any]:
    last: dict[str, Any] = {}
    number = next(_numbers)
    for reply in master.converse({"id": number, "command": command, "args": args, **beside},
                                 number):
        last = reply
        if tell and not is_told_by_result(command):
            say_block(last["message"])
    return last


def is_told_by_result(command: str) -> bool:
    """Whether the message of its answer says less than its result."""
    declared = commands.BY_NAME.get(command)
    return declared is not None and declared.by_result


def value_of(text: str) -> Any:
    """An argument as what it looks like: true, false, a whole number, or a text."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch("-?[0-9]{1,15}", text) else text


@contextlib.contextmanager
def line_editing(known: Sequence[str]) -> Iterator[None]:
    """Completion of commands and their arguments, and a history that is kept in the user's state
    directory. `known`: the commands that the master knows."""
    import readline

    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = f"{state}/einhornpy_history"
    readline.set_completer(lambda text, number: ([
        *offered(readline.get_line_buffer()[:readline.get_begidx()], text, known), None][number:]
                                                 or [None])[0])
    readline.set_completer_delims(" ;")
    readline.parse_and_bind("tab: complete")
    with contextlib.suppress(OSError):
        if _is_ours(path):
            readline.read_history_file(path)
    readline.set_history_length(HISTORY_LENGTH)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            there = os.path.abspath(state)
            while not os.path.lexists(there):
                there = os.path.dirname(there)
            if _is_ours(there) and (not os.path.lexists(path) or _is_ours(path)):
                os.makedirs(state, mode=0o700, exist_ok=True)
                readline.write_history_file(path)


def offered(before: str, text: str, known: Sequence[str]) -> list[str]:
    """What could be typed on from `text`, which follows `before` on its line: a command, or an
    argument of one."""
    words = before.rpartition(";")[2].split()
    declared = commands.BY_NAME.get(words[0]) if words else None
    candidates: Sequence[str] = known if not words else () if declared is None else [
        f"{each.name}=" for each in declared.arguments]
    return [each for each in candidates if each.startswith(text)]


def _is_ours(path: str) -> bool:
    """Whether nobody else has put it there: with `sudo` the home directory may be another
    user's."""
    found = os.lstat(path)
    return found.st_uid == os.geteuid() and (stat.S_ISLNK(found.st_mode)
                                             or not found.st_mode & 0o002)
