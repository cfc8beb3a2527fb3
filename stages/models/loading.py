"""Checkpoints into torch modules, and ragged token ids into tensors."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade.errors import ModelError
from cascade.types import TokenIds
from stages.models.layout import JOINT_ENCODER, read_config
from stages.models.weights import BASE_KEY, read_weights

if TYPE_CHECKING:
    import torch
    import transformers

_POSITIONS_AFTER_PAD = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text"}


def load_transformer(folder: Path, kind: Literal["encoder", "sequence-classification"]) -> transformers.PreTrainedModel:
    """The checkpoint in evaluation mode and float32, from safetensors, never with code from the folder.

    An encoder comes without its pooling head. A weight that the checkpoint does not have would be drawn at random
    and rank documents at random: that is an error here, unless its ``base_model`` has it.

    Raises:
        ModelError: the folder cannot be loaded, or lacks weights that the architecture needs.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    loader: Any = AutoModel if kind == "encoder" else AutoModelForSequenceClassification
    with quiet_transformers():
        try:
            if BASE_KEY in read_config(folder):
                model, info = _with_base(loader, folder)
            else:
                model, info = loader.from_pretrained(
                    str(folder),
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except Exception as error:  # unknown architectures, damaged files and size mismatches differ in type
            raise ModelError(f"{folder}: cannot load the model: {type(error).__name__}: {error}") from error
    if kind == "encoder" and hasattr(model, "pooler"):
        model.pooler = None
        missing = {key for key in info["missing_keys"] if not key.startswith("pooler.")}
    else:
        missing = set(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        names = sorted(missing | {key for key, *_ in info["mismatched_keys"]})
        raise ModelError(
            f"{folder}: expected weights for {kind} ({type(model).__name__}), got none or of another shape for "
            f"{', '.join(names[:5])}{' and others' if len(names) > 5 else ''}; is it a checkpoint of another kind?"
        )
    ready: transformers.PreTrainedModel = model.float().eval()
    return ready


def _with_base(loader: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a folder that leaves out what its base has, and its loading info as ``from_pretrained`` gives it."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    model = loader.from_config(config)
    weights, expected = read_weights(folder), model.state_dict()
    prefix = f"{model.base_model_prefix}."
    if not any(name.startswith(prefix) for name in expected):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    return model, {"missing_keys": missing, "mismatched_keys": []}


def load_cross_encoder(folder: Path) -> torch.nn.Module:
    """A module from pairs to scores, in evaluation mode and float32.

    Its ``forward(input_ids, attention_mask, token_type_ids)``, int64 [n, L] each, gives float32 [n, labels]: of a
    sequence-classification checkpoint of transformers, or of a ``JointEncoder``, which has one label.

    Raises:
        ModelError: the folder cannot be loaded, or lacks weights that the architecture needs.
    """
    from stages.models.classifier import Classifier
    from stages.models.joint import JointConfig, JointEncoder

    config = read_config(folder)
    if config.get("architectures") != [JOINT_ENCODER]:
        return Classifier(load_transformer(folder, "sequence-classification")).eval()
    model = JointEncoder(JointConfig.of(config))
    weights = read_weights(folder)
    missing = sorted(set(model.state_dict()) - set(weights))
    if missing:
        raise ModelError(f"{folder}: expected weights of a joint encoder, got none for {', '.join(missing[:5])}")
    try:
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    except RuntimeError as error:
        raise ModelError(f"{folder}: weights do not fit config.json: {error}") from error
    return model.eval()


def scores_pairs(folder: Path) -> bool:
    """Whether the checkpoint says of itself that it scores pairs; others encode one text at a time.

    Raises:
        ModelError: ``config.json`` is unreadable.
    """
    names = read_config(folder).get("architectures") or []
    return any(name == JOINT_ENCODER or name.endswith("ForSequenceClassification") for name in names)


def longest_input(folder: Path) -> int | None:
    """Most tokens, special ones included, that the checkpoint has positions for; None if it does not say.

    Raises:
        ModelError: ``config.json`` is unreadable.
    """
    config = read_config(folder)
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        return None
    if config.get("model_type") in _POSITIONS_AFTER_PAD:
        return positions - 1 - int(config.get("pad_token_id", 1))
    return positions


def pad(sequences: Sequence[TokenIds], pad_id: int, multiple: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences of unequal length as one tensor.

    Args:
        sequences: n arrays of token ids.
        pad_id: fills up shorter ones, on the right.
        multiple: the length L of the tensors is a multiple of this.

    Returns:
        ids int64 [n, L] and mask int64 [n, L], 1 for a token and 0 for padding.
    """
    import torch

    longest = max((len(sequence) for sequence in sequences), default=0)
    length = -(-longest // multiple) * multiple
    ids = torch.full((len(sequences), length), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(sequences), length), dtype=torch.int64)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.from_numpy(sequence)
        mask[i, : len(sequence)] = 1
    return ids, mask


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16; emulating it is slower than float32."""
    import torch

    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(supported is not None and supported() for supported in asked)


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on the calling thread alone.

    For work as small as one query: sharing it among threads gains little on idle cores and, where they are busy, makes
    every layer wait until the operating system has run them all.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers' warnings and progress bars from the user: what matters in them is raised as errors."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
