"""Sparse weights: patterns, stored formats and the kernels that multiply with them."""

from nas.kernels.dispatch import table_for as table_for
from nas.kernels.dispatch import use_table as use_table
from nas.kernels.formats import PackedWeight as PackedWeight
from nas.kernels.formats import PackedWeightError as PackedWeightError
from nas.kernels.formats import from_tensors as from_tensors
from nas.kernels.formats import pack as pack
from nas.kernels.linear import SparseLinear as SparseLinear
from nas.kernels.linear import sparse_linear as sparse_linear
from nas.kernels.paths import paths as paths
from nas.kernels.patterns import magnitude_mask as magnitude_mask
