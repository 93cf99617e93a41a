"""Pareto fronts: their members, how good they are, and which of them to build. Everything is minimized.

Dominance, hypervolume and attainment of plain arrays are in :mod:`surrogates.dominance`, where the benchmark needs them too; they are
offered here as well. The front of measured architectures is :class:`ParetoFront`.
"""

from nas.pareto.convergence import Convergence as Convergence
from nas.pareto.convergence import convergence as convergence
from nas.pareto.convergence import convergence_figure as convergence_figure
from nas.pareto.front import ParetoFront as ParetoFront
from nas.pareto.indicators import additive_epsilon as additive_epsilon
from nas.pareto.indicators import igd_plus as igd_plus
from nas.pareto.indicators import r2 as r2
from nas.pareto.indicators import scaled as scaled
from nas.pareto.indicators import simplex_weights as simplex_weights
from nas.pareto.knee import knee_distances as knee_distances
from nas.pareto.knee import knee_point as knee_point
from nas.pareto.subset import SubsetSelection as SubsetSelection
from nas.pareto.subset import select_subset as select_subset
from surrogates.dominance import Hypervolume as Hypervolume
from surrogates.dominance import attained_share as attained_share
from surrogates.dominance import attainment_surface as attainment_surface
from surrogates.dominance import hypervolume as hypervolume
from surrogates.dominance import hypervolume_contributions as hypervolume_contributions
from surrogates.dominance import non_dominated_mask as non_dominated_mask
from surrogates.dominance import non_dominated_rank as non_dominated_rank
from surrogates.dominance import normalized_hypervolume as normalized_hypervolume
