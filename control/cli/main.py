"""The entry point of `einhornpy`: finds the command that is meant, and words what it ended with.
The master is never imported, only exec'ed.

`einhornpy status` is started every second by deploy tools, so nothing is imported before it is
needed.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from ...shared import printable
from ...shared.protocol import Code
from .. import client, gate
from ..terminal import say_block, take_streams
from .group import cli as cli
from .group import command_of, names
from .options import Exit, in_utf8, where

# Commands that do something: how it ended is what their exit code says, whatever becomes of the
# words, and nobody who doesn't read them keeps it back for longer than `PATIENCE` seconds.
ACTING = {"upgrade", "deploy", "rollback", "pause", "resume", "abort", "scale", "recycle", "signal",
          "stop", "reload"}
ANSWERED_BY_CODE = ACTING | {"status", "shell"}
PATIENCE = 5.0

# What Einhorn says where it is told nothing.
USAGE = """## Usage

    einhorn [options] program

This is einhornpy under Einhorn's name: it opens sockets, runs copies of a program that serve them,
and replaces these one by one. `einhorn -h` lists the options."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """The entry point of `einhornpy`; leaves by SystemExit."""
    words = [*map(in_utf8, sys.argv[1:])] if arguments is None else arguments
    if "_EINHORNPY_COMPLETE" in os.environ:
        from . import completion  # noqa: F401  it teaches click how fish wants it
    streams = take_streams()
    code, message, answered = 0, None, False
    try:
        # a master execs us as its next one (--reexec-as)
        if words and words[0] in ("--take-over", "--check-state"):
            become_master(*words)
        words = einhorns(words) if is_einhorn() else meant(words)
        answered = words[0] in ANSWERED_BY_CODE
        for stream in streams:
            stream.patience = PATIENCE if words[0] in ACTING else None
        # A help that was asked for ends with a code here, what a command does with none.
        answered = (cli.main(words, prog_name="einhornpy", standalone_mode=False) is None
                    and answered)
    # whatever ended it, it is one line
    except (Exception, KeyboardInterrupt) as error:
        code, message = ended(error)
    lost = streams[0].lost
    if lost is not None and not isinstance(lost, BrokenPipeError):
        if not answered:  # whoever has only asked for words has got none
            code = code or 1
        message = message or f"cannot write to standard output: {lost.strerror}"
    complain(message)
    sys.exit(code)


def complain(message: str | None) -> None:
    """Say on standard error what went wrong, if something did."""
    if message is None:
        return
    from .. import show

    lines = show.wrapped(f"einhornpy: {printable.escaped(message)}", 2, "", sys.stderr)
    say_block("\n".join(lines), sys.stderr)


def meant(words: list[str]) -> list[str]:
    """The words as the commands want them; without a command's name `run` is meant.

    Raises:
        click.UsageError: the first one seems to be a command's, mistyped.
    """
    if not words:
        configured = os.environ.get("EINHORNPY_COMMAND") or os.environ.get("EINHORNPY_CONFIG")
        return ["run"] if configured else ["--help"]
    if words[0] == "--version":
        return ["version"]
    if words[0] == "unit" and words[1:2] not in (["-h"], ["--help"]):
        # what follows is a command line of run, with a -- of its own
        return ["unit", "--", *words[1:]]
    if words[0].startswith("-"):
        return words if words[0] in ("-h", "--help") else ["run", *words]
    if command_of(words[0]) is not None:
        return words
    _check_spelling(words[0])
    return ["run", *words]


def is_einhorn() -> bool:
    """Whether we are called by Einhorn's name."""
    return os.path.basename(sys.argv[0]) == "einhorn"


def einhorns(words: list[str]) -> list[str]:
    """The words as the commands want them, where they are Einhorn's: all of them are `run`'s.

    Raises:
        Exit: there are none; Einhorn tells its usage then, and fails.
    """
    if not words:
        say_block(USAGE)
        raise Exit(1)
    return ["version"] if words == ["--version"] else ["run", "--einhorn", *words]


def _check_spelling(word: str) -> None:
    """A program needs no `--` before it; but one that doesn't exist, and is nearly called as a
    command of ours, is one mistyped.

    Raises:
        click.UsageError: so it is.
    """
    import shutil

    if shutil.which(word) is not None:
        return
    import difflib  # a start that is well needs it not

    near = difflib.get_close_matches(word, names(), 1, 0.75)
    if near:
        raise click.UsageError(f"no such command: {word!r}, did you mean {near[0]!r}? "
                               f"To run a program of this name: einhornpy -- {word}")


def become_master(*words: str) -> NoReturn:
    """Exec the master with these words.

    Raises:
        Exit: this Python can't be run again.
    """
    # Done here, since it needs ctypes, which would weigh on a master for ever.
    from ..privileges import adopt_orphans

    adopt_orphans()
    python = sys.executable
    if ".." in python.split("/"):
        # Found by a relative PATH: the way through the current directory is gone when that is.
        python = os.path.join(os.path.realpath(os.path.dirname(python)), os.path.basename(python))
    # -P: a file of the app's in the current directory must not shadow a module of the master's.
    # -X utf8: whatever the locale is, the master reads and writes one and the same text.
    try:
        os.execv(python, [python, "-X", "utf8", "-P", "-m", "einhornpy.supervisor", *words])
    except OSError as error:
        from ...shared import reach

        error.filename = python
        raise Exit(1, "cannot run the master in einhornpy's own Python, "
                   f"{python or '(unknown)'}: {reach.why(error)}") from None


def ended(error: BaseException) -> tuple[int, str | None]:
    """The exit code, and the line on standard error, for what a command has ended with."""
    match error:
        case Exit():
            return error.code, error.message
        case click.UsageError():
            of = error.ctx.info_name if error.ctx and error.ctx.parent else None
            see = f" (see einhornpy {of} --help)" if of else ""
            return gate.USAGE, f"{' '.join(error.format_message().split())}{see}"
        case click.ClickException():
            return 1, error.format_message()
        case client.NoMaster():
            return gate.NO_MASTER, str(error)
        case client.MasterGone():
            return gate.STOPPING, str(error)
        case client.TimedOut():
            return gate.TIMED_OUT, f"the master does not answer: {error}"
        case client.Failed():
            codes: dict[str, int] = {
                Code.BAD_ARGUMENT: gate.USAGE, Code.STOPPING: gate.STOPPING,
                Code.STARTING: gate.NOT_YET}
            return codes.get(error.code, 1), str(error)
        case KeyboardInterrupt() | click.Abort():
            return gate.INTERRUPTED, None
        case OSError() if error.filename is not None:
            from ...shared import reach

            return 1, f"cannot go on: {error.filename}: {reach.why(error)}"
        case _:
            # One line for scripts too, with the place for whoever is to mend it.
            return 1, f"unforeseen {where(error)}"


if __name__ == "__main__":
    main()
