"""One BLAS thread: matrices of this size gain nothing from more, and BLAS threads that wait take the cores from torch's."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import ThreadpoolController


def one_blas_thread() -> AbstractContextManager[Any]:
    """A context in which linear algebra runs on the calling thread."""
    limits: AbstractContextManager[Any] = _pools().limit(limits=1, user_api="blas")
    return limits


@functools.cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()  # looks through the loaded libraries: once
