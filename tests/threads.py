"""The same thing done by several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable


def at_once(run: Callable[[], object], count: int, seconds: float = 120.0) -> None:
    """Do it in so many threads; none may fail or be at it still after the time."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            run()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    assert not failed
    assert not any(thread.is_alive() for thread in threads)
