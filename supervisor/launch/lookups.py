"""Who and what the settings name, looked up before anything starts, so that what doesn't exist is
one line and an exit code."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings.table import Settings
from ..sockets.runtime_directory import Rights
from ..system import attributes


@dataclass(frozen=True, slots=True)
class Known:
    """`observers`: a gid. `web_user`: (uid, gid) that the sidecar and announcements become, None
    for ours."""

    attributes: attributes.Attributes
    observers: int | None
    rights: Rights
    web_user: tuple[int, int] | None


def look_up(settings: Settings) -> Known:
    """Find who and what the settings name.

    Raises:
        Refused: somebody doesn't exist, or this process may not set something.
    """
    made = attributes.look_up(settings.user, settings.group,
                              None if settings.nice is None else settings.nice[1], settings.rlimit,
                              settings.cpu_affinity, settings.umask, settings.oom_score_adj)
    observers = None if settings.observers is None else attributes.group_id(
        settings.observers, "--observers")
    group = None if settings.socket_group is None else attributes.group_id(
        settings.socket_group, "--socket-group")
    mode = settings.socket_mode
    if mode is None:
        mode = 0o666 if made.other_user or observers is not None else 0o600 if group is None else 0o660
    web_user = attributes.web_user(settings.web_user)
    return Known(made, observers, Rights(mode, group, enterable=bool(mode & 0o077)), web_user)
