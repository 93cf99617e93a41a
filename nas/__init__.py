"""Train a supernet, search its sparse architectures, build the winners and prove them on the device.

The names below are imported when they are first used, so that ``import nas`` takes milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.deploy.device_profile import DeviceProfile as DeviceProfile
    from nas.deploy.energy import measure_energy as measure_energy
    from nas.deploy.machine import measure_machine as measure_machine
    from nas.deploy.materialize import Winner as Winner
    from nas.deploy.materialize import Winners as Winners
    from nas.deploy.materialize import materialize as materialize
    from nas.deploy.profile import profile as profile
    from nas.deploy.tune import tune as tune
    from nas.deploy.verify import VerificationReport as VerificationReport
    from nas.deploy.verify import verify as verify
    from nas.model import GPT as GPT
    from nas.model import Supernet as Supernet
    from nas.model import extract as extract
    from nas.model import load_gpt as load_gpt
    from nas.model import save_gpt as save_gpt
    from nas.objectives import Evaluation as Evaluation
    from nas.objectives import Objective as Objective
    from nas.pareto import ParetoFront as ParetoFront
    from nas.pareto import hypervolume as hypervolume
    from nas.run_front import front as front
    from nas.search_study import search as search
    from nas.study import StudyResult as StudyResult
    from nas.training import TrainedSupernet as TrainedSupernet
    from nas.training import TrainingRecipe as TrainingRecipe
    from nas.training import load_trained as load_trained
    from nas.training import train_supernet as train_supernet

__version__ = "0.1.0"

_HOMES = {
    "nas.deploy.device_profile": ("DeviceProfile",),
    "nas.deploy.energy": ("measure_energy",),
    "nas.deploy.machine": ("measure_machine",),
    "nas.deploy.materialize": ("Winner", "Winners", "materialize"),
    "nas.deploy.profile": ("profile",),
    "nas.deploy.tune": ("tune",),
    "nas.deploy.verify": ("VerificationReport", "verify"),
    "nas.model": ("GPT", "Supernet", "extract", "load_gpt", "save_gpt"),
    "nas.objectives": ("Evaluation", "Objective"),
    "nas.pareto": ("ParetoFront", "hypervolume"),
    "nas.run_front": ("front",),
    "nas.search_study": ("search",),
    "nas.study": ("StudyResult",),
    "nas.training": ("TrainedSupernet", "TrainingRecipe", "load_trained", "train_supernet"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'nas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
