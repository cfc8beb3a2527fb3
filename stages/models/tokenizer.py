"""Text to token ids with the ``tokenizers`` library, from a checkpoint's ``tokenizer.json``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cascade.errors import ModelError
from cascade.types import TokenIds

if TYPE_CHECKING:
    import tokenizers

_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_IDS = ("truncation", "padding", "post_processor", "decoder")
_CHARACTERS_PER_TOKEN = 20
_CLS = ("[CLS]", "<s>", "<cls>")
_SEP = ("[SEP]", "</s>", "<sep>")
_PAD = ("[PAD]", "<pad>")
_MASK = ("[MASK]", "<mask>")
_UNK = ("[UNK]", "<unk>")


class HFTokenizer:
    """A checkpoint's tokenizer; implements ``cascade.stage.Tokenizer`` and may be used by many threads at once.

    A special token written out in a text (``[SEP]``) is read as plain characters: no document can pretend that
    it ends and another begins.

    Args:
        folder: model folder with a ``tokenizer.json``.
        window: most tokens of a passage that the model is to read.
    """

    def __init__(self, folder: Path, window: int) -> None:
        self.window = window
        self._path = folder / "tokenizer.json"
        self._tokenizer = read_tokenizer(folder)
        self._tokenizer.encode_special_tokens = True
        self._fingerprint = _rules_digest(self._path)
        self._plain = _plain_ids(self._tokenizer)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over vocabulary and rules; padding, truncation and special tokens' places do not count."""
        return self._fingerprint

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def cls_id(self) -> int:
        """The token that begins every input."""
        return self._first_of(_CLS)

    @property
    def sep_id(self) -> int:
        """The token that ends every text."""
        return self._first_of(_SEP)

    @property
    def pad_id(self) -> int:
        """The token that fills up shorter inputs."""
        return self._first_of(_PAD)

    @property
    def mask_id(self) -> int:
        """The token that stands for any other."""
        return self._first_of(_MASK)

    def token_id(self, token: str) -> int:
        """The id of a token of the vocabulary.

        Raises:
            ModelError: the vocabulary has no such token.
        """
        return self._first_of((token,))

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """int32 [tokens] for each text, without special tokens and without truncation."""
        encodings = self._tokenizer.encode_batch_fast([_readable(text) for text in texts], add_special_tokens=False)
        return [self._plain[encoding.ids] for encoding in encodings]

    def encode_start(self, text: str, limit: int) -> TokenIds:
        """int32 [at most limit]: the first tokens of a text, in time that its length does not change.

        For queries: a word of a megabyte costs no more than a long sentence.
        """
        start = text[: limit * _CHARACTERS_PER_TOKEN]
        return self.encode([start])[0][:limit]

    def spans(self, text: str) -> npt.NDArray[np.int64]:
        """int64 [tokens, 2]: where each token of ``encode([text])`` begins and ends in ``text``, in characters."""
        offsets = self._tokenizer.encode(_readable(text), add_special_tokens=False).offsets
        return np.array(offsets, np.int64).reshape(-1, 2)

    def _first_of(self, tokens: Sequence[str]) -> int:
        for token in tokens:
            found = self._tokenizer.token_to_id(token)
            if found is not None:
                return int(found)
        raise ModelError(f"{self._path}: expected {' or '.join(tokens)} in the vocabulary, which has no such token")


def read_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a model folder, its truncation and padding taken off.

    Raises:
        ModelError: the file is missing or damaged.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception for a damaged file
        raise ModelError(f"{path}: cannot read the tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _plain_ids(tokenizer: tokenizers.Tokenizer) -> TokenIds:
    """int32 [ids]: each id itself, but the unknown token for special ones.

    A unigram model finds ``[SEP]`` among its pieces even where special tokens are to be read as characters.
    """
    plain = np.arange(max(tokenizer.get_vocab().values(), default=-1) + 1, dtype=np.int32)
    unknown = next((id_ for token in _UNK if (id_ := tokenizer.token_to_id(token)) is not None), None)
    if unknown is not None:
        special = [id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        plain[special] = unknown
    return plain


def _readable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot express, replaced one for one by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _rules_digest(path: Path) -> str:
    rules = json.loads(path.read_text(encoding="utf-8"))
    for key in _NOT_IDS:
        rules.pop(key, None)
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]
