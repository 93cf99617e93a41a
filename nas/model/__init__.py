"""Models: the weight-shared supernet, the standalone GPT, and the way from one to the other."""

from nas.model.cache import KVCache as KVCache
from nas.model.checkpoint import CheckpointError as CheckpointError
from nas.model.evaluate import perplexity as perplexity
from nas.model.evaluate import supernet_perplexities as supernet_perplexities
from nas.model.extraction import extract as extract
from nas.model.gpt import GPT as GPT
from nas.model.masks import MaskCache as MaskCache
from nas.model.storage import load_gpt as load_gpt
from nas.model.storage import load_supernet as load_supernet
from nas.model.storage import save_gpt as save_gpt
from nas.model.storage import save_supernet as save_supernet
from nas.model.storage import supernet_info as supernet_info
from nas.model.supernet import Supernet as Supernet
