"""How methods that are fitted to one subject are fitted to tiny-flux, found on validation individuals."""

from __future__ import annotations

from dsd.baselines.dreambooth import Tuning
from dsd.baselines.textual_inversion import Inversion

FITS = {
    "dreambooth": Tuning(identifier="", steps=100, batch=4, learning_rate=1e-3),
    "dreambooth-lora": Tuning(identifier="", rank=32, steps=150, batch=4, learning_rate=6e-3),
    "textual-inversion": Inversion(steps=100, batch=8, learning_rate=5e-3),
}
"""By method. tiny-flux has no word to spare for an identifier: one that it does not know there takes a good part of its
prompt following before anything is fitted."""
