"""The fewest loads that could have served given requests: a bound that no way of deciding can beat."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

_Pending = tuple[int, ...]
# A model that is resident and has answered all that arrived until now.
_RESIDENT = -1


def fewest_loads(
    arrivals: Mapping[str, Sequence[float]], places: int, switch_s: float, longest_wait_s: float
) -> int:
    """Count the loads of the best schedule that knows all arrivals beforehand. Pure.

    Models are of one size and `places` of them fit; an engine answers any number of requests at once.
    A place is handed over by the last requests of the old model, its leaving and the load of the new
    one, `switch_s` in all: what arrives for the old one in that time is not answered by it. Each
    request must be begun with at most `longest_wait_s` after its arrival; models may have their turns
    in any order.

    It is a lower bound: a place may be handed on before it has been handed over. Nothing is lost by
    switching as late as the oldest request for a model allows: the model that leaves answers more, and
    the one that comes finds all that it would have answered and more. So the moments of the switches
    are given by who is resident and which request of each other model is the oldest that waits, and the
    best choice of who leaves is found by a search over those states in the order of time, each visited
    once (a dynamic programme).

    Args:
        arrivals: When requests arrive, in seconds and in order, by model.
        places: How many models fit.
        switch_s: Seconds from the last request that the old model takes to the first that the new
            one answers.
        longest_wait_s: Seconds that a request may wait.

    Raises:
        ValueError: A request may wait less long than a place takes to be handed over.
    """
    if longest_wait_s < switch_s:
        raise ValueError(f"a switch takes {switch_s:g} s, and none may wait {longest_wait_s:g} s")
    times = [list(each) for each in arrivals.values()]
    start: _Pending = (0,) * len(times)
    best: dict[_Pending, int] = {start: 0}
    heap = [(_next_due(times, start, longest_wait_s), start)]
    fewest: float = math.inf
    while heap:
        (due, model), state = heapq.heappop(heap)
        if math.isinf(due):
            fewest = min(fewest, best[state])
            continue
        # A state is reached only at moments before its own, so its count is final here.
        loads = best[state] + 1
        residents = [n for n, oldest in enumerate(state) if oldest < 0]
        for leaves in residents if len(residents) >= places else [None]:
            after = list(state)
            if leaves is not None:
                answered = -state[leaves] - 1  # until it was loaded
                after[leaves] = max(answered, bisect_right(times[leaves], due - switch_s))
            after[model] = -bisect_right(times[model], due) - 1
            reached = _settled(times, tuple(after), switch_s, longest_wait_s)
            if reached not in best:
                heapq.heappush(heap, (_next_due(times, reached, longest_wait_s), reached))
            best[reached] = min(loads, best.get(reached, loads))
    return int(fewest)


def _next_due(
    times: Sequence[Sequence[float]], state: _Pending, longest_wait_s: float
) -> tuple[float, int]:
    """When the next model must be loaded, and which; infinity: none."""
    due = [
        (times[n][oldest] + longest_wait_s, n)
        for n, oldest in enumerate(state)
        if 0 <= oldest < len(times[n])
    ]
    return min(due, default=(math.inf, 0))


def _settled(
    times: Sequence[Sequence[float]], state: _Pending, switch_s: float, longest_wait_s: float
) -> _Pending:
    """Forget when residents were loaded, where that can make no difference any more."""
    due, _ = _next_due(times, state, longest_wait_s)
    return tuple(
        _RESIDENT
        if oldest < 0 and bisect_right(times[n], due - switch_s) >= -oldest - 1
        else oldest
        for n, oldest in enumerate(state)
    )
