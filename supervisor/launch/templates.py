"""The templates of the generations that are in use: asked for workers, heard, made again when one
dies. It decides nothing: whether another one is made, or one leaves, is the planner's to say.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...worker import template_messages
from ..core import facts, template_facts
from ..core.facts import how_it_ended
from ..core.generation import Recipe
from ..core.template import LEAVE_SECONDS, TemplateState
from ..logs.output import LAST_LINES
from ..reporting.events import Entry, Event
from ..system.attributes import Attributes
from ..system.ledger import Ledger
from ..system.loop import Loop
from ..system.own_code import OwnCode
from ..system.part import Keep, Part, State
from ..system.processes import Exit, Processes
from . import bundle
from .asking import Answer, Asking, Question
from .channel import Channel
from .prepared import Generations
from .programs import Program, program_of
from .recipes import again
from .recognition import Gunicorn, Refused
from .template import Fork, Imported, KeptTemplate, Template, imported

# After its death, whoever it was just forking has so many seconds to say so.
LAST_WORDS = 2.0
# How often is tried again what the kernel doesn't take yet.
HELD_SECONDS = 0.05
# One that has nothing more to do leaves within so many seconds.
WITHOUT_HOOK_SECONDS = 3.0
COULD_NOT_IMPORT = "could not import the app"


class Templates(Part):
    """`attributes`: of the workers. `workers`: N, where it isn't gunicorn's to say. `warm_up`: what
    an app is to answer that a template has imported. `variables`: what the processes of a
    generation are given beside its environment."""

    name = "templates"
    keeps = {"templates": Keep(tuple[KeptTemplate, ...], ())}

    def __init__(self, ledger: Ledger, generations: Generations, processes: Processes, loop: Loop,
                 attributes: Attributes, workers: int | None, warm_up: Sequence[str],
                 variables: Callable[[int, Mapping[str, str]], Mapping[str, str]],
                 own_code: OwnCode) -> None:
        self._ledger = ledger
        self._generations = generations
        self._processes = processes
        self._loop = loop
        self._attributes = attributes
        self._workers = workers
        self._warm_up = warm_up
        self.variables = variables
        self._fresh = True
        self._again_at = 0.0
        self._all: list[Template] = []
        self.bundle = bundle.make(own_code)

    # --- which there are ---

    def adopt(self, generation: int, answer: Answer | None) -> int:
        """Take over the one that a generation was prepared with; return its pid, 0 if there is
        none."""
        if answer is None:
            return 0
        template = Template(generation, answer.channel.pid, answer.pid, answer.channel)
        self._all.append(template)
        self._hear(template)
        return template.pid

    def settle(self, generation: int) -> None:
        """Tell it what it is given beside its environment, where that wasn't known before, and have
        it import the app where it preloads that."""
        known = self._ledger.pool.generations[generation]
        variables = self.variables(generation, known.recipe.environment)
        if known.preloads:
            self.send(generation, template_messages.import_app(variables))
        elif variables:
            self.send(generation, template_messages.environment(variables))

    def start(self, generation: int) -> int:
        """Make another one, of what the one before has read; return its pid.

        Raises:
            Refused: it can't be started.
        """
        recipe = self._recipe(generation)
        start = self._generations.prepared[generation].gunicorn or program_of(recipe)
        template = Template(generation, 0)
        template.asking = Asking(self._processes, self._loop, self._attributes, self.bundle,
                                 lambda result: self._answered(template, start, result))
        template.pid = template.asking.begin(again(Question(
            generation, start, recipe.directory, recipe.environment,
            self.variables(generation, recipe.environment), recipe.release, workers=self._workers,
            warm_up=self._warm_up), recipe))
        self._all.append(template)
        return template.pid

    def _answered(self, template: Template, start: Gunicorn | Program,
                  result: Answer | Refused) -> None:
        template.asking = None
        if isinstance(result, Refused):
            known = self._ledger.pool.templates.get(template.generation)
            if result.error is not None or known is None or known.killed is None:
                template.error, template.lines = result.error or str(result), result.lines
            if result.error is not None and isinstance(start, Program):
                template.failed = COULD_NOT_IMPORT
            return  # its exit follows
        template.own_pid, template.channel = result.pid, result.channel
        self._hear(template)
        generation = self._ledger.pool.generations.get(template.generation)
        if generation is not None and generation.preloads:
            self.settle(template.generation)
        else:
            self._ledger.observe(template_facts.TemplateReady(template.generation))

    def _imported(self, template: Template, result: Imported | None) -> None:
        known = self._ledger.pool.templates.get(template.generation)
        if (result is not None and known is not None and template.gone is None
                and known.state is TemplateState.STARTING):
            self._ledger.observe(template_facts.TemplateReady(
                template.generation, result.seconds, result.findings))

    def _of(self, generation: int) -> Template | None:
        return next((each for each in self._all
                     if each.generation == generation and each.gone is None), None)

    def _recipe(self, generation: int) -> Recipe:
        return self._ledger.pool.generations[generation].recipe

    def own_pids(self) -> Mapping[int, int]:
        """By generation: the pid of the template itself, as far as it is known."""
        return {each.generation: each.own_pid or each.pid
                for each in self._all if each.gone is None}

    def hear(self) -> None:
        """Read what they have said by now of those whom they fork."""
        for template in list(self._all):
            if template.forks and template.channel is not None:
                template.channel.read()

    @property
    def busy(self) -> bool:
        """Whether one is starting or forking: the next master could not hear what comes of it."""
        return any(each.busy for each in self._all)

    # --- what it is asked ---

    def fork(self, generation: int, fork: Fork, message: bytes, descriptors: Sequence[int]) -> None:
        """Ask for a worker.

        Raises:
            OSError: that can't be asked.
        """
        template = self._of(generation)
        if template is None or template.channel is None:
            raise RuntimeError(f"no template of generation {generation}")
        template.channel.send(message, descriptors)
        template.forks[fork.worker] = fork

    def send(self, generation: int, message: bytes, descriptors: Iterable[int] = ()) -> None:
        """Say something to the one of a generation, where it is there."""
        template = self._of(generation)
        if template is not None:
            template.send(message, descriptors)

    def retire(self, generation: int, on_exit: bool) -> float:
        """Ask it to leave, after gunicorn's on_exit if so; return how many seconds that may
        take."""
        template = self._of(generation)
        if template is not None and template.asking is not None:
            template.asking.cancel()
        self.send(generation, template_messages.leave(on_exit))
        prepared = self._generations.prepared.get(generation)
        hooks = (prepared.gunicorn.settings["hooks"]
                 if prepared is not None and prepared.gunicorn is not None else ())
        return LEAVE_SECONDS if on_exit and "on_exit" in hooks else WITHOUT_HOOK_SECONDS

    def replace(self, generation: int) -> None:
        """End it at once, and say that there is none; its workers don't need it."""
        template = self._of(generation)
        if template is not None:
            self._drop(template)

    def kill(self, generation: int) -> None:
        template = self._of(generation)
        if template is not None:
            template.kill(self._processes)

    # --- what it says ---

    def _hear(self, template: Template) -> None:
        assert template.channel is not None
        template.channel.open(lambda message: self._heard(template, message))

    def _heard(self, template: Template, message: dict[str, Any] | None) -> None:
        if message is None:
            known = self._ledger.pool.templates.get(template.generation)
            if template.gone is None and (known is None or (
                    known.state is not TemplateState.LEAVING and known.killed is None)):
                # It is about to end; or a configuration has closed what it doesn't know.
                template.deaf_until = time.monotonic() + LAST_WORDS
            self._fail_forks(template)
            self._forget_if_over(template)
            return
        match message.get("say"):
            case "forked":
                self._forked(template, message["worker"], message["pid"])
            case "imported":
                self._imported(template, imported(message))
            case "not_imported":
                template.failed, template.error = COULD_NOT_IMPORT, message["error"]
                template.lines = tuple(map(str, message.get("lines", ())))[-LAST_LINES:]
            case "cannot":
                asked = template.forks.get(message["worker"])
                if asked is not None:
                    self._not_forked(template, asked, message["why"])
            case "hook":
                self._ledger.log(Entry(Event.HOOK_FAILED, {
                    "hook": message["name"], "reason": "raised", "last_line": message["error"]}))

    def _forked(self, template: Template, worker: int, pid: int) -> None:
        fork = template.forks.pop(worker, None)
        if fork is None or not self._processes.adopt(pid):
            return  # said twice, or by somebody who has no child
        self._ledger.observe(facts.Forked(worker, pid))
        fork.done(pid)

    def _fail_forks(self, template: Template) -> None:
        """It has ended: whoever was to be forked would have said so before."""
        for fork in list(template.forks.values()):
            self._not_forked(template, fork, None)

    def _not_forked(self, template: Template, fork: Fork, why: str | None) -> None:
        template.forks.pop(fork.worker, None)
        fork.done(None)
        self._ledger.observe(facts.NotForked(fork.worker, why))

    # --- how it ends ---

    def on_exit(self, exit: Exit) -> bool:
        template = next((each for each in self._all if each.pid == exit.pid), None)
        if template is None:
            return False
        if template.asking is not None:
            template.asking.on_exit(exit)
        template.end_own(self._processes)
        if exit.error is not None:
            template.error = exit.error
        template.gone = (template.failed or how_it_ended(exit.status),
                         time.monotonic() + LAST_WORDS)
        if template.channel is not None:
            template.channel.read()
        self._forget_if_over(template)
        return True

    def _forget_if_over(self, template: Template) -> None:
        if template.gone is None or template not in self._all or (
                template.channel is not None and not template.channel.ended):
            return
        self._all.remove(template)
        self._fail_forks(template)
        if template.generation in self._ledger.pool.templates:
            self._ledger.observe(template_facts.TemplateGone(
                template.generation, template.gone[0], template.error, template.lines))

    @property
    def deadline(self) -> float | None:
        if self._fresh:
            return 0.0
        ends = [each.gone[1] for each in self._all if each.gone is not None]
        ends += [each.deaf_until for each in self._all
                 if each.deaf_until is not None and each.gone is None]
        if any(each.held for each in self._all):
            ends.append(self._again_at)
        return min(ends, default=None)

    def on_time(self, now: float) -> None:
        if self._fresh:
            self._fresh = False
            self._end_those_of_other_versions()
            self._look_for_missing()
        self._look_for_unknown()
        if now >= self._again_at:
            self._again_at = now + HELD_SECONDS
            for template in self._all:
                if template.channel is not None and template.channel.held:
                    template.channel.go_on()
        for template in list(self._all):
            if template.gone is None and template.deaf_until is not None and (
                    now >= template.deaf_until):
                template.deaf_until = None
                self._kill_deaf(template)
            if template.gone is not None and now >= template.gone[1] and template.channel:
                template.channel.close()
                self._heard(template, None)

    def _kill_deaf(self, template: Template) -> None:
        if template.generation in self._ledger.pool.templates:
            self._ledger.observe(template_facts.TemplateKilled(
                template.generation, "hears the master no more"))
        template.kill(self._processes)

    def _end_those_of_other_versions(self) -> None:
        """One speaks as the master that has made it, which may have been of another version of
        ours. Its workers don't need it."""
        for template in list(self._all):
            known = self._ledger.pool.templates.get(template.generation)
            if (template.version != template_messages.VERSION and template.channel is not None
                    and known is not None and known.state is TemplateState.READY):
                self._ledger.log(Entry(Event.TEMPLATE_KILLED, {
                    "generation": template.generation, "pid": template.pid,
                    "reason": f"speaks version {template.version} of the messages, and this master "
                    f"{template_messages.VERSION}: another one is made"}))
                self._drop(template)

    def _drop(self, template: Template) -> None:
        self._all.remove(template)
        template.close(self._processes)
        self._ledger.observe(template_facts.TemplateMissing(template.generation))

    def _look_for_missing(self) -> None:
        """Earlier versions had none."""
        pool = self._ledger.pool
        for number, prepared in self._generations.prepared.items():
            generation = pool.generations.get(number)
            forks = prepared.gunicorn is not None or (
                generation is not None and generation.recipe.program_forks)
            if forks and generation is not None and number not in pool.templates:
                self._ledger.observe(template_facts.TemplateMissing(number))

    def _look_for_unknown(self) -> None:
        """One whose end nobody saw, as the master was replaced, must not be waited for."""
        for number, template in self._ledger.pool.templates.items():
            if template.state is not TemplateState.GONE and all(
                    each.generation != number for each in self._all):
                self._ledger.observe(template_facts.TemplateGone(number, "was gone"))

    def hand_over(self) -> dict[str, Any]:
        return {"templates": [
            {"generation": each.generation, "pid": each.pid, "own_pid": each.own_pid,
             "fd": each.channel.connection.fileno(), "version": each.version}
            for each in self._all if each.channel is not None and not each.channel.ended]}

    def take_over(self, state: State) -> None:
        kept: tuple[KeptTemplate, ...] = state["templates"]
        for each in kept:
            channel = Channel(self._loop, socket.socket(fileno=each.fd), each.pid)
            template = Template(each.generation, each.pid, each.own_pid, channel,
                                 version=each.version)
            self._all.append(template)
            self._hear(template)

    def close(self) -> None:
        for template in self._all:
            template.close(self._processes)
        self._all.clear()
        os.close(self.bundle)
