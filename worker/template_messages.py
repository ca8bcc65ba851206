"""What the master and the template of a generation say to each other: makers and readers. Pure:
no descriptor, socket or process is touched here.

One message is one JSON object in one datagram of a SOCK_SEQPACKET pair; descriptors travel beside
it by SCM_RIGHTS (unix(7)). `do` is what the master asks, `say` what the template tells. What a
later version adds to a message is passed over. Plain standard library from Python 3.9 on.
"""

import json
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

# Of what is understood; a master that takes over from an older one asks what its templates have.
VERSION = 1
# Bytes; more than the kernel's default lets anybody send at once (net.core.wmem_default).
LARGEST = 1 << 18
# A message has no more descriptors than the kernel takes (SCM_MAX_FD of unix(7)).
MOST_DESCRIPTORS = 253

_Types = Tuple[type, ...]
_INT, _BOOL, _TEXT, _NOTHING = int, bool, str, type(None)
_DO: Dict[str, Dict[str, _Types]] = {
    "fork": {
        "worker": (_INT,), "index": (_INT,), "environment": (dict,), "descriptors": (_INT,),
        "stdout": (_BOOL,), "stderr": (_BOOL,), "farewell": (_INT, _NOTHING),
        "core": (_INT, _NOTHING), "life": (dict,)},
    "hook": {"name": (_TEXT,), "arguments": (list,), "listeners": (_INT,)},
    "workers": {"count": (_INT,)},
    "environment": {"variables": (dict,)},
    "import": {"variables": (dict,)},
    "listeners": {"listeners": (_INT,)},
    "reopen": {},
    "leave": {"on_exit": (_BOOL,)},
}
_SAY: Dict[str, Dict[str, _Types]] = {
    "forked": {"worker": (_INT,), "pid": (_INT,)},
    "cannot": {"worker": (_INT,), "why": (_TEXT,)},
    "hook": {"name": (_TEXT,), "error": (_TEXT,)},
    "imported": {"seconds": (int, float), "findings": (list,)},
    "not_imported": {"error": (_TEXT,)},
}


def fork(worker: int, index: int, environment: Mapping[str, str], descriptors: int, stdout: bool,
         stderr: bool, farewell: Optional[int], core: Optional[int],
         life: Mapping[str, Any]) -> bytes:
    """Ask for a worker.

    Args:
        worker: our id of it.
        index: its seat.
        environment: the variables that it gets beside those of its generation.
        descriptors: so many of those beside the message become 3, 4, …
        stdout, stderr: whether the next ones beside it are its standard output and error.
        farewell: the signal that it gets when the master dies, if any.
        core: the one that it runs on, if not on all.
        life: the instructions to the worker itself, see gunicorn_worker.py.
    """
    return _message("do", "fork", worker=worker, index=index, environment=dict(environment),
                    descriptors=descriptors, stdout=stdout, stderr=stderr, farewell=farewell,
                    core=core, life=dict(life))


def hook(name: str, *arguments: Any, listeners: int = 0) -> bytes:
    """Ask to run a server hook: `when_ready` (`listeners`: so many are beside the message),
    `child_exit` (the pid) or `nworkers_changed` (how many there are to be, and were)."""
    return _message("do", "hook", name=name, arguments=list(arguments), listeners=listeners)


def workers(count: int) -> bytes:
    """Tell how many workers there are now."""
    return _message("do", "workers", count=count)


def environment(variables: Mapping[str, str]) -> bytes:
    """Tell variables that it is to have, which weren't known when it was started."""
    return _message("do", "environment", variables=dict(variables))


def import_app(variables: Mapping[str, str]) -> bytes:
    """Ask to import the app, by one that preloads it; `variables`: as of `environment`."""
    return _message("do", "import", variables=dict(variables))


def listeners(count: int) -> bytes:
    """Tell that the listening sockets are others by now; so many are beside the message."""
    return _message("do", "listeners", listeners=count)


def reopen() -> bytes:
    """Ask to open log files anew."""
    return _message("do", "reopen")


def leave(on_exit: bool) -> bytes:
    """Ask to end; `on_exit`: after the hook of that name."""
    return _message("do", "leave", on_exit=on_exit)


def forked(worker: int, pid: int) -> bytes:
    """Tell of a worker that is the master's child now; said twice if the template dies meanwhile.
    """
    return _message("say", "forked", worker=worker, pid=pid)


def cannot(worker: int, why: str) -> bytes:
    """Tell that there will be no such worker; `why`: one line."""
    return _message("say", "cannot", worker=worker, why=_line(why))


def hook_failed(name: str, error: str) -> bytes:
    """Tell that a hook raised; `error`: one line."""
    return _message("say", "hook", name=name, error=_line(error))


def imported(seconds: float, findings: Sequence[Mapping[str, Optional[str]]]) -> bytes:
    """Tell that the app is imported; `findings`: what isn't safe to fork, see fork_safety.py."""
    return _message("say", "imported", seconds=seconds, findings=[dict(each) for each in findings])


def not_imported(error: str, lines: Sequence[str]) -> bytes:
    """Tell that it can't be; `error`: one line; `lines`: the last ones of a traceback."""
    return _message("say", "not_imported", error=_line(error),
                    lines=[line[:1000] for line in lines])


def read(data: bytes) -> Dict[str, Any]:
    """Return a message: it has `do` or `say`, and every field that belongs to it.

    Raises:
        ValueError: it is none of those above, or lacks a field.
    """
    try:
        message = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("expected a JSON object")
    for key, kinds in (("do", _DO), ("say", _SAY)):
        kind = message.get(key)
        if isinstance(kind, str) and kind in kinds:
            _check(message, kind, kinds[kind])
            return message
    raise ValueError("no such message: %.80r" % (message.get("do", message.get("say")),))


def _check(message: Dict[str, Any], kind: str, fields: Dict[str, _Types]) -> None:
    for name, types in fields.items():
        # `type`, since a bool is an int too
        if name not in message or type(message[name]) not in types:
            raise ValueError("message %s: %s is %s" % (
                kind, name, "missing" if name not in message else
                "of type " + type(message[name]).__name__))
        if type(message[name]) is _INT and message[name] < 0:
            raise ValueError("message %s: %s is negative" % (kind, name))
    for name in {"environment", "variables"} & fields.keys():
        if not all(isinstance(value, str) for value in message[name].values()):
            raise ValueError("message %s: a variable is no text" % kind)
    if message.get("listeners", message.get("descriptors", 0)) > MOST_DESCRIPTORS:
        raise ValueError("message %s: more descriptors than one message can have" % kind)


def _message(key: str, kind: str, **fields: Any) -> bytes:
    return json.dumps(dict(fields, **{key: kind})).encode()


def _line(text: str) -> str:
    """A text as one line that fits into a message."""
    return " ".join(text.split())[:4000]
