"""One table of two sources: perplexity of the supernet's subnets, and what a device measured of models made from them.

n architectures, r rounds.
"""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.deploy.device_profile import DeviceProfile
from nas.deploy.profile_table import measurement_tables
from nas.deploy.runtime import versions
from nas.training import TrainedSupernet
from search_spaces import Architecture, Workload
from surrogates.base import FloatArray
from surrogates.tables import NO_DEVICE, Key, MeasurementTable

_NOT_MEASURED = "are NaN (not measured)"


def join(
    supernet: TrainedSupernet,
    architectures: list[Architecture],
    perplexity_n: npt.NDArray[np.float64],
    num_tokens: int,
    device: DeviceProfile,
    workload: Workload,
) -> MeasurementTable:
    """Every architecture that has a perplexity or a time; NaN stands for what it lacks.

    A perplexity above the vocabulary's size is worse than a uniform guess: such a subnet is broken, how badly is chance, and its
    perplexity is left out.

    Args:
        supernet: that gave the perplexities.
        architectures: n different subnets.
        perplexity_n: of them.
        num_tokens: held-out tokens of a perplexity.
        device: profile of models made from the supernet.
        workload: of the profile that is taken.
    """
    measured = measurement_tables(device, supernet.space)[workload]
    own = list(dict.fromkeys([*architectures, *_architectures(device)]))
    position = {a: i for i, a in enumerate(own)}
    columns: dict[Key, FloatArray] = {("perplexity", NO_DEVICE): np.full((len(own), 1), np.nan)}
    usable_n = perplexity_n <= supernet.space.family.vocab_size
    at = [position[a] for a, usable in zip(architectures, usable_n, strict=True) if usable]
    columns["perplexity", NO_DEVICE][at, 0] = perplexity_n[usable_n]
    from_profile = [position[a] for a in _architectures(device)]
    for key, repeats_nr in measured.columns.items():
        columns[key] = np.full((len(own), repeats_nr.shape[1]), np.nan)
        columns[key][from_profile] = repeats_nr
    of_measurements = {k: measured.provenance[k] for k in ("source", "confidence", "date")}
    sources: dict[str, dict[str, Any]] = {
        "@".join(key): of_measurements for key in measured.columns
    }
    sources[f"perplexity@{NO_DEVICE}"] = {
        "source": f"our supernet (embedded {supernet.space.name}), {len(at)} architectures",
        "confidence": (
            f"fitted to inherited weights on {num_tokens} held-out tokens; a subnet trained on its own would be better, "
            "and might rank otherwise"
        ),
        "supernet": supernet.info["sha256"],
        "corpus": supernet.corpus.fingerprint,
    }
    provenance: dict[str, Any] = {
        "source": f"our supernet (embedded {supernet.space.name}) and models made from it, measured on {device.device_name}",
        "sources": sources,
        "worse than a uniform guess, left out": int((~usable_n).sum()),
        "date": datetime.date.today().isoformat(),
        "versions": versions() | {"numpy": np.__version__},
    }
    return MeasurementTable.of(
        supernet.space,
        workload,
        own,
        columns,
        dtype=device.runtime.dtype,
        provenance=provenance,
        bad="skip",
    )


def faults(table: MeasurementTable) -> list[str]:
    """What was left out of a table for another reason than that it was not measured."""
    return [line for line in table.skipped if _NOT_MEASURED not in line]


def _architectures(device: DeviceProfile) -> list[Architecture]:
    """Those of a profile of one workload, in the order of its table."""
    return list(dict.fromkeys(Architecture.from_json(r["architecture"]) for r in device.records))
