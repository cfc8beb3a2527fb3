"""Models: where they come from, how they are checked, tokenised and loaded. Importing this loads no torch."""

from stages.models.catalogue import CATALOGUE, BundledModel
from stages.models.layout import Layout, layout
from stages.models.loading import (
    cpu_has_bfloat16,
    load_cross_encoder,
    load_transformer,
    longest_input,
    one_thread,
    pad,
    scores_pairs,
)
from stages.models.reference import ModelRef, check, fingerprint, locate
from stages.models.tokenizer import HFTokenizer
from stages.models.weights import read_weights, save_weights

__all__ = [
    "CATALOGUE",
    "BundledModel",
    "HFTokenizer",
    "Layout",
    "ModelRef",
    "check",
    "cpu_has_bfloat16",
    "fingerprint",
    "layout",
    "load_cross_encoder",
    "load_transformer",
    "locate",
    "longest_input",
    "one_thread",
    "pad",
    "read_weights",
    "save_weights",
    "scores_pairs",
]
