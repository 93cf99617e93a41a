"""Synthetic judges of the spaces M (51 choices) and L (75), of which no measurements ship: closed forms with interactions.

Perplexity: a saturating power law of the parameters (Kaplan et al. 2020), an effect of each layer's attention and FFN that fades with the
layer, and an interaction of each layer's attention with the next layer's FFN. Range and additivity are those measured: on M and L a
one-hot linear model ranks unseen architectures with tau 0.93 and 0.91.

Latency: the roofline of :mod:`surrogates.roofline` with whole waves of 128 x 128 tiles (a product of 1.1 waves takes the time of two),
and a pause for every layer that is not shaped like the one before it. Neither is a claim about a device; both are there to be searched.

n architectures, l layers, w widths, a and f different attention and FFN parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search_spaces import Architecture, Workload
from surrogates.additive.counts import NOTHING, layer_of
from surrogates.additive.encoding import ABSENT, Encoded, Encoder, Part
from surrogates.additive.exact import ExactCosts
from surrogates.base import FloatArray
from surrogates.roofline import latencies_ms

BATCH = {"gpt-m": 4, "gpt-l": 1}  # as HW-GPT-Bench profiled them
_CONTEXT = 1024
_TILE = 128
_PROCESSORS = 108  # of an A100; how many tiles are in a wave
_PAUSE = 0.02  # of a mean layer's time
# least and greatest measured perplexity (HW-GPT-Bench, 2405.10299)
_PERPLEXITY = {"gpt-m": (21.14, 35.67), "gpt-l": (18.58, 29.32)}
_LAYER_EFFECT = 0.006  # standard deviation of a part's effect on log perplexity, first layer
_INTERACTION = 0.007


@dataclass(frozen=True, eq=False)
class Scale:
    """Perplexity and latency of a space without measurements.

    Args:
        encoder: of the space M or L.
        device: of the roofline.
        seed: of the effects.
    """

    encoder: Encoder
    device: str = "a100"
    seed: int = 0

    @property
    def _name(self) -> str:
        return self.encoder.space.name

    def __call__(self, encoded: Encoded) -> FloatArray:
        """Perplexity and milliseconds, shape (n, 2)."""
        return np.column_stack([self.perplexity(encoded), self.latency_ms(encoded)])

    # --- perplexity ------------------------------------------------------------------------------

    @cached_property
    def _effects(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Of attention parts [l, a] and FFN parts [l, f], and interactions [l - 1, a, f]; parts in order of size, the larger the better."""
        rng = np.random.default_rng([self.seed, self.encoder.space.depths[-1]])
        num_layers = self.encoder.space.depths[-1]
        num_a, num_f = len(self.encoder.attention_parts), len(self.encoder.ffn_parts)
        fade_l = 1.0 / np.sqrt(1.0 + np.arange(num_layers) / 4.0)

        def falling(count: int) -> FloatArray:
            """One fading row per layer: steps from part to part are mostly gains, some are losses."""
            drops = rng.gamma(2.0, 0.5, (num_layers, count - 1)) - 0.25
            rows = -np.concatenate([np.zeros((num_layers, 1)), np.cumsum(drops, axis=1)], axis=1)
            centered: FloatArray = rows - rows.mean(axis=1, keepdims=True)
            return _LAYER_EFFECT * fade_l[:, None] * centered

        attention_la, ffn_lf = falling(num_a), falling(num_f)
        pairs = rng.normal(0.0, _INTERACTION, (num_layers - 1, num_a, num_f))
        return attention_la, ffn_lf, pairs * fade_l[1:, None, None]

    def perplexity(self, encoded: Encoded) -> FloatArray:
        """Shape (n,)."""
        attention_la, ffn_lf, pairs = self._effects
        params_n = ExactCosts(self.encoder)("params", encoded)
        layer = np.arange(attention_la.shape[0])
        a, f = encoded.attention_nl, encoded.ffn_nl
        present_nl = a != ABSENT
        effect_n = np.where(present_nl, attention_la[layer, a] + ffn_lf[layer, f], 0.0).sum(axis=1)
        both_nl = present_nl[:, 1:]  # a layer's attention and the next one's FFN
        paired = pairs[layer[:-1], a[:, :-1], f[:, 1:]]
        effect_n += np.where(both_nl, paired, 0.0).sum(axis=1)
        scale, floor, exponent = self._law
        found: FloatArray = (floor + scale * params_n**-exponent) * np.exp(effect_n)
        return found

    @cached_property
    def _law(self) -> tuple[float, float, float]:
        """``floor + scale x params^-exponent`` through the measured range at the smallest and the largest architecture."""
        exponent = 0.35
        costs = ExactCosts(self.encoder)
        small, large = (self.encoder([a]) for a in self._ends)
        x_small, x_large = (float(costs("params", e)[0]) ** -exponent for e in (small, large))
        best, worst = _PERPLEXITY[self._name]
        scale = (worst - best) / (x_small - x_large)
        return scale, best - scale * x_large, exponent

    @property
    def _ends(self) -> tuple[Architecture, Architecture]:
        return self.encoder.space.smallest, self.encoder.space.largest

    # --- latency ---------------------------------------------------------------------------------

    @cached_property
    def _workload(self) -> Workload:
        return Workload("prefill", BATCH[self._name], _CONTEXT)

    @cached_property
    def _times(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Milliseconds of the rest of the model [w, 2], of attention parts [w, 2, a] and of FFN parts [w, 2, f], in whole waves."""
        encoder = self.encoder
        layers = [NOTHING, *(layer_of(p, True) for p in encoder.attention_parts)]
        layers += [layer_of(p, False) for p in encoder.ffn_parts]
        widths = encoder.space.embed_dims
        asked = [Architecture(w, (x,), bool(b)) for w in widths for b in (0, 1) for x in layers]
        found = latencies_ms(asked, encoder.space.family, self.device, self._workload)
        table = found.reshape(len(widths), 2, len(layers))
        parts = table[:, :, 1:] - table[:, :, :1]
        split = len(encoder.attention_parts)
        attention = parts[:, :, :split] * self._waves(encoder.attention_parts, self._heads_width)
        ffn = parts[:, :, split:] * self._waves(encoder.ffn_parts, self._ffn_width)
        return table[:, :, 0], attention, ffn

    def _heads_width(self, part: Part, embed_dim: int) -> float:
        return 3 * part.width * self.encoder.space.family.head_dim

    def _ffn_width(self, part: Part, embed_dim: int) -> float:
        return part.width * embed_dim

    def _waves(self, parts: tuple[Part, ...], width: Callable[[Part, int], float]) -> FloatArray:
        """How many times longer whole waves of tiles take than the work itself, shape (w, 1, parts)."""
        rows = math.ceil(self._workload.batch * _CONTEXT / _TILE)
        found = []
        for embed_dim in self.encoder.space.embed_dims:
            tiles = [rows * math.ceil(width(part, embed_dim) / _TILE) for part in parts]
            found.append([math.ceil(t / _PROCESSORS) * _PROCESSORS / t for t in tiles])
        return np.array(found)[:, None, :]

    def latency_ms(self, encoded: Encoded) -> FloatArray:
        """Shape (n,)."""
        rest, attention, ffn = self._times
        w, b = encoded.width_n, encoded.bias_n
        a, f = encoded.attention_nl, encoded.ffn_nl
        present_nl = a != ABSENT
        each_nl = attention[w[:, None], b[:, None], a] + ffn[w[:, None], b[:, None], f]
        total_n = rest[w, b] + np.where(present_nl, each_nl, 0.0).sum(axis=1)
        changes_n = (present_nl[:, 1:] & ((a[:, 1:] != a[:, :-1]) | (f[:, 1:] != f[:, :-1]))).sum(1)
        layer_w = attention.mean(axis=(1, 2)) + ffn.mean(axis=(1, 2))
        found: FloatArray = total_n + _PAUSE * layer_w[w] * changes_n
        return found
