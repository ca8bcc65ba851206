"""Who and what the settings name, looked up before anything starts, so that what doesn't exist is
one line and an exit code."""

from __future__ import annotations

from ...shared.frozen import dataclass
from ..places.runtime_directory import Rights
from ..settings.table import Settings
from ..system import attributes


@dataclass(frozen=True, slots=True)
class LookedUp:
    """`observers`: a gid. `web_user`: (uid, gid) that the sidecar and announcements become, None
    for ours."""

    attributes: attributes.Attributes
    observers: int | None
    rights: Rights
    web_user: tuple[int, int] | None


def look_up(settings: Settings) -> LookedUp:
    """Find who and what the settings name.

    Raises:
        Refused: somebody doesn't exist, or this process may not set something.
    """
    of_workers = attributes.look_up(
        settings.user, settings.group, None if settings.nice is None else settings.nice[1],
        settings.rlimit, settings.cpu_affinity, settings.umask, settings.oom_score_adj)
    observers = _group(settings.observers, "--observers")
    group = _group(settings.socket_group, "--socket-group")
    mode = settings.socket_mode
    if mode is None:
        strangers = of_workers.other_user or observers is not None
        mode = 0o666 if strangers else 0o600 if group is None else 0o660
    return LookedUp(of_workers, observers, Rights(mode, group, enterable=bool(mode & 0o077)),
                 attributes.web_user(settings.web_user))


def _group(name: str | None, flag: str) -> int | None:
    return None if name is None else attributes.group_id(name, flag)
