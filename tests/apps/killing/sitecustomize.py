"""Found by every Python that has this directory in PYTHONPATH: something befalls it at one marked
point.

STRIKE_AT: `deploy:STEP`, as that step of a deploy begins; `deploy:half-way`, when its first new
worker is ready; `master:FUNCTION:before` or `:after`, around a function of shared/releases.py.
STRIKE: who is killed there, `self` or the file that holds a pid, or `fill:FILE`, which takes what
room there is on the disk.
"""

import os
import signal
import sys

where, _, at = os.environ.get("STRIKE_AT", "").partition(":")
# Each once: what a master started anew does is not what is looked at.
STRUCK = os.environ.get("STRUCK", "")


def strike():
    if os.path.exists(STRUCK):
        return
    open(STRUCK, "w").close()
    for whom in os.environ["STRIKE"].split():
        if whom.startswith("fill:"):
            fill(whom.partition(":")[2])
        else:
            pid = os.getpid()
            if whom != "self":
                with open(whom) as file:
                    pid = int(file.read())
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def fill(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (65536, 4096, 1):
            while os.write(fd, b"x" * size) == size:
                pass
    except OSError:
        pass
    finally:
        os.close(fd)


if where == "deploy" and "deploy" in sys.orig_argv:
    from einhornpy.control import progress
    from einhornpy.control.cli import deploy

    step, plain = deploy.Course.step, progress.plain

    def stepping(self, name):
        if name == at:
            strike()
        step(self, name)

    def telling(document):
        if at == "half-way" and document["event"] == "worker-ready":
            strike()
        plain(document)

    deploy.Course.step, progress.plain = stepping, telling

if where == "master" and "einhornpy.supervisor" in sys.orig_argv:
    from einhornpy.shared import releases

    name, _, when = at.partition(":")
    original = getattr(releases, name)

    def striking(*arguments, **named):
        # Of the first release nobody is to be struck.
        if "r1" in arguments or "r1" in [getattr(each, "release", "") for each in arguments]:
            return original(*arguments, **named)
        if when == "before":
            strike()
        result = original(*arguments, **named)
        if when == "after":
            strike()
        return result

    setattr(releases, name, striking)
