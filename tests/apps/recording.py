"""Writes down every call of a server hook, in a gunicorn.conf.py whose last line is
`recording.of(globals())`: one JSON array a line of the file `record`: role, pid, hook, arguments."""

import inspect
import json
import os

ARITIES = {"on_starting": 1, "on_reload": 1, "when_ready": 1, "pre_fork": 2, "post_fork": 2,
           "post_worker_init": 1, "worker_int": 1, "worker_abort": 1, "pre_request": 2,
           "post_request": 4, "child_exit": 2, "worker_exit": 2, "nworkers_changed": 3,
           "on_exit": 1}
FILE = os.path.join(os.getcwd(), os.environ.get("RECORD", "record"))
# Who executes the configuration is in the arbiter's place.
ARBITER = os.getpid()


def write(hook, arguments):
    role = "arbiter" if os.getpid() == ARBITER else "worker"
    line = json.dumps([role, os.getpid(), hook, arguments]) + "\n"
    file = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(file, line.encode())
    os.close(file)


def of(config):
    """Let every hook be recorded, those too that nobody wrote."""
    for hook, arity in ARITIES.items():
        config[hook] = recorded(hook, arity, config.get(hook))
    write("configuration", [])


def recorded(hook, arity, written):
    def call(*arguments):
        write(hook, [described(each) for each in arguments])
        return written(*arguments) if written is not None else None

    # gunicorn counts the parameters
    call.__signature__ = inspect.Signature([
        inspect.Parameter(f"p{each}", inspect.Parameter.POSITIONAL_ONLY)
        for each in range(arity)])
    return call


def described(value):
    """What is the same in every run."""
    if hasattr(value, "WORKERS"):
        return server(value)
    if hasattr(value, "booted"):
        return worker(value)
    if hasattr(value, "method"):
        return [value.method, value.path]
    if hasattr(value, "status"):
        return value.status
    if isinstance(value, dict):
        return sorted(set(value) & {"REQUEST_METHOD", "SERVER_SOFTWARE", "wsgi.multiprocess"})
    return value


def server(arbiter):
    return {
        "is an arbiter": "gunicorn.arbiter" in [base.__module__ for base in type(arbiter).__mro__],
        "has an app": arbiter.app.cfg is arbiter.cfg,
        "software": os.environ.get("SERVER_SOFTWARE"),
        "workers wanted": arbiter.num_workers,
        # In a worker they are those that were forked before it, of which some may be gone.
        "workers": len(arbiter.WORKERS) if os.getpid() == ARBITER else None,
        "listeners": len(arbiter.LISTENERS),
        # There is none yet at the first nworkers_changed.
        "name": getattr(arbiter, "proc_name", None),
        "class": arbiter.worker_class.__name__,
        "timeout": getattr(arbiter, "timeout", None),
        "address": len(arbiter.address),
        "has a log": hasattr(arbiter.log, "error_log"),}


def worker(each):
    in_arbiter = os.getpid() == ARBITER
    return {
        "age": each.age,
        "pid": each.pid if isinstance(each.pid, str) else
        "mine" if each.pid == os.getpid() else "another's",
        "class": type(each).__name__,
        "booted": each.booted,
        "alive": each.alive,
        "aborted": each.aborted,
        "timeout": each.timeout,
        "sockets": None if in_arbiter else len(each.sockets),
        "parent": None if in_arbiter else each.ppid == os.getppid(),
        "has an app": hasattr(each.app, "wsgi"),}
