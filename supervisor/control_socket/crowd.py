"""How many sessions each party may have, and who has to make room: a flood of one party costs the
others nothing. Pure.

A party is the owner (root too), a worker, or any other user. The server tells of every session that
comes, speaks and goes; here is only said who is one too many.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Generic, Protocol, TypeVar

from ...shared.frozen import dataclass

MOST_OF_A_WORKER, MOST_OF_A_USER, MOST_GUESTS = 8, 64, 1024


class Kind(Enum):
    OWNER = "owner"
    WORKER = "worker"
    GUEST = "guest"  # an observer or a stranger


@dataclass(frozen=True, slots=True)
class Party:
    """`number`: a worker's id, a guest's uid; the owner has 0."""

    kind: Kind
    number: int


class Member(Protocol):
    long_running: bool


M = TypeVar("M", bound=Member)


class Crowd(Generic[M]):
    """`most`: so many may be there in all, and half of them may be guests. `lives`: whether a
    worker is still there; the sessions of one that is not are a guest's."""

    def __init__(self, most: int, lives: Callable[[int], bool]) -> None:
        self._most = most
        self._most_of_a_user, self._most_guests = min(MOST_OF_A_USER,
                                                      most // 4), min(MOST_GUESTS, most // 2)
        self._lives = lives
        self._party: dict[M, Party] = {}
        self._members: dict[Party, dict[M, None]] = {}  # the one that spoke last at the end
        self._guests = 0

    def enter(self, member: M, party: Party) -> None:
        self._party[member] = party
        self._members.setdefault(party, {})[member] = None
        self._guests += party.kind is Kind.GUEST

    def leave(self, member: M) -> None:
        """Forget it, if it was there."""
        party = self._party.pop(member, None)
        if party is not None:
            self._members[party].pop(member)
            if not self._members[party]:
                del self._members[party]
            self._guests -= party.kind is Kind.GUEST

    def spoke(self, member: M) -> None:
        """It is the last of its party that has to go."""
        party = self._party.get(member)
        if party is not None:
            self._members[party].pop(member)
            self._members[party][member] = None

    def one_too_many(self, newcomer: M, short: bool = False) -> M | None:
        """Who has to go now that `newcomer` has entered: one of a party that has too many, first of
        its own; None if nobody has. `short`: there is no room for one more, however few there are.
        A guest may be the one himself, nobody else."""
        party = self._party[newcomer]
        limit = {Kind.WORKER: MOST_OF_A_WORKER, Kind.GUEST: self._most_of_a_user}.get(party.kind)
        if limit is not None and len(self._members[party]) > limit:
            return _idlest(self._members[party], newcomer)
        if self._guests > self._most_guests or len(self._party) > self._most or short:
            for kind in (Kind.GUEST, Kind.OWNER, Kind.WORKER):
                found = self._least_needed(kind, newcomer)
                if found is not None:
                    return found
            return newcomer if party.kind is Kind.GUEST else None
        return None

    def _least_needed(self, kind: Kind, newcomer: M) -> M | None:
        """The one that can be spared most easily in the largest party of a kind; a worker keeps its
        last one, for its ack."""
        least = 2 if kind is Kind.WORKER else 1
        parties = [
            members for party, members in self._members.items()
            if self._kind(party) is kind and len(members) >= least]
        newcomers = self._party[newcomer].kind
        if newcomers is Kind.GUEST and kind is not Kind.GUEST:
            return None
        return _idlest(max(parties, key=len), newcomer) if parties else None

    def _kind(self, party: Party) -> Kind:
        return Kind.GUEST if party.kind is Kind.WORKER and not self._lives(
            party.number) else party.kind


def _idlest(members: dict[M, None], newcomer: M) -> M | None:
    """The one that has been silent longest, if possible one that follows nothing."""
    others = [member for member in members if member is not newcomer]
    return next((member for member in others if not member.long_running),
                others[0] if others else None)
