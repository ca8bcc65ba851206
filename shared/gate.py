"""The gate: the one word that `status` says of a host. Pure."""

from __future__ import annotations

import enum


class Gate(enum.StrEnum):
    READY = "ready"
    STARTING = "starting"
    UPGRADING = "upgrading"
    PAUSED = "paused"
    DEGRADED = "degraded"
    ROLLED_BACK = "rolled-back"
    STOPPING = "stopping"
