"""Devices by name: those of the table, with the nearest names where one is misspelled."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from surrogates.device_spec import DeviceSpec as DeviceSpec
from surrogates.device_spec import value_bytes as value_bytes
from surrogates.device_table import TABLE


@cache
def devices() -> Mapping[str, DeviceSpec]:
    """The table, by name: the 13 devices of HW-GPT-Bench (2405.10299) as it spells them, and those this project adds."""
    return MappingProxyType({spec.name: spec for spec in TABLE})


def device(name: str) -> DeviceSpec:
    """One device of the table.

    Args:
        name: for example ``"a100"``; case, spaces, dashes and underscores do not matter.

    Raises:
        ValueError: if it is unknown; the near names are proposed.
    """
    if not isinstance(name, str):
        raise ValueError(
            f"expected the name of a device, got {name!r}; a DeviceSpec goes where it is asked for as it is"
        )
    names = {_key(known): known for known in devices()}
    if _key(name) not in names:
        near = difflib.get_close_matches(_key(name), names, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(names[key] for key in near)}?" if near else ""
        raise ValueError(f"expected a device in {', '.join(devices())}, got {name!r}{hint}")
    return devices()[names[_key(name)]]


def _key(name: str) -> str:
    return "".join(c for c in name.lower() if c not in " -_")
