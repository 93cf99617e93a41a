"""Growing fidelity: a cheap perplexity of every architecture first, the full one for those that are likely to count.

Pure decisions on finished evaluations; who measures, and where trials are kept, is not known here.
"""

from nas.fidelity.agreement import agreement as agreement
from nas.fidelity.calibration import Calibration as Calibration
from nas.fidelity.growing import GrowingSearch as GrowingSearch
from nas.fidelity.growing import Judge as Judge
from nas.fidelity.growing import Step as Step
from nas.fidelity.improvement import expected_improvement as expected_improvement
from nas.fidelity.options import Growing as Growing
from nas.fidelity.predictions import Predicted as Predicted
from nas.fidelity.predictions import Predictions as Predictions
from nas.fidelity.record import LossRecord as LossRecord
from nas.fidelity.record import full_mask as full_mask
from nas.fidelity.record import spread_order as spread_order
from nas.fidelity.record import tokens_paid as tokens_paid
from nas.fidelity.telling_parts import telling_parts as telling_parts
