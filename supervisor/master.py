"""The master: facts in, pool observed, plan made, actions carried out. The only wiring; it holds no policy.

Whatever happens reaches `observe` as a fact; whatever is done is something that `plan` asked for. Only this module
does both, and it does nothing in between that could wait.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

from ..control.protocol import BadRequest, Request, failure
from ..control.server import Server
from ..control.server import Session as ServerSession
from . import contract, journal, listeners, planner, pool, recipes, report, watch
from .commands import Audience, Commands
from .journal import Entry
from .loop import Loop
from .place import NoPlace, Place, claim, remove_pidfile, write_pidfile
from .processes import CannotStart, Launch, Processes
from .readiness import Notice, NotifySocket
from .settings import Settings

VERSION = "0.1.0"
SIGNALS = [
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN,
    signal.SIGTTOU, signal.SIGCHLD,
]
STOPS = {signal.SIGINT: "graceful", signal.SIGUSR2: "graceful", signal.SIGTERM: "terminate", signal.SIGQUIT: "now"}
# Starting a process takes a few milliseconds; after this long in one go the rest of the loop has its turn.
LONGEST_TURN = 0.05
HOOK_TIMEOUT = 30.0


class CannotRun(RuntimeError):
    """The master can't start; the message is one line, `code` the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Master:
    """One app's master. `run` returns the exit code of the process."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self._environ = dict(environ)
        self._started_at = time.monotonic()
        self._loop = Loop(SIGNALS)
        self._processes = Processes()
        self._most_sessions = max(16, self._processes.raise_descriptor_limit() // 2)
        self._page = watch.Page()
        self._audience = Audience()
        self._prepared: dict[int, recipes.Prepared] = {}
        self._preparation: recipes.Preparation | None = None
        self._preparing = 0
        self._workers: dict[int, int] = {}  # pid → worker
        self._next_worker = 1
        self._hooks: dict[int, float] = {}  # pid → deadline
        self._listeners: list[listeners.Listener] = []
        self._wake_at: float | None = self._started_at  # the first plan is due at once
        self._changed = False
        self._exit_code: int | None = None
        self._name = settings.command_name
        self._log = journal.Log(2)
        self._place: Place | None = None
        self._notify: NotifySocket | None = None
        self._server: Server | None = None
        self._pidfile: str | None = None
        self._pool: pool.Pool

    # --- starting and ending ---

    def run(self) -> int:
        """Start, run until stopped, clean up; return the exit code: 0 after an asked-for stop, 3 when no worker ever
        became ready.

        Raises:
            CannotRun: the master can't start.
        """
        try:
            if not self._start():
                return 0
            while self._exit_code is None:
                self._turn()
            return self._exit_code
        except (listeners.CannotListen, listeners.BadAddress, NoPlace, recipes.Refused) as error:
            detail = getattr(error, "error", None)
            code = 2 if getattr(error, "bad_input", False) else 1
            raise CannotRun(f"{error}: {detail}" if detail else str(error), code) from None
        finally:
            self._clean_up()

    def _start(self) -> bool:
        settings = self.settings
        first = self._prepare_first()
        if first is None:
            return False
        gunicorn = first.gunicorn.settings if first.gunicorn is not None else {}
        if gunicorn.get("proc_name") and not settings.given("command_name"):
            self._name = "".join(letter if letter.isalnum() else "_" for letter in gunicorn["proc_name"])[:64]
        self._place = claim(self._name, settings.socket_path, self._environ)
        binds = list(settings.bind)
        if not binds and gunicorn:
            binds = [recipes.bind_of(bind, gunicorn) for bind in gunicorn["bind"]]
        self._listeners = listeners.open_all([listeners.parse_address(bind) for bind in binds])
        pidfile = settings.pidfile or gunicorn.get("pidfile")
        if pidfile:
            write_pidfile(pidfile)
            self._pidfile = pidfile
        self._notify = NotifySocket(self._loop, self._place.notify_path, self.notice)
        target = self._target_of(first) or settings.number
        policy = pool.Policy(settings.max_surge, settings.ready_timeout, settings.min_ready_seconds,
                             settings.max_failures)
        self._pool = pool.new_pool(first.recipe, target, policy)
        self._prepared[1] = first
        self._server = Server(self._loop, self._place.listener, self._handle, os.geteuid(), self._most_sessions)
        self._commands = Commands(self, self._audience)
        _set_title(f"einhornpy: master {self._name}")
        self._say_how_it_started(first, gunicorn)
        self._run_hook(first, "when_ready", [])
        return True

    def _prepare_first(self) -> recipes.Prepared | None:
        """Make the first generation; None if we were told to stop meanwhile."""
        results: list[recipes.Prepared | recipes.Refused] = []
        preparation = recipes.Preparation(self._processes, self._loop, self.settings, self.settings.release,
                                          self._environ, results.append)
        preparation.begin(time.monotonic(), "on_starting")
        while not results:
            left = None if preparation.deadline is None else preparation.deadline - time.monotonic()
            if self._loop.wait(left) & STOPS.keys():
                preparation.cancel()
                return None
            for exit in self._processes.reap():
                if exit.pid == preparation.pid:
                    preparation.on_exit(exit)
            preparation.on_time(time.monotonic())
        if isinstance(results[0], recipes.Refused):
            raise results[0]
        return results[0]

    def _say_how_it_started(self, first: recipes.Prepared, gunicorn: Mapping[str, Any]) -> None:
        assert self._place is not None
        self.log(Entry("master started", {
            "pid": os.getpid(), "version": VERSION, "workers": self._pool.target,
            "listen": " ".join(listener.name for listener in self._listeners) or None, "socket": self._place.path,
        }))
        if first.guessed:
            self.log(Entry("readiness is a guess", {
                "reason": f"nothing is known about how {self.settings.command[0]} says that it is ready",
                "so": f"it counts as ready after {recipes.GUESSED_ACK_SECONDS:g} s",
                "better": "-m notify or -m manual, or -m SECONDS",
            }, journal.ATTENTION))
        overruled = [
            f"{theirs} (--{ours.replace('_', '-')} wins)" for ours, theirs in (
                ("bind", "bind"), ("number", "workers"), ("timeout", "timeout"),
                ("graceful_timeout", "graceful_timeout"), ("pidfile", "pidfile"), ("command_name", "proc_name"))
            if first.gunicorn is not None and first.gunicorn.given(theirs) and self.settings.given(ours)
        ]
        if overruled:
            self.log(Entry("gunicorn settings overruled", {"settings": ", ".join(overruled)}))
        self._say_what_is_ignored(first)

    def _say_what_is_ignored(self, prepared: recipes.Prepared) -> None:
        if prepared.gunicorn is not None and prepared.gunicorn.settings["max_requests"]:
            self.log(Entry("gunicorn setting ignored", {
                "setting": "max_requests", "reason": "workers are not recycled by count yet"}, journal.ATTENTION))

    def _clean_up(self) -> None:
        if self._preparation is not None:
            self._preparation.cancel()
        for pid in self._hooks:
            self._processes.signal(pid, signal.SIGKILL, group=True)
        if self._server is not None:
            self._server.close()
        if self._notify is not None:
            self._notify.close()
        listeners.close_all(self._listeners)
        if self._place is not None:
            self._place.listener.close()
            self._place.close()
        if self._pidfile is not None:
            remove_pidfile(self._pidfile)
        self._page.close()
        self._processes.close()
        self._loop.close()

    # --- the turn: wait, note what happened, plan, act ---

    def _turn(self) -> None:
        now = time.monotonic()
        deadlines = [*self._hooks.values()]
        if self._wake_at is not None:
            deadlines.append(self._wake_at)
        if self._preparation is not None and self._preparation.deadline is not None:
            deadlines.append(self._preparation.deadline)
        soonest = min(deadlines, default=None)
        for number in sorted(self._loop.wait(None if soonest is None else soonest - now)):
            self._on_signal(number)
        now = time.monotonic()
        if self._preparation is not None:
            self._preparation.on_time(now)
        for pid, deadline in list(self._hooks.items()):
            if now >= deadline:
                self._processes.signal(pid, signal.SIGKILL, group=True)
                self._hooks[pid] = now + HOOK_TIMEOUT
                self.log(Entry("hook killed", {"pid": pid, "after": f"{HOOK_TIMEOUT:g}s"}, journal.ATTENTION))
        self._look_at_heartbeats(now)
        self._advance(now + LONGEST_TURN)
        if self._changed:
            self._changed = False
            self._audience.status_changed(self.status)

    def _advance(self, until: float) -> None:
        """Plan and act until nothing is due, or until `until`; then the loop comes first and the rest follows."""
        while self._exit_code is None:
            # Deaths first: a worker must not be asked to go because of another one that is dead already.
            self._reap()
            plan = planner.plan(self._pool, time.monotonic())
            self._wake_at = plan.wake_at
            if not plan.actions:
                return
            for action in plan.actions:
                if not self._carry_out(action):
                    break
                if time.monotonic() >= until:
                    self._wake_at = until
                    return

    def _observe(self, event: pool.Event) -> None:
        before, now = self._pool, time.monotonic()
        self._pool = pool.observe(before, event, now)
        if isinstance(event, pool.Heartbeat):
            return
        self._changed = True
        for entry in journal.changes(before, event, self._pool, now):
            self.log(entry)

    def log(self, entry: Entry) -> None:
        """Write an entry to the log and tell everybody who follows."""
        wall = time.time()
        least = journal.ATTENTION if self.settings.quiet else journal.DETAIL if self.settings.verbose else journal.NORMAL
        if entry.weight >= least:
            self._log.write(journal.text_line(entry, self._name, wall))
        if entry.weight > journal.DETAIL:
            upgrade = self._pool.upgrade
            ended = None
            if entry.name == "upgrade ended" and upgrade is not None:
                ended = report.upgrade_document(self._pool, upgrade, time.monotonic())
            self._audience.tell(entry, journal.event_document(entry, self._pool, wall), ended)

    # --- facts ---

    def _on_signal(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGHUP:
                if self._pool.stopping is None:
                    self.request_upgrade("rolling", None, "signal HUP")
            case signal.SIGINT | signal.SIGTERM | signal.SIGUSR2 | signal.SIGQUIT:
                # The second time somebody is in a hurry.
                self.stop("now" if self._pool.stopping is not None else STOPS[number])
            case signal.SIGUSR1:
                # One that is still starting may not have its handler yet, and would die of it.
                self._signal_all(signal.SIGUSR1, only_ready=True)
            case signal.SIGTTIN:
                self.scale(self._pool.target + 1)
            case signal.SIGTTOU:
                if self._pool.target > 1:
                    self.scale(self._pool.target - 1)
                else:
                    self.log(Entry("signal ignored", {"signal": "TTOU", "reason": "one worker is the least"}))

    def _reap(self) -> None:
        for exit in self._processes.reap():
            worker = self._workers.pop(exit.pid, None)
            if worker is not None:
                age, generation = self._pool.workers[worker].index + 1, self._pool.workers[worker].generation
                self._observe(pool.Exited(worker, exit.status, exit.error))
                self._page.give_back(worker)
                self._run_hook(self._prepared[generation], "child_exit", [[exit.pid, age]])
            elif self._preparation is not None and exit.pid == self._preparation.pid:
                self._preparation.on_exit(exit)
            elif self._hooks.pop(exit.pid, None) is not None and exit.status != 0:
                self.log(Entry("hook failed", {"pid": exit.pid, "status": exit.status}, journal.ATTENTION))
        needed = {*self._pool.generations, self._preparing}
        self._prepared = {number: each for number, each in self._prepared.items() if number in needed}

    def notice(self, notice: Notice) -> None:
        """A process said something about itself."""
        # Its words may arrive with its death, and a notice from nobody we know is nobody's.
        worker = self._workers.get(notice.pid)
        if worker is None:
            return
        match notice.said:
            case "ready":
                self._observe(pool.SaidReady(worker))
                if self._prepared[self._pool.workers[worker].generation].gunicorn is not None:
                    self._observe(pool.Heartbeat(worker, time.monotonic()))
            case "alive":
                self._observe(pool.Heartbeat(worker, time.monotonic()))
            case "failed":
                self._observe(pool.SaidFailed(worker, notice.error or ""))

    def _look_at_heartbeats(self, now: float) -> None:
        """When some heartbeat seems too old, look at all of them: the next look is then due for all at once."""
        watched = [
            worker for worker in self._pool.workers.values()
            if worker.heartbeat_at is not None and worker.state is pool.State.READY
        ]
        generations = self._pool.generations
        if any(0 < generations[worker.generation].recipe.timeout <= now - (worker.heartbeat_at or 0)
               for worker in watched):
            for worker in watched:
                at = self._page.heartbeat(worker.id)
                if at is not None and at > (worker.heartbeat_at or 0):
                    self._observe(pool.Heartbeat(worker.id, at))

    # --- actions ---

    def _carry_out(self, action: planner.Action) -> bool:
        """Do it and observe that it was done; return whether the rest of the plan still holds."""
        match action:
            case planner.Spawn():
                return self._spawn(action)
            case planner.AssumeReady():
                self._observe(pool.SaidReady(action.worker))
            case planner.Retire():
                number = "SIGTERM" if self._pool.stopping == "terminate" else self.settings.stop_signal
                self._processes.signal(self._pool.workers[action.worker].pid, signal.Signals[number])
                self._observe(pool.Retired(action.worker, action.reason))
            case planner.Kill():
                self._processes.signal(self._pool.workers[action.worker].pid, signal.SIGKILL, group=True)
                self._observe(pool.Killed(action.worker, action.reason))
            case planner.RollBack():
                self._observe(pool.RolledBack(action.reason, action.error))
            case planner.Finish():
                self._observe(pool.Finished(time.time()))
            case planner.GiveUp():
                self.log(Entry("giving up", {"reason": action.reason, "error": action.error}, journal.ATTENTION))
                self._exit_code = 3
            case planner.Leave():
                self._run_hook(self._prepared[self._pool.current], "on_exit", [])
                self._wait_for_hooks()
                self.log(Entry("master stopped", {"pid": os.getpid()}))
                self._exit_code = 0
        return True

    def _spawn(self, action: planner.Spawn) -> bool:
        assert self._place is not None
        assert self._notify is not None
        generation, prepared = self._pool.generations[action.generation], self._prepared[action.generation]
        worker, self._next_worker = self._next_worker, self._next_worker + 1
        descriptors = [listener.socket.fileno() for listener in self._listeners]
        adapter, command = None, generation.recipe.command
        if prepared.gunicorn is not None:
            page = (contract.FIRST_FD + len(descriptors), self._page.take(worker))
            adapter = recipes.adapter_instructions(prepared, self.settings, self._pool.target, page)
            descriptors.append(self._page.fd)
            command = (prepared.gunicorn.python, recipes.ADAPTER, *prepared.gunicorn.arguments)
        environment = contract.environment(
            generation, index=action.index, master=os.getpid(), control_socket=self._place.path,
            notify_socket=self._notify.path,
            families=[socket.AddressFamily(listener.socket.family).name for listener in self._listeners],
            adapter=adapter,
        )
        farewell = signal.Signals[self.settings.stop_signal] if self.settings.kill_children_on_exit else None
        try:
            pid = self._processes.start(
                Launch(command, generation.recipe.directory, environment, descriptors, farewell))
        except CannotStart as error:
            self._page.give_back(worker)
            self._observe(pool.SpawnFailed(action.index, action.generation, str(error)))
            return False
        self._workers[pid] = worker
        self._observe(pool.Spawned(worker, action.index, action.generation, pid))
        return True

    def _signal_all(self, number: signal.Signals, only_ready: bool = False) -> int:
        return sum(
            self._processes.signal(worker.pid, number) for worker in self._pool.workers.values()
            if worker.state is pool.State.READY or not only_ready
        )

    def _run_hook(self, prepared: recipes.Prepared, name: str, arguments: list[Any]) -> None:
        """Run one of the server hooks that gunicorn's arbiter would have run, in a process of its own."""
        gunicorn = prepared.gunicorn
        if gunicorn is None or name not in gunicorn.settings["hooks"]:
            return
        launch = recipes.hook_launch(prepared, gunicorn, name, arguments, self._pool.target)
        try:
            self._hooks[self._processes.start(launch)] = time.monotonic() + HOOK_TIMEOUT
        except CannotStart as error:
            self.log(Entry("hook failed", {"hook": name, "error": str(error)}, journal.ATTENTION))

    def _wait_for_hooks(self) -> None:
        """Let the last hooks finish; whoever asks us to stop once more doesn't want to wait for them."""
        deadline = time.monotonic() + HOOK_TIMEOUT
        while self._hooks and time.monotonic() < deadline:
            if self._loop.wait(deadline - time.monotonic()) & STOPS.keys():
                return
            self._reap()

    # --- what commands may ask ---

    def _handle(self, session: ServerSession, request: Request) -> None:
        try:
            self._commands.handle(session, request)
        except BadRequest:
            raise
        except Exception as error:  # a mistake of ours in one command must not take the workers' master down
            traceback.print_exc()
            session.send(failure(request.id, "internal-error", f"{type(error).__name__}: {error}"))

    def identity(self) -> dict[str, Any]:
        assert self._place is not None
        return {"name": self._name, "pid": os.getpid(), "version": VERSION, "socket": self._place.path}

    def status(self) -> dict[str, Any]:
        assert self._place is not None
        waiting = [listeners.queue(listener) for listener in self._listeners]
        return report.status_document(
            self._pool, time.monotonic(), name=self._name, started_at=self._started_at,
            master={"pid": os.getpid(), "version": VERSION, "socket": self._place.path},
            listeners=[
                {"address": listener.name, "fd": contract.FIRST_FD + position, "queue": queue, "backlog": backlog}
                for position, (listener, (queue, backlog)) in enumerate(zip(self._listeners, waiting, strict=True))
            ],
            memory={worker.pid: watch.memory(worker.pid) for worker in self._pool.workers.values()},
        )

    def target(self) -> int:
        return self._pool.target

    def request_upgrade(self, kind: str, release: str | None, requested_by: str) -> int:
        """Begin an upgrade; return the number of its generation.

        Raises:
            BadRequest: the master stops.
        """
        if self._pool.stopping is not None:
            raise BadRequest("stopping", "the master stops: no upgrade begins any more")
        if self._preparation is not None:
            self._preparation.cancel()
        self._observe(pool.UpgradeRequested(kind, release, requested_by, time.time()))
        number = self._preparing = self._pool.newest
        old = self._prepared[self._pool.current]

        def done(result: recipes.Prepared | recipes.Refused) -> None:
            self._preparation = None
            if isinstance(result, recipes.Refused):
                self._observe(pool.UpgradeRefused(number, str(result), result.error, time.time()))
                return
            self._prepared[number] = result
            target = self._target_of(result)
            changed = target is not None and target != self._target_of(old)
            before = self._pool.target
            self._observe(pool.UpgradePrepared(number, result.recipe, target if changed else None))
            self._say_what_cannot_change(old, result)
            self._say_what_is_ignored(result)
            if changed:
                self._run_hook(result, "nworkers_changed", [target, before])

        self._preparation = recipes.Preparation(self._processes, self._loop, self.settings, release, self._environ, done)
        self._preparation.begin(time.monotonic(), "on_reload")
        return number

    def _target_of(self, prepared: recipes.Prepared) -> int | None:
        """How many workers gunicorn's own settings ask for, where they are the ones that count."""
        gunicorn = prepared.gunicorn
        if gunicorn is None or self.settings.given("number") or not gunicorn.given("workers"):
            return None
        return max(1, int(gunicorn.settings["workers"]))

    def _say_what_cannot_change(self, old: recipes.Prepared, new: recipes.Prepared) -> None:
        if old.gunicorn is None or new.gunicorn is None or self.settings.given("bind"):
            return
        before, after = old.gunicorn.settings["bind"], new.gunicorn.settings["bind"]
        if before != after:
            self.log(Entry("gunicorn setting cannot change", {
                "setting": "bind", "wanted": " ".join(after), "kept": " ".join(before),
                "reason": "the sockets stay open through an upgrade: restart the master to change them",
            }, journal.ATTENTION))

    def scale(self, target: int) -> None:
        old = self._pool.target
        self._observe(pool.Scaled(target))
        self._run_hook(self._prepared[self._pool.current], "nworkers_changed", [target, old])

    def signal_workers(self, name: str) -> int:
        count = self._signal_all(signal.Signals[name])
        self.log(Entry("signal sent", {"signal": name, "workers": count}))
        return count

    def stop(self, how: str) -> None:
        """Stop: `graceful`, `terminate` or `now`; a stop under way can only become faster."""
        if self._pool.stopping in ("now", how):
            return
        if self._preparation is not None:
            self._preparation.cancel()
            self._preparation = None
        self._observe(pool.StopRequested(how))


def _set_title(title: str) -> None:
    import setproctitle  # a readable `ps`; the kernel's own name is cut at 15 bytes

    setproctitle.setproctitle(title)


def fail(message: str, code: int) -> int:
    """Print one line about what went wrong; return the exit code."""
    print(f"einhornpy: {message}", file=sys.stderr)
    return code
