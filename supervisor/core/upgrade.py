"""An upgrade: one change of generation, as frozen data. `upgrading.py` alone makes the next one of
a fact; its table says which fact may come in which phase.

    preparing ─► canary ◄─► held ─► exchanging ─► ended     (done)
        │           └─────────┴─────────┴──► going back ─► ended     (rolled-back, aborted)
        └──► ended, or going back where an upgrade before it was half way

Beside the phase, and in any phase before `going back`, an upgrade may be paused. A newer one that
is asked for ends it whatever its phase (superseded).
"""

from __future__ import annotations

import enum
from dataclasses import field

from ...shared.frozen import dataclass
from .causes import Refusal
from .slices import Tolerance
from .verdict import Verdict, Word


class Impossible(ValueError):
    """A fact that can't be true of this pool: a mistake of the caller, never of a worker or a
    client."""


class Kind(enum.StrEnum):
    ROLLING = "rolling"  # one worker after the other
    FLEET = "fleet"  # all new ones first, then all old ones go
    FIRST = "first"  # no upgrade: the first start, as hooks are told of it


class Phase(enum.StrEnum):
    PREPARING = "preparing"  # its generation is being made; nobody has been started
    CANARY = "canary"  # the first few are started, and not all of them serve yet
    HELD = "held"  # they serve, and everybody else waits for the hold and the check to end
    EXCHANGING = "exchanging"  # the others follow
    GOING_BACK = "going-back"  # it was refused, and what was replaced goes back
    WATCHED = "watched"  # it has ended well, and goes back if its release does badly after all
    ENDED = "ended"


class Outcome(enum.StrEnum):
    DONE = "done"  # no process of old code is left; to have asked the last one to go isn't enough
    ROLLED_BACK = "rolled-back"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"

    @property
    def refused(self) -> bool:
        """Whether the release was not wanted in the end, by us or by somebody."""
        return self in (Outcome.ROLLED_BACK, Outcome.ABORTED)


class Check(enum.StrEnum):
    """How far the check of the hold is."""

    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"


class Accepting(enum.StrEnum):
    """Whether somebody accepts connections once only workers whose readiness is a guess are left.
    Asked then, not before: as long as an old worker was there, it may have been the one."""

    ASKED = "asked"
    YES = "yes"


@dataclass(frozen=True, slots=True)
class Judging:
    """How new workers are compared with old ones. Times in seconds.

    `tolerance`: the least effect that matters. `after`: so many requests of each worker are left
    out first. `least_hold`: a hold may end after so long, if the release does well beyond doubt
    (None: never early). `refuses_unsure`: a hold that ends with too little traffic to tell refuses
    the release. `watch`: for so long after its end an upgrade can still go back.
    """

    tolerance: Tolerance = field(default_factory=Tolerance)
    after: int = 20
    least_hold: float | None = None
    refuses_unsure: bool = False
    watch: float = 600.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How an upgrade is to go."""

    kind: Kind = Kind.ROLLING
    release: str | None = None
    # So many new workers serve first …
    canary: int = 0
    # … for so many seconds (None: until somebody says resume) …
    hold: float | None = 0.0
    # … and until this shell command has passed.
    check: str | None = None
    # Instead of the policy's.
    max_failures: int | None = None
    # The remembered generation whose recipe it takes, where it is a rollback.
    recipe_of: int | None = None
    # None: nobody is compared with anybody.
    judging: Judging | None = None


@dataclass(frozen=True, slots=True)
class Upgrade:
    """One change of generation. Times in seconds, of the monotonic clock if they end in `_at`."""

    from_generation: int  # where it goes back to
    to_generation: int
    terms: Terms
    requested_by: str  # for people
    started_at: float
    started_wall: float
    progress_at: float  # when it last came nearer to its end: what progress_timeout counts from
    phase: Phase = Phase.PREPARING
    # The number of workers before the new generation asked for another one, if it did.
    target_before: int | None = None
    # Since when all canaries serve.
    held_since: float | None = None
    # Somebody has said resume: the hold is over, whatever its time.
    hold_over: bool = False
    # None: there is no check.
    check: Check | None = None
    # By whom it is paused, if it is. Paused, and until the hold is over, the exchange stands
    # still. Crashes are mended and failures count, but no old worker is recycled, since its
    # replacement would be new code; and old ones stay while the surge has room for them, so that
    # going back costs nothing.
    paused_by: str | None = None
    # None: nobody has asked.
    accepting: Accepting | None = None
    # A listening socket was shut down while old and new code were about: from now on they are kept
    # apart, so that the next time shows whose doing it is.
    suspicious: bool = False
    # Seats whose workers left in order to be replaced by the new code.
    vacant: frozenset[int] = frozenset()
    # It has to go back now: why, in words, and `cause` as one of a few.
    refusal: str | None = None
    cause: Refusal | None = None
    # What the comparison says by now.
    verdict: Verdict | None = None
    # Who has said resume in spite of it: it decides nothing any more.
    overruled_by: str | None = None
    # Since when it is watched.
    watched_since: float | None = None
    # Failed starts of its generation.
    failures: int = 0
    # The last thing that went wrong, or why it went back; what the app said of it; the last lines
    # of standard error of that start.
    reason: str | None = None
    error: str | None = None
    lines: tuple[str, ...] = ()
    # None while it runs.
    outcome: Outcome | None = None
    # How many ready workers its generation had in the end.
    replaced: int = 0
    ended_at: float | None = None
    ended_wall: float | None = None

    @property
    def running(self) -> bool:
        return self.phase not in (Phase.WATCHED, Phase.ENDED)

    @property
    def preparing(self) -> bool:
        return self.phase is Phase.PREPARING

    @property
    def rolling_back(self) -> bool:
        return self.phase is Phase.GOING_BACK

    @property
    def watched(self) -> bool:
        """Whether it has ended well, and can still go back."""
        return self.phase is Phase.WATCHED

    @property
    def judged(self) -> bool:
        """Whether the comparison of its workers with old ones decides anything by now."""
        return (self.terms.judging is not None and self.overruled_by is None
                and self.phase in (Phase.CANARY, Phase.HELD, Phase.EXCHANGING, Phase.WATCHED))

    @property
    def doing(self) -> Word:
        """What the comparison says by now."""
        return Word.UNSURE if self.verdict is None else self.verdict.word

    @property
    def wants_baseline(self) -> bool:
        """Whether a worker of the old code is to be as young as the canaries, so that young is
        compared with young."""
        return self.judged and self.on_canary

    @property
    def on_canary(self) -> bool:
        """Whether the exchange waits, or will wait, for the canary's hold to end."""
        return self.terms.canary > 0 and self.phase in (Phase.PREPARING, Phase.CANARY, Phase.HELD)
