"""Searchers: Optuna samplers by name, resumable and reproducible. They see parameters and values only, never a model."""

from nas.searchers.believed import BelievedTrial as BelievedTrial
from nas.searchers.believed import believed_front as believed_front
from nas.searchers.factory import DEFAULT as DEFAULT
from nas.searchers.factory import make_sampler as make_sampler
from nas.searchers.factory import model_samplers as model_samplers
from nas.searchers.factory import samplers as samplers
from nas.searchers.indexed import index_of as index_of
from nas.searchers.reference import default_ref_point as default_ref_point
