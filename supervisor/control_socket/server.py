"""The control socket inside the master: accepts, checks credentials, frames, and sends without ever
waiting.

It knows no command; each request goes to the one handler that it was given. A client that is slow,
silent, rude or gone costs the others nothing: what it doesn't read is dropped or replaced by
something newer, then it is cut off.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from ...shared import commands, peer, protocol
from ...shared.commands import Who
from ...shared.frozen import dataclass
from ..system.part import Keep, Part, State
from .crowd import Crowd, Kind, Party
from .reserve import Reserve
from .session import READ, KeptSession, Session, polled

# So many lines of one guest, on all his connections, are carried out in one turn.
MOST_OF_A_GUEST = 8
# What accept(2) says where there is no room for one more, and for how many seconds nobody is
# accepted then.
NO_ROOM, REST = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM), 0.25
# So many are accepted before the rest of the loop has its turn, and so many at most before a fork:
# what the queue holds.
AT_ONCE, ALL = 64, 2048


class Loop(Protocol):
    """What the server needs of the master's loop."""

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None: ...
    def unwatch(self, fd: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask what: root and `owner` (a uid) everything, members of `observers` (a gid, or
    None) may look, and a worker may speak for itself. Asked for every request, by the kernel's word
    on who it is: the socket's mode decides only who may connect."""

    owner: int
    observers: int | None = None

    def refusal(self, session: Session, command: str) -> str | None:
        """Why this session may not give this command; None if it may."""
        needed = commands.who_may(command)
        if session.looking_only:
            return None if needed is Who.OBSERVERS else "this connection may look, but not touch"
        if needed is Who.WORKERS:
            return None
        if session.worker_only:
            return "this connection is a worker's own: expected a word of a worker"
        if session.uid in (0, self.owner):
            return None
        if self.observers is None or self.observers not in session.groups():
            return self.stranger(session)
        return None if needed is Who.OBSERVERS else f"user {session.uid} may look, but not touch"

    def stranger(self, session: Session) -> str:
        return f"user {session.uid} may not: expected user {self.owner} or root"

    def may_steer(self, session: Session) -> bool:
        """Whether it may do everything, and so see everything too."""
        return session.uid in (0,
                               self.owner) and not session.looking_only and not session.worker_only

    def allows_something(self, session: Session) -> bool:
        """Whether this session may give any command at all."""
        return (session.worker_only or session.looking_only or session.uid in (0, self.owner)
                or (self.observers is not None and self.observers in session.groups()))


class Server(Part):
    """The listening half; nobody comes before it is open. `worker_of`: the worker that has a pid
    now, 0 if none has; `lives`: whether a worker is still there. `most_sessions`: beyond it one
    that can be spared makes room, see crowd.py. Without a descriptor the one that is kept in
    reserve lets a client in who matters, for whom somebody makes room if anybody can; all others
    are turned away. `failed`: told of an exception that has ended a session. `role_of`: what a
    session waits for, for the next master, whose `resume` lets it wait for that again."""

    name = "server"
    keeps = {"sessions": Keep(tuple[KeptSession, ...], (), needed=True)}

    def __init__(self, loop: Loop, handler: Callable[[Session, protocol.Request], None],
                 access: Access, worker_of: Callable[[int], int], lives: Callable[[int], bool],
                 most_sessions: int, failed: Callable[[str, Exception], None],
                 role_of: Callable[[Session], Mapping[str, Any]] = lambda session: {},
                 resume: Callable[[Session, Mapping[str, Any]], None] = lambda session, role: None,
                 ) -> None:
        self._failed = failed
        self._loop = loop
        self._listener: socket.socket | None = None
        self._role_of = role_of
        self._resume = resume
        self._handler = handler
        self._access = access
        self.worker_of = worker_of
        self._lives = lives
        self._crowd: Crowd[Session] = Crowd(most_sessions, lives)
        self._reserve = Reserve()
        self._rests_until: float | None = None
        self._sessions: dict[Session, None] = {}
        self._with_lines: dict[Session, None] = {}

    def open(self, listener: socket.socket) -> None:
        """Accept whoever comes there, and no longer where it was before: who waits there comes
        first. Who has opened it closes it too."""
        if self._listener is not None:
            self.accept_all()
            self._loop.unwatch(self._listener.fileno())
        self._listener = listener
        listener.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        """Begin to accept, or begin again."""
        listener, self._rests_until = self._listener, None
        if listener is not None:
            self._loop.watch(listener.fileno(), READ, partial(self._accept, listener))

    def hand_over(self) -> dict[str, Any]:
        return {"sessions": [session.hand_over() | {"role": self._role_of(session)}
                             for session in self._sessions]}

    def take_over(self, state: State) -> None:
        kept: tuple[KeptSession, ...] = state["sessions"]
        for each in kept:
            session = Session.taken_over(self, each)
            self._enter(session)
            session.settle()
            self._resume(session, each.role)

    def accept_all(self) -> None:
        """Accept whoever waits, and look who they are."""
        for _ in range(ALL // AT_ONCE):
            if self._listener is None or self._rests_until is not None or not polled(
                    self._listener, select.POLLIN):
                return
            self._accept(self._listener, READ)

    def _accept(self, listener: socket.socket, events: int) -> None:
        for _ in range(AT_ONCE):  # then let the rest of the loop have its turn
            try:
                self._admit(listener.accept()[0])
            except BlockingIOError:
                return
            except OSError as error:
                # The kernel says that there is no room left before it looks whether anybody waits
                # for it.
                if error.errno not in NO_ROOM or not polled(listener, select.POLLIN):
                    return
                if not self._admit_by_reserve(listener):
                    self._rests_until = time.monotonic() + REST
                    self._loop.unwatch(listener.fileno())
                    return
            except Exception as error:
                self._failed("accept", error)

    def _admit_by_reserve(self, listener: socket.socket) -> bool:
        """Let one in with the descriptor that is kept for it; return whether it could be."""
        if not self._reserve.spend():
            return False
        try:
            self._admit(listener.accept()[0], short=True)
        except OSError:
            return False
        finally:
            self._reserve.keep()
        return True

    def _admit(self, connection: socket.socket, short: bool = False) -> None:
        try:
            connection.setblocking(False)
            session = Session(self, connection)
            # Asked in this order: a process that is there after its pid was looked up has been
            # there all the time.
            worker = self.worker_of(session.pid)
            session.worker = worker if worker and not peer.is_gone(connection) else 0
        except Exception:
            connection.close()
            raise
        try:
            self._enter(session)
        except Exception:
            session.close()
            raise
        victim = self._crowd.one_too_many(session, short)
        if victim is not None:
            victim.close()

    def _enter(self, session: Session) -> None:
        self._sessions[session] = None
        if not session.worker_only and not session.looking_only:
            self._crowd.enter(session, self.party(session))
        self.watch(session, READ)

    def party(self, session: Session) -> Party:
        """To whom a session belongs."""
        if session.worker:
            return Party(Kind.WORKER, session.worker)
        return Party(Kind.OWNER, 0) if session.uid in (0, self._access.owner) else Party(
            Kind.GUEST, session.uid)

    @property
    def deadline(self) -> float | None:
        return 0.0 if self.waiting else self._rests_until

    def on_time(self, now: float) -> None:
        """Carry out what waits for its turn; accept again, if it is time to try."""
        try:
            self.on_turn()
        finally:
            if self._rests_until is not None and now >= self._rests_until:
                self._listen()

    def admit_worker(self, connection: socket.socket, pid: int, worker: int) -> None:
        """Serve the connection that a worker was born with: what comes on it is the word of that
        worker, which has this pid."""
        connection.setblocking(False)
        session = Session(self, connection)
        session.pid, session.worker, session.worker_only = pid, worker, True
        self._enter(session)

    def admit_onlooker(self, connection: socket.socket) -> None:
        """Serve a connection of our own sidecar's."""
        connection.setblocking(False)
        session = Session(self, connection)
        session.looking_only = True
        self._enter(session)

    def sessions(self) -> list[Session]:
        """All of them, the one that spoke last at the end."""
        return list(self._sessions)

    def watch(self, session: Session, events: int) -> None:
        if events:
            self._loop.watch(session.fileno(), events, session.on_event)
        else:
            self._loop.unwatch(session.fileno())

    def has_lines(self, session: Session, some: bool) -> None:
        """Note whether lines of this session wait for their turn."""
        if some:
            self._with_lines[session] = None
        else:
            self._with_lines.pop(session, None)

    @property
    def waiting(self) -> bool:
        """Whether `on_turn` has something to do."""
        return bool(self._with_lines)

    def on_turn(self) -> None:
        """Carry out one waiting line of each session, and a few of each guest."""
        heard: Counter[int] = Counter()
        for session in list(self._with_lines):
            if session in self._with_lines:
                party = self.party(session)
                if party.kind is Kind.GUEST:
                    heard[party.number] += 1
                    if heard[party.number] > MOST_OF_A_GUEST:
                        continue
                self._with_lines.pop(session)  # behind the others, if there is more
                session.dispatch_one()

    def may_steer(self, session: Session) -> bool:
        return self._access.may_steer(session)

    def is_stranger(self, session: Session) -> bool:
        """Whether nothing that this session could say would be listened to."""
        return not self._access.allows_something(session) and not self._lives(session.worker)

    def forget(self, session: Session) -> None:
        self._loop.unwatch(session.fileno())
        self._sessions.pop(session, None)
        self._with_lines.pop(session, None)
        self._crowd.leave(session)
        if self._rests_until is not None:
            self._listen()

    def dispatch(self, session: Session, line: bytes) -> None:
        self._sessions.pop(session, None)
        self._sessions[session] = None  # the one that spoke last is evicted last
        self._crowd.spoke(session)
        try:
            if self.is_stranger(session) and not line.lstrip().startswith(b"{"):
                # Not even read: YAML is work.
                raise protocol.BadRequest(protocol.Code.NOT_ALLOWED, self._access.stranger(session))
            request = protocol.parse_request(line)
            why = self._access.refusal(session, request.command)
            if why is not None:
                raise protocol.BadRequest(protocol.Code.NOT_ALLOWED, why, request.id)
            self._handler(session, request)
        except protocol.BadRequest as error:
            refusal = protocol.failure(error.request_id, error.code, str(error))
            # Whoever may ask for nothing has been told so: what else he has to say isn't waited
            # for.
            (session.finish if self.is_stranger(session) else session.send)(refusal)
        # a client's words must not take the workers' master down, whatever they are
        except Exception as error:
            session.close()
            self._failed("session", error)

    def close(self) -> None:
        """Accept nobody more, and close every session; what was queued for them is sent as far as
        it can be at once."""
        self._rests_until = None
        if self._listener is not None:
            self._loop.unwatch(self._listener.fileno())
        for session in list(self._sessions):
            session.close()
