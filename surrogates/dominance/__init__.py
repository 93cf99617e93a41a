"""Pareto dominance, exact hypervolume and attainment surfaces of arrays. Everything is minimized.

n points, m objectives. ``a`` dominates ``b`` when it is nowhere worse and somewhere better; equal points do not dominate each
other. The hypervolume is the volume of the part of the space that some point dominates and that dominates ``ref_point``.
"""

from surrogates.dominance.attainment import attained_share as attained_share
from surrogates.dominance.attainment import attainment_surface as attainment_surface
from surrogates.dominance.contributions import (
    hypervolume_contributions as hypervolume_contributions,
)
from surrogates.dominance.hypervolume import Hypervolume as Hypervolume
from surrogates.dominance.hypervolume import hypervolume as hypervolume
from surrogates.dominance.hypervolume import normalized_hypervolume as normalized_hypervolume
from surrogates.dominance.sorting import non_dominated_mask as non_dominated_mask
from surrogates.dominance.sorting import non_dominated_rank as non_dominated_rank
