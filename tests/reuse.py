"""Clients that go on reusing their connections while the worker that has them leaves: how many lose
a request."""

from __future__ import annotations

import threading

from .harness import DEADLINE, Master
from .worker.test_draining import Connection


def request(connection: Connection) -> bool:
    """One more on this connection; return whether its answer announces the end."""
    connection.request()
    status, close, _ = connection.answer()
    assert status == 200
    return close


def lost_while_it_leaves(master: Master, connections: list[Connection]) -> list[BaseException]:
    """Replace the one worker, which all the connections are with, and go on using them: half of
    them from just before it is asked to go, the others from just after. Return what was lost, with
    the reasons."""
    recorder = master.record()
    # Not by the command line: while that starts on a slow machine, connections would idle out.
    master.ask("upgrade", canary=1, hold="until-resume", wait=False)
    # the new worker may take its time: no connection idles meanwhile
    while master.status()["gate"] != "paused":
        assert [request(connection) for connection in connections] == [False] * len(connections)
    moments = (threading.Event(), threading.Event())
    lost: list[BaseException] = []

    def go_on(moment: threading.Event, connection: Connection) -> None:
        try:
            moment.wait(DEADLINE)
            while not request(connection):
                pass  # some are answered before the worker knows that it is to go
            assert connection.ended(), "reset after its last answer"
        except (OSError, EOFError, AssertionError) as error:
            lost.append(error)

    threads = [
        threading.Thread(target=go_on, args=(moments[number % 2], each))
        for number, each in enumerate(connections)]
    for thread in threads:
        thread.start()
    moments[0].set()
    master.ask("resume")
    recorder.wait_for("worker-retiring", generation=1)
    moments[1].set()
    for thread in threads:
        thread.join(DEADLINE)
    recorder.wait_for("upgrade-ended")
    return lost
