"""What can be built: architectures, their exact costs, and the spaces they are searched in (NumPy and the standard library only)."""

from search_spaces.architecture import Architecture as Architecture
from search_spaces.architecture import LayerConfig as LayerConfig
from search_spaces.checkpoints import from_checkpoint as from_checkpoint
from search_spaces.choices import Choice as Choice
from search_spaces.costs import Costs as Costs
from search_spaces.costs import costs as costs
from search_spaces.costs import decode_flops as decode_flops
from search_spaces.costs import prefill_flops as prefill_flops
from search_spaces.costs import training_flops as training_flops
from search_spaces.family import Family as Family
from search_spaces.presets import preset as preset
from search_spaces.presets import presets as presets
from search_spaces.shapes import LinearShape as LinearShape
from search_spaces.shapes import fused_linears as fused_linears
from search_spaces.shapes import layer_linears as layer_linears
from search_spaces.shapes import linear_shapes as linear_shapes
from search_spaces.space import SearchSpace as SearchSpace
from search_spaces.sparsity import DENSE as DENSE
from search_spaces.sparsity import Sparsity as Sparsity
from search_spaces.workload import Workload as Workload
