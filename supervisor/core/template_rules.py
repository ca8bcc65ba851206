"""Which templates there should be: the planner's rules about them. Pure.

One is there for every generation that workers may yet be started of, or that has workers: its
hooks are told of their ends. None leaves before; one that is told of everything being open
(when_ready) is the only one, so that what it holds then, a port for instance, was given back.
"""

from __future__ import annotations

from collections.abc import Collection

from .actions import (
    Action,
    KillTemplate,
    ReplaceTemplate,
    RetireTemplate,
    StartTemplate,
    TellTemplate,
)
from .bookkeeping import needed
from .pool import Pool, Stopping
from .template import FORK_SECONDS, START_SECONDS, Template, TemplateState
from .view import View


def forks(pool: Pool, generation: int) -> bool:
    """Whether the workers of this generation are forked from a template."""
    return generation in pool.templates and not _no_more_forks(pool, generation)


def can_fork(pool: Pool, generation: int) -> bool:
    """Whether a worker of this generation can be started now; one without a template always."""
    template = pool.templates.get(generation)
    if template is None or _no_more_forks(pool, generation):
        return True
    return (template.state is TemplateState.READY and template.killed is None
            and not _unsafe(pool, template))


def _unsafe(pool: Pool, template: Template) -> bool:
    """Whether it has imported an app whose workers are to import it themselves."""
    known = pool.generations.get(template.generation)
    return template.preloaded and known is not None and known.separate


def _no_more_forks(pool: Pool, generation: int) -> bool:
    """Whether workers are started by the command, which would have been the template."""
    known = pool.generations.get(generation)
    return known is not None and known.recipe.program_forks and known.separate


def overdue(pool: Pool, view: View, now: float) -> list[Action]:
    """Who takes too long for what it was asked."""
    found: list[Action] = []
    for template in pool.templates.values():
        reason = None if template.killed else _hangs(pool, view, template, now)
        if reason is not None:
            found.append(KillTemplate(template.generation, reason))
    return found


def _hangs(pool: Pool, view: View, template: Template, now: float) -> str | None:
    begun = pool.since(template.since)
    match template.state:
        case TemplateState.STARTING:
            known = pool.generations.get(template.generation)
            preloads = known is not None and known.preloads
            patience = pool.policy.ready_timeout if preloads else START_SECONDS
            if view.past(begun + patience, now):
                what = "read its settings" if not preloads else "import the app" if not (
                    known and known.recipe.program_forks) else "say that it can fork"
                return f"did not {what} within {patience:g} s"
        case TemplateState.LEAVING:
            if pool.stopping is Stopping.NOW or view.past(begun + template.patience, now):
                return f"did not leave within {template.patience:g} s"
        case TemplateState.READY:
            patience = min(FORK_SECONDS, pool.policy.ready_timeout)
            asked = [worker.spawned_at for worker in pool.workers.values()
                     if not worker.pid and worker.generation == template.generation]
            if asked and view.past(pool.since(min(asked)) + patience, now):
                return f"forked no worker within {patience:g} s"
        case TemplateState.GONE:
            pass
    return None


def due(pool: Pool, view: View, now: float, wanted: Collection[int]) -> list[Action]:
    """`wanted`: the generations of which workers may be started."""
    gone = [template for number in wanted
            if (template := pool.templates.get(number)) is not None
            and template.state is TemplateState.GONE and not _no_more_forks(pool, number)]
    starts: list[Action] = [StartTemplate(template.generation) for template in gone
                            if view.past(template.not_before, now)]
    if starts:
        return starts
    unsafe: list[Action] = [
        ReplaceTemplate(number) for number, template in pool.templates.items()
        if template.state is TemplateState.READY and _unsafe(pool, template)
        and not _no_more_forks(pool, number)]
    if unsafe:
        return unsafe
    useful = {number for number in needed(pool) if not _no_more_forks(pool, number)}
    leaves: list[Action] = [
        RetireTemplate(number) for number, template in pool.templates.items()
        if number not in useful and template.state in (TemplateState.STARTING, TemplateState.READY)]
    return leaves


def tell(pool: Pool) -> list[Action]:
    """Before the first worker, as gunicorn does it; later when nobody is missing, since what it
    does then may take its time, or its life."""
    current = pool.templates.get(pool.current)
    if (current is not None and current.may_be_told and pool.running_upgrade is None
            and len(pool.templates) == 1 and (pool.live >= pool.target or not pool.ever_ready)):
        return [TellTemplate(pool.current)]
    return []


def stop(pool: Pool) -> list[Action]:
    """The workers are gone, and the master goes too."""
    return [RetireTemplate(number) for number, template in pool.templates.items()
            if template.state in (TemplateState.STARTING, TemplateState.READY)]


def all_gone(pool: Pool) -> bool:
    return all(template.state is TemplateState.GONE for template in pool.templates.values())
