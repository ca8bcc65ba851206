"""Why something is done, as one of a few: what counts and compares reads these, never the words of
a reason."""

from __future__ import annotations

import enum


class Recycling(enum.StrEnum):
    """Why a worker is due."""

    REQUESTS = "requests"
    LIFETIME = "lifetime"
    MEMORY = "memory"
    ASKED = "asked"
    BASELINE = "baseline"  # it stood beside all seats, for canaries to be compared with
    LISTENER = "listener"  # clients come by another listening socket than it has


class Leaving(enum.StrEnum):
    """Why a worker is asked to go."""

    REPLACED = "replaced"
    GOING_BACK = "going-back"
    UNWANTED = "unwanted"  # it had not become ready, and its generation isn't wanted any more
    SCALED = "scaled"
    RECYCLED = "recycled"
    DEAF = "deaf"  # a listening socket of it is no more what clients connect to
    STOPPED = "stopped"  # the master stops


class Force(enum.StrEnum):
    """Why a worker is ended by force."""

    NOT_READY = "not-ready"  # within the ready timeout
    OVERSTAYED = "overstayed"  # it was asked to go, and didn't
    HUNG = "hung"  # no heartbeat
    UNFIT = "unfit"  # whatever it says, it can't be trusted
    MEMORY = "memory"  # beyond the hard limit
    STOPPED = "stopped"  # the master stops at once


class Refusal(enum.StrEnum):
    """Why an upgrade goes back."""

    ABORTED = "aborted"  # somebody said so
    NOT_PREPARED = "not-prepared"  # its generation could not be made
    FAILED_STARTS = "failed-starts"
    NO_PROGRESS = "no-progress"
    CHECK_FAILED = "check-failed"
    WORSE = "worse"  # than the old code, under the same load
    UNSURE = "unsure"  # there was too little traffic to tell, and that was to refuse it
    UNFIT = "unfit"  # one of its workers can't be trusted, whatever it says
    NOBODY_ACCEPTS = "nobody-accepts"
    LISTENER_SHUT = "listener-shut"  # one of its workers shut a listening socket down
    LISTENER_LOST = "listener-lost"  # nobody can connect to an address any more
