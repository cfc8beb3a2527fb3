"""Tiny models with random weights and real tokenizers, and passages in memory, for tests of stages."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.index.memory import MemoryPassages
from cascade.types import Document

TEXTS = (
    "A cascade ranks cheaply first and carefully later.",
    "The cat sat on the mat, and the dog sat on the cat.",
    "Deadlines are absolute: what one stage spends is gone for all.",
    "",
    "Retrievers find candidates; rerankers read them again, word by word, and again after that.",
    "Ünïcödé wörds, 数字 and émojis 🙂 belong to passages too.",
    "mat",
)
LETTERS = sorted({letter for text in TEXTS for letter in text.lower() if not letter.isspace()})
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
DISTILBERT_SIZE = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
SPREAD = {"initializer_range": 0.4}
"""Weights far enough apart that different inputs get clearly different scores."""


def passages(texts: Sequence[str] = TEXTS) -> MemoryPassages:
    """Passages over texts, one each."""
    return MemoryPassages([Document(f"d{number}", text) for number, text in enumerate(texts)])


def tiny_bert_classifier(folder: Path, labels: int = 1) -> Path:
    """A BERT sequence classifier: [CLS] a [SEP] b [SEP] with segments."""
    from transformers import BertConfig, BertForSequenceClassification

    vocabulary = save_wordpiece(folder, ["input_ids", "token_type_ids", "attention_mask"])
    config = BertConfig(vocab_size=vocabulary, num_labels=labels, max_position_embeddings=128, **SIZE, **SPREAD)
    return save_random(BertForSequenceClassification, config, folder)


def tiny_distilbert_classifier(folder: Path, labels: int = 1) -> Path:
    """A DistilBERT sequence classifier: [CLS] a [SEP] b [SEP] without segments."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    vocabulary = save_wordpiece(folder, ["input_ids", "attention_mask"])
    config = DistilBertConfig(
        vocab_size=vocabulary, num_labels=labels, max_position_embeddings=128, **DISTILBERT_SIZE, **SPREAD
    )
    return save_random(DistilBertForSequenceClassification, config, folder)


def joint_encoder(folder: Path, gate: float = -2.0) -> Path:
    """The project's own architecture with the weights of all-MiniLM-L6-v2, untrained."""
    import torch

    from stages.models import read_weights, save_weights
    from stages.models.catalogue import bundled
    from stages.models.joint import JointConfig, JointEncoder, save_joint_files

    base = bundled("bundled:bi-encoder").folder()
    config = save_joint_files(folder, base)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = JointEncoder(JointConfig.of(config), gate)
    model.load_state_dict(read_weights(base), strict=False)
    save_weights(folder, model.state_dict(), base="bundled:bi-encoder")
    return folder


def tiny_roberta_classifier(folder: Path, labels: int = 1) -> Path:
    """A RoBERTa sequence classifier: <s> a </s></s> b </s>, positions counted from the padding id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import RobertaConfig, RobertaForSequenceClassification

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "he", "Ġthe"]
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
    tokenizer = Tokenizer(models.BPE({piece: id_ for id_, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(sep=("</s>", 2), cls=("<s>", 0))
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    save_tokenizer(folder, tokenizer, ["input_ids", "attention_mask"], names)
    config = RobertaConfig(
        vocab_size=len(pieces), num_labels=labels, max_position_embeddings=130, type_vocab_size=1, **SIZE, **SPREAD
    )
    return save_random(RobertaForSequenceClassification, config, folder)


def tiny_deberta_classifier(folder: Path, labels: int = 1) -> Path:
    """A DeBERTa-v3 sequence classifier: a unigram vocabulary, relative positions, segments that it ignores."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # transformers compiles parts of DeBERTa on import
        from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    pieces = [(name, 0.0) for name in ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")]
    pieces += [("▁the", -3.0), ("▁and", -4.0), *((letter, -8.0) for letter in ["▁", *LETTERS])]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    save_tokenizer(folder, tokenizer, ["input_ids", "token_type_ids", "attention_mask"], BERT_NAMES)
    config = DebertaV2Config(
        vocab_size=len(pieces),
        num_labels=labels,
        max_position_embeddings=128,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        pooler_hidden_size=SIZE["hidden_size"],
        **SIZE,
        **SPREAD,
    )
    return save_random(DebertaV2ForSequenceClassification, config, folder)


CLASSIFIERS: dict[str, Callable[..., Path]] = {
    "bert": tiny_bert_classifier,
    "distilbert": tiny_distilbert_classifier,
    "roberta": tiny_roberta_classifier,
    "deberta-v3": tiny_deberta_classifier,
}
"""By architecture."""

BERT_NAMES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def save_wordpiece(folder: Path, inputs: list[str]) -> int:
    """Writes a small BERT tokenizer into the folder; the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "and", "again", *LETTERS]
    pieces += [f"##{letter}" for letter in LETTERS]
    tokenizer = Tokenizer(models.WordPiece({piece: id_ for id_, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    save_tokenizer(folder, tokenizer, inputs, BERT_NAMES)
    return len(pieces)


def save_tokenizer(folder: Path, tokenizer: Any, inputs: list[str], names: Mapping[str, str]) -> None:
    """Writes a ``tokenizers`` tokenizer the way transformers does."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names).save_pretrained(folder)


def save_random(architecture: Any, config: Any, folder: Path) -> Path:
    """Saves a model of the configuration with random weights, always the same."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(7)
        architecture(config).save_pretrained(folder)
    return folder
