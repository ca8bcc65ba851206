"""What becomes of templates and forks: the next pool, for `observe.py` alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from . import facts, template_facts
from .bookkeeping import count_failure, delay_after, needed, with_worker
from .generation import Finding
from .pool import CALM_SECONDS, Pool, State, Worker
from .template import Template, TemplateState
from .upgrade import Impossible


def with_template(pool: Pool, template: Template) -> Pool:
    return replace(pool, templates={**pool.templates, template.generation: template})


def prepared(pool: Pool, generation: int, pid: int, now: float) -> Pool:
    """The pool with the template that a generation was prepared with; pid 0: it has none, or the
    command is one that is yet to be started."""
    if not pid:
        forks = pool.generations[generation].recipe.program_forks
        return with_template(pool, Template(generation, TemplateState.GONE)) if forks else pool
    state = TemplateState.STARTING if preloads(pool, generation) else TemplateState.READY
    return with_template(pool, Template(generation, state, pid, now))


def preloads(pool: Pool, generation: int) -> bool:
    """Whether the template of a generation imports the app."""
    known = pool.generations.get(generation)
    return known is not None and known.preloads


def not_safe(findings: Sequence[Finding]) -> str:
    """Why a release is refused, by what its template has found of itself."""
    first = findings[0]
    since = f", since the import of {first.module}" if first.module else ""
    more = f", and {len(findings) - 1} more (einhornpy status)" if len(findings) > 1 else ""
    return f"the release is not safe to fork: {first.kind} {first.what}{since}{more}"


def observed(pool: Pool, event: template_facts.OfTemplate, now: float) -> Pool:
    """Raises Impossible: there is no such template, or not in such a state."""
    if isinstance(event, template_facts.TemplateMissing):
        return with_template(pool, Template(event.generation, TemplateState.GONE))
    template = pool.templates.get(event.generation)
    if template is None:
        raise Impossible(f"{event}, but there is no such template")
    match event:
        case template_facts.TemplateStarted():
            _expect(event, template, TemplateState.GONE)
            return with_template(pool, replace(
                template, state=TemplateState.STARTING, pid=event.pid, since=now, told=False,
                killed=None, preloaded=False, forks=0))
        case template_facts.TemplateReady():
            _expect(event, template, TemplateState.STARTING)
            return with_template(pool, replace(
                template, state=TemplateState.READY, since=now,
                preloaded=preloads(pool, event.generation),
                import_seconds=event.import_seconds))
        case template_facts.TemplateTold():
            _expect(event, template, TemplateState.READY)
            return with_template(pool, replace(template, told=True))
        case template_facts.TemplateRetired():
            return with_template(pool, replace(
                template, state=TemplateState.LEAVING, since=now, patience=event.patience))
        case template_facts.TemplateKilled():
            return with_template(pool, replace(template, killed=event.reason))
        case template_facts.TemplateGone():
            return _gone(pool, template, event, now)
        case _:
            assert_never(event)


def _expect(event: template_facts.OfTemplate, template: Template, state: TemplateState) -> None:
    if template.state is not state:
        raise Impossible(f"{event}, but it is {template.state}")


def _gone(pool: Pool, template: Template, event: template_facts.TemplateGone, now: float) -> Pool:
    """Its workers go on. One that dies now and then is nobody's failure; one that can't be made,
    hangs, or dies again soon is its generation's."""
    number = template.generation
    if (template.state is TemplateState.LEAVING or pool.stopping is not None
            or number not in needed(pool)):
        return replace(pool, templates={
            key: each for key, each in pool.templates.items() if key != number})
    served = template.state is TemplateState.READY
    calm = served and now - template.since >= CALM_SECONDS
    deaths = 1 if calm else template.deaths + 1
    first = deaths == 1 and served and template.killed is None
    not_before = now if first else now + delay_after(deaths, pool.policy.first_delay)
    pool = with_template(pool, Template(number, TemplateState.GONE, since=now, deaths=deaths,
                                        not_before=not_before))
    if first:
        return pool
    return count_failure(pool, number, template.killed or event.reason, event.error, event.lines,
                         now, who="its template")


def forked(pool: Pool, worker: Worker, event: facts.Forked, now: float) -> Pool:
    """It may be said twice; the first time counts. What its template took for it isn't held against
    the worker, which may serve by now."""
    if worker.pid not in (0, event.pid):
        raise Impossible(f"{event}, but it has pid {worker.pid}")
    template = pool.templates.get(worker.generation)
    if template is not None and not worker.pid:
        pool = with_template(pool, replace(template, forks=template.forks + 1))
    if worker.pid:
        return pool
    return with_worker(pool, replace(worker, pid=event.pid, spawned_at=now))


def not_forked(pool: Pool, worker: Worker, event: facts.NotForked, now: float) -> Pool:
    """It has never been. Without an error its template has died first, which is counted there."""
    if worker.pid:
        raise Impossible(f"{event}, but it has pid {worker.pid}")
    pool = replace(pool, workers={
        key: each for key, each in pool.workers.items() if key != worker.id})
    if event.error is None or worker.state is State.RETIRING or pool.stopping is not None:
        return pool
    return count_failure(pool, worker.generation, f"cannot be forked: {event.error}", event.error,
                         (), now)
