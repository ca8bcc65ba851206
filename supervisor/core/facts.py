"""What can happen, as frozen data: `observe.py` makes the next pool of each. Whoever sees something
says what it saw, never what follows from it. What happens to templates: template_facts.py."""

from __future__ import annotations

from collections.abc import Mapping

from ...shared.frozen import dataclass
from .causes import Force, Leaving, Recycling, Refusal
from .generation import Recipe
from .pool import Stopping
from .template_facts import OfTemplate
from .upgrade import Terms
from .verdict import Verdict


@dataclass(frozen=True, slots=True)
class Spawned:
    """`pid`: 0 where its template was asked for it. `jitter`: 0 to 1, drawn for this worker."""

    worker: int
    index: int
    generation: int
    pid: int
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Forked:
    """Its template has forked it."""

    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class NotForked:
    """It will not be there. `error`: why its template could not fork it; None: that has died."""

    worker: int
    error: str | None


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    index: int
    generation: int
    error: str


@dataclass(frozen=True, slots=True)
class Assumed:
    """It says nothing by itself and has lived for long enough: it is ready as soon as somebody
    accepts connections."""

    worker: int


@dataclass(frozen=True, slots=True)
class SaidReady:
    """`guessed`: it said nothing; it was assumed."""

    worker: int
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Stood:
    """The guess that it is ready has stood for the min ready seconds of guesses."""

    worker: int


@dataclass(frozen=True, slots=True)
class FoundUnfit:
    """Whatever this worker says, it can't be trusted, nor any other of its generation."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class SaidFailed:
    """The worker's own word on why it will not become ready; its exit follows."""

    worker: int
    error: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`request_id`: what the worker says it is busy with, where it says so."""

    worker: int
    at: float
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Unheard:
    """It could not reach us for a while, so its silence says nothing: nobody waits for its
    heartbeat until there is another one."""

    worker: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of each worker's process group."""

    memory: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class HostMeasured:
    """Whether the host has no room for one worker more; `available` bytes were found."""

    short: bool
    available: int


@dataclass(frozen=True, slots=True)
class Due:
    """It is to be recycled."""

    worker: int
    reason: str
    cause: Recycling


@dataclass(frozen=True, slots=True)
class Aborted:
    """SIGABRT went to it: it hangs, and is to say where. `lines` as in `Killed`."""

    worker: int
    reason: str
    cause: Force
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retired:
    """It was asked to finish and leave."""

    worker: int
    reason: str
    cause: Leaving


@dataclass(frozen=True, slots=True)
class Killed:
    """SIGKILL went to its process group. `lines`: the last ones of its standard error."""

    worker: int
    reason: str
    cause: Force
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exited:
    """`status`: the exit code, or minus the number of the signal that ended it. `error`: why it
    never ran, if so. `lines` as in `Killed`; `complaint`: what they say of the reason."""

    worker: int
    status: int
    error: str | None = None
    lines: tuple[str, ...] = ()
    complaint: str | None = None


@dataclass(frozen=True, slots=True)
class OrphanFound:
    """A worker that is gone, known or not, has left a process behind, which was asked to go."""

    pid: int
    index: int | None
    generation: int | None


@dataclass(frozen=True, slots=True)
class OrphanKilled:
    pid: int


@dataclass(frozen=True, slots=True)
class OrphanGone:
    pid: int


@dataclass(frozen=True, slots=True)
class UpgradeRequested:
    """`vacant`: seats whose workers have left for its sake."""

    terms: Terms
    requested_by: str
    wall: float
    vacant: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class UpgradePrepared:
    """`template`: the pid of its template, 0 where it has none."""

    number: int
    recipe: Recipe
    target: int | None = None
    template: int = 0


@dataclass(frozen=True, slots=True)
class UpgradeRefused:
    """The new generation could not even be made: its settings can't be read, its directory is gone
    … `aborted_by`: somebody didn't want it any more."""

    number: int
    reason: str
    error: str | None
    wall: float
    aborted_by: str | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    by: str


@dataclass(frozen=True, slots=True)
class Resumed:
    by: str


@dataclass(frozen=True, slots=True)
class AbortRequested:
    by: str


@dataclass(frozen=True, slots=True)
class HoldBegun:
    """All canaries serve."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The check of the hold has ended; `reason`: why it refuses the release, if it does."""

    reason: str | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """New workers were compared with old ones, of the running upgrade or of one that is watched."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class WatchEnded:
    """An upgrade that has ended is watched no more."""


@dataclass(frozen=True, slots=True)
class HoldEnded:
    """The canaries have done well: everybody follows."""


@dataclass(frozen=True, slots=True)
class AcceptingAsked:
    """Only guessed workers are left, and somebody looks whether they accept connections."""


@dataclass(frozen=True, slots=True)
class AcceptingChecked:
    """`reason`: why the release is refused (nobody accepts on …), None where somebody does."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class ListenerShut:
    """Some worker has shut a listening socket down for everybody; it listens again. `anew`: on a
    new socket, which the workers that there are don't have. `blamed`: it was just now, so that it
    can be told who may have done it."""

    address: str
    anew: bool = False
    blamed: bool = True


@dataclass(frozen=True, slots=True)
class ListenerSwept:
    """The file of a UNIX socket was removed, by whomever; there is a new socket of that name, which
    the workers that there are don't have. They go on with the old one, and with all others."""

    address: str


@dataclass(frozen=True, slots=True)
class ListenerLost:
    """Nobody can connect to this address any more, and that can't be mended; None as a reason: it
    is there again."""

    address: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Calmed:
    """A generation with faults has had none for long enough."""

    generation: int


@dataclass(frozen=True, slots=True)
class RolledBack:
    reason: str
    error: str | None
    cause: Refusal


@dataclass(frozen=True, slots=True)
class Finished:
    wall: float


@dataclass(frozen=True, slots=True)
class Scaled:
    target: int


@dataclass(frozen=True, slots=True)
class Suspended:
    """Neither the master nor, as far as it can know, anybody else ran for a while, which is over: a
    frozen container, a machine that slept. `seconds`: how long, None where that isn't known."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class StopRequested:
    how: Stopping


def how_it_ended(status: int) -> str:
    """Of a process, by its `status`: its exit code, or minus the number of the signal that ended
    it: `exited with code 1`, `was ended by signal 9`."""
    return f"was ended by signal {-status}" if status < 0 else f"exited with code {status}"


OfWorker = (Assumed | SaidReady | Stood | FoundUnfit | SaidFailed | Heartbeat | Unheard | Due
            | Aborted | Retired | Killed | Exited | Forked | NotForked)
OfOrphan = OrphanFound | OrphanKilled | OrphanGone
# What begins an upgrade, or says that it can't begin.
OfBeginning = UpgradeRequested | UpgradePrepared | UpgradeRefused
# What happens to an upgrade that is under way.
OfCourse = (Paused | Resumed | AbortRequested | HoldBegun | Checked | Judged | WatchEnded
            | HoldEnded | AcceptingAsked | AcceptingChecked | RolledBack | Finished)
OfHost = (Spawned | SpawnFailed | Measured | HostMeasured | Scaled | ListenerShut | ListenerSwept
          | ListenerLost | Calmed | Suspended | StopRequested)
Event = OfWorker | OfTemplate | OfOrphan | OfBeginning | OfCourse | OfHost
