"""What the adapter puts around an ASGI app, and remembers of it, wherever its class keeps it.

Plain standard library from Python 3.9 on.
"""

from typing import Any, Callable, Optional


class Known:
    """What a warm-up must know of an ASGI app. `asgi`: the app itself, as a warm-up asks it.
    `lifespan`: uvicorn's."""

    def __init__(self) -> None:
        self.asgi: Optional[Any] = None
        self.lifespan: Optional[Any] = None
        self.warm_up: Optional[Any] = None  # the task: the loop alone would let it be collected


def remember_lifespan(worker: Any, known: Known) -> None:
    """uvicorn keeps the state of an app's lifespan where only its server sees it; the warm-up needs
    it too."""
    config: Any = getattr(worker, "config", None)
    if not hasattr(config, "load"):
        return

    def remember() -> None:
        made = config.lifespan_class

        def make(config: Any) -> Any:
            known.lifespan = made(config)
            return known.lifespan

        config.lifespan_class = make

    after(config, "load", remember)


def wrap_asgi(worker: Any, around: Callable[[Any], Any]) -> None:
    """Put `around(app)` in the place of the ASGI app, as soon as it is loaded."""
    config: Any = getattr(worker, "config", None)
    if hasattr(config, "load"):  # uvicorn
        after(config, "load", lambda: setattr(config, "loaded_app", around(config.loaded_app)))
    else:
        after(worker, "load_wsgi", lambda: setattr(worker, "asgi", around(worker.asgi)))


def after(owner: Any, method: str, then: Callable[[], None]) -> None:
    """Call `then` whenever a method of `owner` has returned."""
    original = getattr(owner, method)

    def both() -> None:
        original()
        then()

    setattr(owner, method, both)
