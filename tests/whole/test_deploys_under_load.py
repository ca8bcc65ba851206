"""Twenty deploys in a row under load: good ones, some that can't be imported, some that answer
worse. No request fails because of a deploy, and `releases/` never holds more than it should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from einhornpy.shared.releases import State

from ..harness import Master
from ..load import Load
from ..shop import Shop, serving

Start = Callable[..., Master]
APP = '''
import os

def wsgi(environ, start_response):
    number = os.urandom(1)[0]
    if {share} > number:
        start_response("503 Service Unavailable", [("Content-Length", "0")])
        return []
    body = b"{name}"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
'''
JUDGED = ("--canary", "1", "--hold", "40", "--hold-at-least", "3", "--judge", "--judge-after", "2",
          "--watch", "0")


def publish(shop: Shop, name: str, share: int = 0, begin: str = "") -> None:
    """A release that answers so many of 256 requests with 503."""
    (shop.origin / name).mkdir()
    (shop.origin / name / "app.py").write_text(begin + APP.format(share=share, name=name))


@pytest.mark.soak
def test_twenty_deploys_lose_no_request(place: Path, start: Start) -> None:
    shop = Shop(place)
    shop.configure(settings={
        "command": ["gunicorn", "-k", "gthread", "--threads", "4", "app:wsgi"], "number": 4,
        "bind": ["127.0.0.1:0"], "ack-mode": "auto"}, keep=3)
    publish(shop, "good0")
    master = shop.serve(start, "good0")
    good = "good0"
    worse = set[str]()
    with Load(master.address, 150) as load:
        for number in range(1, 21):
            name, words, code = f"good{number}", JUDGED, 0
            if number % 4 == 2:
                name, code = f"broken{number}", 5
                publish(shop, name, begin="raise RuntimeError('broken')\n")
            elif number % 4 == 0:
                name, code = f"worse{number}", 5
                publish(shop, name, share=200)
                worse.add(name)
            else:
                publish(shop, name)
            done = shop.deploy(name, *words)
            assert done.returncode == code, done.stdout + done.stderr
            good = name if code == 0 else good
            assert (serving(master), shop.current) == (good, good)
            states = [shop.state(each) for each in shop.names()]
            assert states.count(State.PROVEN) <= 4  # those to be kept, and the one before
            assert states.count(State.REFUSED) <= 2  # until the next one that is done
            assert None not in states
    report = load.report
    lost = [each for each in report.failures if "503" not in each.error]
    print(f"\n{report.sent} requests, {len(report.failures)} answered by the {len(worse)} releases "
          f"that were worse, {len(lost)} lost")
    assert not lost, report.why()
    # Those that a release itself has failed are few: it was the canary's share, and not for long.
    assert len(report.failures) < report.sent * 0.1
