"""A generation: one frozen launch recipe, and what has become of it so far. Data without any
behaviour."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import field

from ...shared.frozen import dataclass


class Preload(enum.StrEnum):
    """Whether workers are forked from a template that has imported the app, and what becomes of the
    generation where that isn't safe: it is told (warn), it is refused (strict), or its workers
    import the app themselves (auto)."""

    OFF = "off"
    WARN = "warn"
    STRICT = "strict"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a process has, and that its forks would share with it or lack. `kind`: one of
    those in worker/fork_safety.py; `what`: which one; `module`: during whose import it appeared,
    where that is known; `advice`: what to do."""

    kind: str
    what: str
    module: str | None
    advice: str


@dataclass(frozen=True, slots=True)
class Started:
    """What a process was started with, links resolved."""

    words: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a generation's workers are launched, frozen when it was made.

    `command`: as somebody typed it. What it meant then: `program`, the file that it names,
    `interpreter`, what runs that (empty: the kernel finds it), and `words`, the whole command line;
    where it runs gunicorn by name, `PYTHON [OPTIONS] -m gunicorn …`. All empty in a state of an
    earlier version: then it means what it means when a worker is launched.
    `files`: the text of each of gunicorn's configuration files that was read (None: it isn't
    gunicorn, or nobody knows); `chdir`, `pythonpath`: where these settings of gunicorn's led, if
    they were set; `started`: the process in which gunicorn ran, where something else has started
    it.

    `preload`: whether its template imports the app; `program_forks`: the command itself becomes the
    template (einhornpy.worker.template), and isn't gunicorn; `preload_file`: that loads this file,
    and each worker runs its `einhorn_main`.

    `ack_seconds`: count a worker as ready once it has lived that long (None: it says so itself).
    `graceful_timeout`: seconds between being asked to go and SIGKILL. `timeout`: the oldest
    heartbeat, in seconds, of a worker that has ever sent one (0: not watched).

    When a worker is due for recycling: `max_requests` served, `max_lifetime` seconds since its
    start, each plus a share of its jitter; `max_memory` bytes of its process group. Beyond
    `max_memory_hard` it is killed. 0: never.
    """

    command: tuple[str, ...]
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    release: str | None = None
    ack_seconds: float | None = None
    graceful_timeout: float = 30.0
    timeout: float = 0.0
    max_requests: int = 0
    max_requests_jitter: int = 0
    max_lifetime: float = 0.0
    max_lifetime_jitter: float = 0.0
    max_memory: int = 0
    max_memory_hard: int = 0
    program: str = ""
    interpreter: str = ""
    words: tuple[str, ...] = ()
    chdir: str | None = None
    pythonpath: str | None = None
    files: Mapping[str, str] | None = None
    started: Started | None = None
    preload: Preload = Preload.OFF
    program_forks: bool = False
    preload_file: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """`error`: why its last start failed, `lines`: the last lines of standard error of that start.
    `unfit`: why none of its workers can ever be trusted, if so. `faults`: how often, since it was
    last calm, a worker of it died soon after it was ready or did what no worker may do; `fault`:
    what was the last one, at `fault_at`. `findings`: what its template has, after the import of the
    app, that isn't safe to fork; `separate`: so its workers import it themselves."""

    number: int
    recipe: Recipe
    proven: bool = False
    failures_in_a_row: int = 0
    failed_at: float = 0.0
    not_before: float = 0.0
    error: str | None = None
    lines: tuple[str, ...] = ()
    unfit: str | None = None
    faults: int = 0
    fault: str | None = None
    fault_at: float = 0.0
    findings: tuple[Finding, ...] = ()
    separate: bool = False

    @property
    def preloads(self) -> bool:
        """Whether its template imports the app."""
        return self.recipe.preload is not Preload.OFF and not self.separate
