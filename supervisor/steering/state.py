"""What a state holds: every part that one master hands the next, with its types. Pure.

`normal` makes of a document exactly these fields: what is unknown is left out, what an earlier
version didn't write takes its default, what can't be read refuses the whole. Whoever takes a part
over (`take_over` of its module) may then believe it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.pool import Pool
from ..launch.recognition import Gunicorn
from ..logs.log import Source
from ..sockets.addresses import Address
from ..sockets.systemd import Told
from ..system.plain_data import made, plain
from ..system.processes import Launch
from . import pool_state


@dataclass(frozen=True, slots=True)
class Given:
    """The command line."""

    flags: Mapping[str, Any]
    command: tuple[str, ...]
    directory: str


@dataclass(frozen=True, slots=True)
class Prepared:
    gunicorn: Gunicorn | None
    guessed: bool


@dataclass(frozen=True, slots=True)
class Listening:
    fd: int
    address: Address
    made: tuple[int, int] | None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Web:
    """The sidecar's listener, and its process if it runs."""

    fd: int
    address: Address
    made: tuple[int, int] | None
    pid: int | None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    path: str
    notify_path: str
    lock_path: str
    listener: int
    lock: int


@dataclass(frozen=True, slots=True)
class Page:
    fd: int
    size: int
    slots: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Processes:
    errors: tuple[int, int]
    pids: tuple[int, ...]
    limits: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Waiting:
    """An errand that has yet to begin."""

    name: str
    launch: Launch
    limit: float
    deadline: float
    timed_out: bool
    cancelled: bool
    stdin: str | None = None
    grace: float = 30.0
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """An errand that runs."""

    name: str
    pid: int
    output: int | None
    tail: str
    limit: float
    deadline: float
    timed_out: bool
    cancelled: bool
    stdin: str | None = None
    grace: float = 30.0
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Errands:
    running: tuple[Running, ...]
    waiting: tuple[Waiting, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """`role`: what it waits for."""

    fd: int
    peer: tuple[int, int, int]
    unsent: str
    begun: str
    last_words: bool
    long: bool
    worker_only: bool
    role: Mapping[str, Any]
    looking_only: bool = False


@dataclass(frozen=True, slots=True)
class Unwritten:
    data: str
    lines: int
    noted: int
    begun: bool


@dataclass(frozen=True, slots=True)
class Log:
    lines: int = 0
    dropped: int = 0
    unsaid: int = 0
    unwritten: tuple[tuple[Unwritten, ...], tuple[Unwritten, ...]] = ((), ())


@dataclass(frozen=True, slots=True)
class Keeper:
    pid: int | None
    fd: int
    unsent: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pipe:
    fd: int
    worker: int
    source: Source
    orphaned: bool
    rest: str
    goes_on: bool
    last: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Tally:
    upgrades: Mapping[str, int] = field(default_factory=dict)
    exits: Mapping[str, int] = field(default_factory=dict)
    upgrade_seconds: Histogram | None = None
    ready_seconds: Histogram | None = None
    lag_seconds: Histogram | None = None
    requests: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class WayBack:
    """How the master before is run again, should the next one fail: see stage.py. `copy`: a
    descriptor of its code; `path`: where it looks for the rest; `configuration`: the text of its
    TOML file as it read it, whatever has become of that."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    copy: int
    path: tuple[str, ...] | None = None
    configuration: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Everything. What has a default was added later, or is not always there."""

    version: str
    given: Given
    name: str
    started_at: float
    reloads: int
    next_worker: int
    least_weight: int
    pool: Pool
    prepared: Mapping[int, Prepared]
    listeners: tuple[Listening, ...]
    place: Place
    notify: int
    pidfile: str | None
    page: Page
    processes: Processes
    errands: Errands
    sessions: tuple[Session, ...]
    systemd: Told
    web: Web | None = None
    log: Log = Log()
    labels: Mapping[str, str] = field(default_factory=dict)
    announcements: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keeper: Keeper | None = None
    output: tuple[Pipe, ...] = ()
    tally: Tally = Tally()
    recent: tuple[Mapping[str, Any], ...] = ()
    kept: Mapping[str, Any] = field(default_factory=dict)
    reloaded_by: str = ""
    way_back: WayBack | None = None


def normal(document: Mapping[str, Any]) -> tuple[State, dict[str, Any]]:
    """Read a document: what it says, and the same as plain data.

    Raises:
        Unreadable: a part is missing, or isn't what it should be.
    """
    pool = pool_state.adapted(document.get("pool"))
    state: State = made(State, {**document, "pool": pool})
    return state, plain(state)
