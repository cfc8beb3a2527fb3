"""Models: where they come from, how they are checked, tokenised and loaded. Importing this loads no torch."""

from stages.models.catalogue import CATALOGUE, BundledModel
from stages.models.layout import Layout, layout
from stages.models.loading import load_transformer, longest_input, one_thread, pad
from stages.models.reference import ModelRef, check, fingerprint, locate
from stages.models.tokenizer import HFTokenizer

__all__ = [
    "CATALOGUE",
    "BundledModel",
    "HFTokenizer",
    "Layout",
    "ModelRef",
    "check",
    "fingerprint",
    "layout",
    "load_transformer",
    "locate",
    "longest_input",
    "one_thread",
    "pad",
]
