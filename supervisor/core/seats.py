"""On which seats new workers stand. Pure; for the planner alone."""

from __future__ import annotations

from itertools import count

from .generation import Generation
from .pool import Pool
from .view import View


def free_seats(pool: Pool, view: View, generation: Generation, number: int) -> list[int]:
    """Seats for new workers: empty ones first, then those of the outdated workers that they will
    replace."""
    live = [*view.wanted_ready, *view.wanted_starting, *view.outdated_ready,
            *view.outdated_starting]
    held = {worker.index for worker in live}
    seats = [index for index in range(pool.target) if index not in held][:number]
    if len(seats) < number:
        seats += _seats_to_inherit(pool, view, generation)[:number - len(seats)]
    index = 0
    # only after scaling down and up again can every seat below the target be shared
    while len(seats) < number:
        if index not in held and index not in seats:
            seats.append(index)
        index += 1
    return seats


def seat_of_baseline(pool: Pool) -> int:
    """A seat beside all others: a baseline takes nobody's place."""
    held = {worker.index for worker in pool.workers.values()}
    return next(index for index in count(pool.target) if index not in held)


def _seats_to_inherit(pool: Pool, view: View, generation: Generation) -> list[int]:
    """The seats of outdated ready workers, the oldest first, where no worker of this generation
    stands that is to stay."""
    if generation.number == pool.current:
        stays = [*view.wanted_ready, *view.wanted_starting]
    else:
        every = [*view.wanted_ready, *view.wanted_starting, *view.outdated_ready,
                 *view.outdated_starting]
        stays = [worker for worker in every if worker.recycled_for is None]
    taken = {worker.index for worker in stays if worker.generation == generation.number}
    by_age = sorted(view.outdated_ready,
                    key=lambda worker: (worker.generation, worker.spawned_at, worker.id))
    return list(dict.fromkeys(worker.index for worker in by_age
                              if worker.index < pool.target and worker.index not in taken))
