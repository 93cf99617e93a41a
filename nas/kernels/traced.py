"""Whether torch only traces what is called: numbers made then are none, and must not be kept."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode


def is_traced() -> bool:
    """Whether a dispatch mode stands between this call and its numbers, such as that of fake tensors."""
    return _get_current_dispatch_mode() is not None


class TensorCache:
    """Tensors by what they depend on, made at the first call; while torch traces they are made anew and not kept."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], Tensor] = {}

    def get(self, key: tuple[object, ...], make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key."""
        if is_traced():
            return make()
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = make()
        return found
