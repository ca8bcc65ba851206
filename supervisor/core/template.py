"""A template: the process of a generation from which its workers are forked. Data without any
behaviour.

    state      fact              next state
    gone       TemplateStarted   starting
    starting   TemplateReady     ready
    ready      TemplateMissing   gone    (it has what must not be forked)
    any        TemplateRetired   leaving
    leaving    TemplateGone      - (forgotten; so is one whose generation nobody needs)
    others     TemplateGone      gone (another one is made, if its generation is still wanted)
"""

from __future__ import annotations

import enum

from ...shared.frozen import dataclass

# How long one has to read its settings; to leave, with its last hook; to fork a worker.
START_SECONDS, LEAVE_SECONDS, FORK_SECONDS = 30.0, 30.0, 10.0
DEATHS_BEFORE_SILENCE = 2


class TemplateState(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Template:
    """`since`: when it came into its state, `not_before`: when another one may be made, in
    monotonic seconds. `deaths`: how many in a row have ended that nobody had asked to. `told`: it
    knows that everything is open, and that it is the only one (gunicorn's when_ready). `killed`:
    why it was, if so. `patience`: how many seconds it has to leave. `preloaded`: it has imported
    the app, in `import_seconds`. `forks`: how many workers it has made."""

    generation: int
    state: TemplateState
    pid: int = 0
    since: float = 0.0
    deaths: int = 0
    not_before: float = 0.0
    told: bool = False
    killed: str | None = None
    patience: float = LEAVE_SECONDS
    preloaded: bool = False
    import_seconds: float = 0.0
    forks: int = 0

    @property
    def may_be_told(self) -> bool:
        """Whether it is to be told. Where some have died one after the other, that may be what they
        died of, and workers are needed more."""
        return (self.state is TemplateState.READY and not self.told
                and self.deaths < DEATHS_BEFORE_SILENCE)
