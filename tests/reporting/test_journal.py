"""The journal: which entries a fact makes, in which order, as the log says them. No process, a fake
clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from einhornpy.supervisor.core import facts
from einhornpy.supervisor.core.causes import Recycling
from einhornpy.supervisor.core.pool import Policy, Stopping
from einhornpy.supervisor.core.upgrade import Judging, Terms
from einhornpy.supervisor.core.verdict import Verdict, Word
from einhornpy.supervisor.logs.formats import sentence
from einhornpy.supervisor.reporting import journal
from einhornpy.supervisor.reporting.events import Entry, Event, Weight, message

from ..core.world import World, recipe
from .test_events import check


@dataclass
class Told(World):
    """A world whose journal is kept."""

    entries: list[Entry] = field(default_factory=list)

    def observe(self, event: facts.Event) -> None:
        before = self.pool
        super().observe(event)
        for entry in journal.changes(before, event, self.pool, self.now):
            check(entry.event, entry.fields,
                  [key for key, value in entry.fields.items() if value is not None])
            document = journal.event_document(entry, self.pool, 0.0)
            assert "None" not in document["message"]
            self.entries.append(entry)

    def lines(self, *happened: facts.Event) -> list[str]:
        """What is told of these facts, and of what is done because of them."""
        self.entries = []
        for each in happened:
            self.observe(each)
            self.settle()
        return [sentence(entry) for entry in self.entries]


def told(target: int = 1, **policy: float) -> Told:
    """Workers 1 to `target` are ready."""
    world = Told.new(target, Policy(**policy), recipe())  # type: ignore[arg-type]
    assert isinstance(world, Told)
    for worker in range(1, target + 1):
        world.lines(facts.SaidReady(worker))
    return world


def upgrade(world: Told, terms: Terms = Terms()) -> list[str]:  # noqa: B008  frozen
    number = world.pool.newest + 1
    return world.lines(facts.UpgradeRequested(terms, "root", 0.0),
                       facts.UpgradePrepared(number, recipe()))


def test_a_start_and_an_upgrade() -> None:
    world = told()
    world.now = 2.314
    assert upgrade(world, Terms(release="r2")) == [
        "upgrade started from=1 to=2 kind=rolling release=r2 requested_by=root",
        "generation prepared generation=2 directory=/",
        "worker starting index=0 pid=1002 generation=2"]
    world.now = 3.5
    assert world.lines(facts.SaidReady(2)) == [
        "worker ready index=0 pid=1002 generation=2 took=1.19s",
        'worker retiring index=0 pid=1001 generation=1 reason="it is replaced"']
    assert world.lines(facts.Exited(1, 0)) == [
        "worker gone index=0 pid=1001 generation=1 status=0 age=3.50s",
        "upgrade ended generation=2 release=r2 outcome=done took=1.19s"]


def test_a_refused_release_asks_for_attention() -> None:
    world = told(max_failures=1)
    upgrade(world)
    lines = world.lines(facts.SaidFailed(2, "no database"), facts.SaidFailed(2, "no database"),
                        facts.Exited(2, 3))
    assert lines[0] == 'worker failed index=0 pid=1002 generation=2 error="no database"'
    assert lines[1].startswith("worker died index=0 pid=1002 generation=2 status=3 age=0.00s")
    assert lines[2].startswith("start failed generation=2 in_a_row=1 error=")
    assert lines[3].startswith("upgrade refused generation=2 back_to=1 reason=")
    assert lines[4].startswith("upgrade ended generation=2 outcome=rolled-back took=0.00s reason=")
    assert world.entries[-1].weight is Weight.ATTENTION


def test_a_canary_that_is_held_paused_and_aborted() -> None:
    world = told(target=2)
    upgrade(world, Terms(canary=1, hold=None, check="true"))
    assert "hold begun generation=2 canaries=1 hold=\"until resume\" check=true" in world.lines(
        facts.SaidReady(3))
    assert world.lines(facts.Checked("the check exited with code 1", "no")) [0] == (
        'check failed generation=2 reason="the check exited with code 1" error=no')
    world = told(target=2)
    upgrade(world)
    assert world.lines(facts.Paused("ann"), facts.Resumed("bob"), facts.AbortRequested("eve"))[
        :3] == ["upgrade paused generation=2 by=ann", "upgrade resumed generation=2 by=bob",
                "upgrade aborted generation=2 by=eve"]


def canary(old_directory: str = "/old", hold: float | None = 300.0,
           least: float | None = None) -> tuple[Told, list[str]]:
    """A judged canary that is held, and what was told of it since it was asked for."""
    world = told(target=2, max_surge=2)
    world.now = 5.0
    world.pool = replace(world.pool, generations={1: replace(
        world.pool.generations[1], recipe=replace(recipe(), directory=old_directory))})
    begun = upgrade(world, Terms(canary=1, hold=hold, judging=Judging(least_hold=least, watch=9.0)))
    starting = [each for each in world.pool.workers if each > 2]
    return world, [*begun, *world.lines(*map(facts.SaidReady, starting))]


def test_a_baseline_is_told_of_or_why_there_is_none() -> None:
    _, lines = canary()
    assert [line for line in lines if "baseline" in line] == [
        "worker starting index=2 pid=1003 generation=1 baseline=true"]
    _, lines = canary(old_directory=recipe().directory)
    assert [line for line in lines if "baseline" in line] == [
        'hold begun generation=2 canaries=1 hold=300s no_baseline="the old code has neither a '
        "directory of its own nor a template that has imported it, so its workers can't be "
        'started any more"']


def test_a_baseline_that_can_not_be_started_is_told_of_too() -> None:
    world = told(target=2, max_surge=2)
    world.now = 5.0
    world.pool = replace(world.pool, generations={1: replace(
        world.pool.generations[1], recipe=replace(recipe(), directory="/old"))})
    upgrade(world, Terms(canary=1, hold=300.0, judging=Judging()))
    world.lines(facts.Exited(3, 1))
    held = world.lines(facts.SaidReady(4))[-1]
    assert held.endswith('no_baseline="a worker of the old code could not be started: exited with '
                         'code 1 before it was ready"')


def test_the_end_of_a_hold_says_the_verdict_and_whether_it_came_early() -> None:
    def ends(world: Told, *happened: facts.Event) -> list[str]:
        world.now += 45.0
        world.lines(*happened)
        return [message(each) for each in world.entries if each.event is Event.HOLD_ENDED]

    well = facts.Judged(Verdict(Word.WELL, "so good"))
    assert ends(canary(least=30.0)[0], well) == [
        "hold ended early, after 45 s, everybody follows: well: so good"]
    assert ends(canary(least=30.0, hold=None)[0], well) == [
        "hold ended early, after 45 s, everybody follows: well: so good"]
    unsure = facts.Judged(Verdict(Word.UNSURE, "too little"))
    world, _ = canary(hold=40.0)
    assert ends(world, unsure) == ["hold ended, everybody follows: unsure: too little"]
    assert ends(canary()[0], unsure, facts.Resumed("ann")) == [
        "hold ended, everybody follows: unsure: too little; resumed by ann"]


def test_the_end_of_a_watch_says_the_verdict_and_who_has_ended_it() -> None:
    world = told()
    upgrade(world, Terms(judging=Judging(watch=9.0)))
    world.lines(facts.SaidReady(2), facts.Exited(1, 0))
    world.lines(facts.Judged(Verdict(Word.WELL, "so good")), facts.Resumed("ann"))
    assert [message(each) for each in world.entries][-1] == (
        "watch ended by ann, generation 2 stays: well: so good")


def test_a_generation_that_cannot_be_made() -> None:
    world = told()
    world.lines(facts.UpgradeRequested(Terms(), "root", 0.0))
    lines = world.lines(facts.UpgradeRefused(2, "nobody wants it", None, 0.0, "ann"))
    assert lines[:2] == ["upgrade aborted generation=2 by=ann",
                         'upgrade refused generation=2 back_to=1 reason="nobody wants it"']


def test_n_moves_with_an_upgrade_and_back() -> None:
    world = told()
    assert world.lines(facts.Scaled(2))[0] == "scaled from=1 to=2"
    world.lines(facts.SaidReady(2), facts.UpgradeRequested(Terms(), "root", 0.0))
    assert world.lines(facts.UpgradePrepared(2, recipe(), 3))[0] == "scaled from=2 to=3"
    assert "scaled from=3 to=2" in world.lines(facts.AbortRequested("ann"))


@pytest.mark.parametrize(("happens", "lines"), [
    (facts.SpawnFailed(0, 1, "no more processes"),
     ['worker cannot be started index=0 generation=1 error="no more processes"']),
    (facts.HostMeasured(True, 512 << 20),
     ['host short of memory available=512MiB so="due workers leave before they are replaced"']),
    (facts.HostMeasured(False, 2 << 30), ["host has memory again available=2048MiB"]),
    (facts.ListenerLost("[::]:80", "gone"),
     ['listener lost address=[::]:80 reason=gone so="nobody can connect to it"']),
    (facts.ListenerLost("[::]:80", None), ["listener is back address=[::]:80"]),
    (facts.ListenerShut("[::]:80"),
     ['listener shut down address=[::]:80 by="a worker of generation 1" so="it listens again; '
      'connections that came meanwhile were refused"']),
    (facts.OrphanFound(7, None, None), ['process left behind pid=7 known_by="it holds a '
                                        'listening socket"']),
    (facts.OrphanFound(7, 0, 1), ["process left behind pid=7 index=0 generation=1"]),
    (facts.Due(1, "has lived 5 s", Recycling.LIFETIME), [
        'worker due index=0 pid=1001 generation=1 reason="has lived 5 s"',
        "worker starting index=0 pid=1002 generation=1"]),
    (facts.StopRequested(Stopping.GRACEFUL), [
        "stopping how=graceful workers=1",
        'worker retiring index=0 pid=1001 generation=1 reason="the master stops"']),
    (facts.SaidReady(1), ["late ack ignored index=0 pid=1001 generation=1"]),
    (facts.Heartbeat(1, 0.0), []), (facts.Measured({1: 5}), []), (facts.Stood(1), [])])
def test_other_facts(happens: facts.Event, lines: list[str]) -> None:
    world = told()
    world.now = 5.0
    assert world.lines(happens)[: max(len(lines), 1)] == lines


@pytest.mark.parametrize("make", [facts.OrphanKilled, facts.OrphanGone])
def test_a_process_left_behind(make: Callable[[int], facts.Event]) -> None:
    world = told()
    world.lines(facts.OrphanFound(7, 0, 1))
    word = "killed" if make is facts.OrphanKilled else "gone"
    assert world.lines(make(7)) == [
        f"process left behind {word} pid=7 index=0 generation=1"]


def test_a_release_that_dies_over_and_over_is_told_once() -> None:
    world = told(max_failures=2)
    lines = []
    for worker in range(1, 5):
        lines += world.lines(facts.Exited(worker, 1))
        world.pass_time(60)
        world.lines(facts.SaidReady(worker + 1))
    failing = [line for line in lines if line.startswith("generation keeps failing ")]
    assert failing == ['generation keeps failing generation=1 times=3 last="worker 0 exited '
                       'with code 1 0.0 s after it was ready"']
    world.entries = []
    world.pass_time(1000)
    assert [sentence(each) for each in world.entries] == ["generation is calm again generation=1"]
