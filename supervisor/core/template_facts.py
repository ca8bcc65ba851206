"""What can happen to the template of a generation, as frozen data: facts like all others
(facts.py), of which `templating.py` makes the next pool."""

from __future__ import annotations

from ...shared.frozen import dataclass
from .generation import Finding


@dataclass(frozen=True, slots=True)
class TemplateMissing:
    """The workers of this generation are forked from a template, and there is none, or none any
    more that could be used."""

    generation: int


@dataclass(frozen=True, slots=True)
class TemplateStarted:
    generation: int
    pid: int


@dataclass(frozen=True, slots=True)
class TemplateReady:
    """It can fork: it has read its settings and, where it preloads, imported the app. `findings`:
    what it has, after that, that isn't safe to fork."""

    generation: int
    import_seconds: float = 0.0
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class TemplateTold:
    """It knows that everything is open, and that it is the only one."""

    generation: int


@dataclass(frozen=True, slots=True)
class TemplateRetired:
    """It was asked to leave, and has so many seconds for it."""

    generation: int
    patience: float


@dataclass(frozen=True, slots=True)
class TemplateKilled:
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class TemplateGone:
    """`reason`: how it ended, as a predicate; `error`: its own word on why, `lines`: the last ones
    of a traceback."""

    generation: int
    reason: str
    error: str | None = None
    lines: tuple[str, ...] = ()


OfTemplate = (TemplateMissing | TemplateStarted | TemplateReady | TemplateTold | TemplateRetired
              | TemplateKilled | TemplateGone)
