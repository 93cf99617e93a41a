"""Names that a benchmark understands: metrics and devices as asked for, to the columns that it has."""

from __future__ import annotations

from dataclasses import dataclass

from surrogates.additive.exact import METRICS as EXACT
from surrogates.tables import NO_DEVICE, Key, near

# The paper's words for the metrics of this project; ``latency`` is that of the workload's phase.
ALIASES = {
    "ppl": "perplexity",
    "acc": "accuracy",
    "energy": "energy_j",
    "memory": "peak_memory_bytes",
    "parameters": "params",
}


@dataclass(frozen=True)
class Names:
    """Metrics and devices that are known.

    Args:
        keys: (metric, device) of every column; the device is empty where none matters.
        phase: of the workload: ``decode`` or ``prefill``.
    """

    keys: tuple[Key, ...]
    phase: str

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices, in the order of the columns."""
        return tuple(dict.fromkeys(device for _, device in self.keys if device != NO_DEVICE))

    def metrics(self, device: str | None) -> tuple[str, ...]:
        """Metrics known for a device, those that need none and the exact ones included.

        Raises:
            ValueError: if the device is unknown; the near names are proposed.
        """
        known = self.device(device)
        own = [m for m, d in self.keys if d in (NO_DEVICE, known)]
        return (*dict.fromkeys(own), *EXACT)

    def device(self, asked: str | None) -> str | None:
        """A device as the columns spell it, whatever its case, hyphens and blanks; None for None.

        Raises:
            ValueError: if it is unknown; the near names are proposed.
        """
        if asked is None or asked in self.devices:
            return asked
        by_plain_name = {_plain(name): name for name in self.devices}
        if not isinstance(asked, str) or _plain(asked) not in by_plain_name:
            raise ValueError(
                f"expected a device in {', '.join(self.devices)}, got {asked!r}{near(str(asked), self.devices)}"
            )
        return by_plain_name[_plain(asked)]

    def metric(self, asked: str, device: str | None) -> str:
        """A metric as the columns (or the closed forms) spell it.

        Raises:
            ValueError: if it is unknown, or known for a device only; the near names are proposed.
        """
        if not isinstance(asked, str):
            raise ValueError(f"expected the name of a metric, got {asked!r}")
        found = f"{self.phase}_ms" if asked == "latency" else ALIASES.get(asked, asked)
        known = self.metrics(device)
        if found not in known:
            elsewhere = {m for m, _ in self.keys}
            hint = (
                "; it needs a device"
                if device is None and found in elsewhere
                else near(asked, known)
            )
            raise ValueError(f"expected a metric in {', '.join(known)}, got {asked!r}{hint}")
        return found

    def key(self, metric: str, device: str | None) -> Key:
        """The column of a metric that is spelled as the columns do."""
        if (metric, NO_DEVICE) in self.keys:
            return metric, NO_DEVICE
        return metric, self.device(device) or NO_DEVICE


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c not in " -_")
