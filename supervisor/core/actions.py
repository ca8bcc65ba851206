"""What can be due, as frozen data: `planner.py` asks for it, the master does it, and what was done
comes back as a fact."""

from __future__ import annotations

from ...shared.frozen import dataclass
from .causes import Force, Leaving, Recycling, Refusal


@dataclass(frozen=True, slots=True)
class Spawn:
    index: int
    generation: int


@dataclass(frozen=True, slots=True)
class StartTemplate:
    """Make another template of a generation, from what the one before has read."""

    generation: int


@dataclass(frozen=True, slots=True)
class TellTemplate:
    """Everything is open, and it is the only one."""

    generation: int


@dataclass(frozen=True, slots=True)
class RetireTemplate:
    """No worker will be forked from it any more, and none of its own is left."""

    generation: int


@dataclass(frozen=True, slots=True)
class KillTemplate:
    """SIGKILL to a template that hangs. `reason` is a predicate."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReplaceTemplate:
    """It has what must not be forked, and serves nobody: end it, and make another one that doesn't
    import the app."""

    generation: int


@dataclass(frozen=True, slots=True)
class AssumeReady:
    """The worker says nothing by itself and has lived for long enough: it is ready if somebody
    accepts connections."""

    worker: int


@dataclass(frozen=True, slots=True)
class Trust:
    """The guess that this worker is ready has stood for long enough."""

    worker: int


@dataclass(frozen=True, slots=True)
class Recycle:
    """The worker is due: it counts as outdated from now on."""

    worker: int
    reason: str
    cause: Recycling


@dataclass(frozen=True, slots=True)
class Abort:
    """SIGABRT to a hung worker, so that it says where it hangs; SIGKILL follows."""

    worker: int
    reason: str
    cause: Force


@dataclass(frozen=True, slots=True)
class Retire:
    worker: int
    reason: str
    cause: Leaving


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to the worker's process group. `reason` is a predicate: `was not ready within 60
    s`."""

    worker: int
    reason: str
    cause: Force


@dataclass(frozen=True, slots=True)
class KillOrphan:
    """SIGKILL to a process that a worker has left behind, and that was asked to go long ago."""

    pid: int


@dataclass(frozen=True, slots=True)
class BeginHold:
    """All canaries serve: the hold begins, and with it the check, if one waits."""


@dataclass(frozen=True, slots=True)
class EndHold:
    """The canaries have done well."""


@dataclass(frozen=True, slots=True)
class EndWatch:
    """The release has done well for long enough after its upgrade."""


@dataclass(frozen=True, slots=True)
class CheckAccepting:
    """Nothing but guesses says that the new workers serve, and no old one is left: look whether
    anybody accepts connections."""


@dataclass(frozen=True, slots=True)
class CalmDown:
    """A generation has been without a fault for long enough: its old ones count no more."""

    generation: int


@dataclass(frozen=True, slots=True)
class RollBack:
    reason: str
    error: str | None
    cause: Refusal


@dataclass(frozen=True, slots=True)
class Finish:
    """The running upgrade is at its end: done, or all the way back."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No worker ever became ready."""

    reason: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Leave:
    """The asked-for stop is complete."""


OfTemplate = StartTemplate | TellTemplate | RetireTemplate | KillTemplate | ReplaceTemplate
Action = (Spawn | OfTemplate | AssumeReady | Trust | Recycle | Abort | Retire | Kill | KillOrphan
          | BeginHold | EndHold | EndWatch | CheckAccepting | CalmDown | RollBack | Finish | GiveUp
          | Leave)


@dataclass(frozen=True, slots=True)
class Plan:
    """`wake_at`: when to plan again even if nothing happens; None where only a fact can change
    anything."""

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None
