"""Completion in real shells: bash and zsh on a terminal where Tab is pressed, fish by what it
offers."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..harness import APPS, DEADLINE, EINHORNPY, Master, base_environment
from ..terminals import Tmux

Start = Callable[..., Master]
WORKER = [sys.executable, str(APPS / "worker.py"), "notify"]
SET_UP = {
    "bash": "eval \"$(einhornpy completion bash)\"; bind 'set bell-style none'; bind 'set "
            "completion-query-items 1000'; PS1='> '",
    "zsh": "autoload -U compinit; compinit -D -u; eval \"$(einhornpy completion zsh)\"; PS1='> '",}


def offered_by_bash(place: Path, *words: str) -> set[str]:
    """What bash would offer for the last of the words."""
    line = " ".join(map(shlex.quote, words))
    script = (
        f'test -e completion || einhornpy completion bash > completion; . ./completion; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; '
        '$(complete -p einhornpy | sed "s/.*-F \\([^ ]*\\).*/\\1/") einhornpy; printf "%s\\n" '
        '"${COMPREPLY[@]}"'
    )
    out = subprocess.run(["bash", "--norc", "-c", script], env=base_environment(place), cwd=place,
                         capture_output=True, text=True, timeout=DEADLINE, check=True).stdout
    return set(out.split())


def offered_by_fish(place: Path, line: str) -> set[str]:
    script = f"einhornpy completion fish | source; complete -C {shlex.quote(line)}"
    out = subprocess.run(["fish", "--no-config", "-c", script], env=base_environment(place),
                         cwd=place, capture_output=True, text=True, timeout=DEADLINE,
                         check=True).stdout
    return {each.partition("\t")[0] for each in out.splitlines()}


@pytest.fixture
def terminal(place: Path, request: pytest.FixtureRequest) -> Iterator[Tmux]:
    shell = request.param
    plain = {"bash": ["bash", "--norc", "--noprofile"], "zsh": ["zsh", "-f"]}[shell]
    tmux = Tmux(place, plain, base_environment(place))
    try:
        tmux.type("-l", f"{SET_UP[shell]}; clear; echo set\\ up")
        tmux.type("Enter")
        tmux.sees("set up\n>")
        yield tmux
    finally:
        tmux.close()


@pytest.mark.parametrize("terminal", ["bash", "zsh"], indirect=True)
def test_the_tab_key(start: Start, place: Path, terminal: Tmux) -> None:
    start("-n", "1", "-m", "notify", "-c", "shop", "--", *WORKER).wait_ready()
    for typed, completed in (
        ("einhornpy stat", "> einhornpy status"),
        ("einhornpy --graceful-t", "> einhornpy --graceful-timeout"),
        ("einhornpy -n 4 --max-fail", "> einhornpy -n 4 --max-failures"),
        ("einhornpy run --chd", "> einhornpy run --chdir"),
        ("einhornpy status -c sh", "> einhornpy status -c shop"),
    ):
        terminal.type("-l", typed)
        terminal.type("Tab")
        terminal.sees(completed)
        terminal.type("C-u")


def test_what_bash_offers(start: Start, place: Path) -> None:
    commands = offered_by_bash(place, "einhornpy", "")
    assert {"run", "status", "upgrade", "top", "completion"} <= commands
    # Without a command's name, run is meant.
    options = offered_by_bash(place, "einhornpy", "--")
    assert {"--bind", "--max-surge", "--help"} <= options
    assert options == offered_by_bash(place, "einhornpy", "run", "--") == offered_by_bash(
        place, "einhornpy", "unit", "--")
    assert options == offered_by_bash(place, "einhornpy", "unit", "--user", "--")
    assert "--gc-before-fork" not in options
    assert offered_by_bash(place, "einhornpy", "upgrade", "--can") == {"--canary"}
    assert offered_by_bash(place, "einhornpy", "-n", "2", "--ack-mode",
                           "") == {"auto", "gunicorn", "manual", "notify"}
    assert offered_by_bash(place, "einhornpy", "--log-to", "") == {"journal", "stderr", "syslog"}
    assert offered_by_bash(place, "einhornpy", "--cpu-affinity", "") == {"spread"}
    assert offered_by_bash(place, "einhornpy", "--warm-up", "P") == set()
    assert offered_by_bash(place, "einhornpy", "-n", "2", "--", "einhornp") == {"einhornpy"}
    assert offered_by_bash(place, "einhornpy", "signal", "USR") == {"USR1", "USR2"}
    assert offered_by_bash(place, "einhornpy", "completion", "") == {"bash", "fish", "zsh"}
    # Where nobody is there to be asked, there is nothing to offer, and no error.
    for words in (["status", "-c", ""], ["recycle", ""], ["show", ""], ["rollback", "--to", ""]):
        assert offered_by_bash(place, "einhornpy", *words) == set(), words
    master = start("-n", "2", "-m", "notify", "-c", "shop", "--release", "first", "--", *WORKER)
    master.wait_ready()
    assert master.cli("upgrade", "--release", "second").returncode == 0
    assert offered_by_bash(place, "einhornpy", "status", "-c", "") == {"shop"}
    assert offered_by_bash(place, "einhornpy", "recycle", "-c", "shop", "") == {"0", "1"}
    assert offered_by_bash(place, "einhornpy", "show", "") == {"1", "2"}
    assert offered_by_bash(place, "einhornpy", "status", "--release", "") == {"second"}
    assert offered_by_bash(place, "einhornpy", "rollback", "--to", "") == {"1", "2", "second"}


def test_what_fish_offers(place: Path) -> None:
    assert {"run", "status", "upgrade"} <= offered_by_fish(place, "einhornpy ")
    assert {"--bind", "--max-surge"} <= offered_by_fish(place, "einhornpy --")
    assert offered_by_fish(place, "einhornpy -n 4 --max-fail") == {"--max-failures"}
    (place / "chosen").mkdir()
    assert offered_by_fish(place, "einhornpy --chdir cho") == {"chosen/"}


def test_another_shell_is_wrong_usage(place: Path) -> None:
    result = subprocess.run([EINHORNPY, "completion", "tcsh"], env=base_environment(place),
                            capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
