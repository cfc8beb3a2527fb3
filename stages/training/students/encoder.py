"""Students that encode questions and passages apart: a bi-encoder, and late interaction."""

from __future__ import annotations

import json
import shutil
import string
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from cascade.errors import ModelError
from cascade.types import TokenIds
from stages.colbert.checkpoint import PYLATE, read_format
from stages.models import pad
from stages.models.pooling import pooled, stated_pooling
from stages.training.students.base import ATTENTION, Base, Student, framed, load_into, write_folder

_COLBERT_PASSAGE_TOKENS = 300
_WARM_UP_BATCH = 32


class _Encoder(Student):
    """A BERT without its pooling head, and without dropout: its checkpoints have learned already."""

    in_batch = True
    batch_queries: ClassVar[int] = 16
    scale: ClassVar[float]
    """Of similarities between -1 and 1, so that a softmax over them can be sure of something."""

    def __init__(self, base: Base, max_query_tokens: int, max_passage_tokens: int) -> None:
        super().__init__(base, max_query_tokens, max_passage_tokens)
        if base.config.get("model_type") != "bert":
            raise ModelError(f"{base.folder}: this student starts from a BERT; choose another base")
        config: Any = BertConfig
        architecture: Any = BertModel
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        shape = config(**{**base.config, **still}, attn_implementation=ATTENTION)
        self.bert = architecture(shape, add_pooling_layer=False)
        load_into(self.bert, base.state, (), base.folder)

    @abstractmethod
    def represent(self, texts: Sequence[TokenIds], *, questions: bool) -> list[torch.Tensor]:
        """[vectors, d] for each text: what its scores are made of.

        Args:
            texts: token ids without special tokens.
            questions: whether they are questions, else passages.
        """

    @abstractmethod
    def compare(self, question: torch.Tensor, passages: Sequence[torch.Tensor]) -> torch.Tensor:
        """Scores [k] of one question's vectors with those of k passages."""

    def part_of(self, name: str) -> str:
        """Everything that BERT has is one part."""
        return "layers" if name.startswith("bert.") else "projection"


class BiEncoder(_Encoder):
    """One vector a text, pooled as its base is; the score is 20 times the cosine."""

    learning_rates: ClassVar[Mapping[str, float]] = {"layers": 2e-5}
    scale: ClassVar[float] = 20.0

    def __init__(self, base: Base, max_query_tokens: int, max_passage_tokens: int) -> None:
        super().__init__(base, max_query_tokens, max_passage_tokens)
        self._pooling = stated_pooling(base.folder)

    def collate(self, questions: Sequence[TokenIds], passages: Sequence[TokenIds], group: int) -> dict[str, Any]:
        """Both kinds of text between [CLS] and [SEP]."""
        return {**self._padded("question", questions), **self._padded("passage", passages)}

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Scores [q, q * group]."""
        asked = self._encode(inputs["question_ids"], inputs["question_mask"])
        read = self._encode(inputs["passage_ids"], inputs["passage_mask"])
        return self.scale * asked @ read.T

    def represent(self, texts: Sequence[TokenIds], *, questions: bool) -> list[torch.Tensor]:
        """One vector each, [1, d]."""
        made = self._padded("text", texts)
        ids, mask = (made[name].to(self.bert.device) for name in ("text_ids", "text_mask"))
        return list(self._encode(ids, mask)[:, None])

    def compare(self, question: torch.Tensor, passages: Sequence[torch.Tensor]) -> torch.Tensor:
        """20 times the cosines."""
        return self.scale * torch.cat(list(passages)) @ question[0]

    def save(self, folder: Path, half: bool, shared: bool) -> None:
        """A folder of transformers, and of sentence-transformers where the base was one."""
        write_folder(
            folder,
            self.base,
            {**self.base.config, "architectures": ["BertModel"]},
            self.bert.state_dict(),
            half,
            shared,
        )
        for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
            if (self.base.folder / name).is_file():
                shutil.copyfile(self.base.folder / name, folder / name)
        if (self.base.folder / "1_Pooling").is_dir():
            shutil.copytree(self.base.folder / "1_Pooling", folder / "1_Pooling")

    def _padded(self, name: str, texts: Sequence[TokenIds]) -> dict[str, torch.Tensor]:
        around = [self.tokenizer.cls_id], [self.tokenizer.sep_id]
        ids, mask = pad([framed(around[0], text, around[1]) for text in texts], self.tokenizer.pad_id)
        return {f"{name}_ids": ids, f"{name}_mask": mask}

    def _encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return functional.normalize(pooled(states, mask, self._pooling), dim=-1)


class Colbert(_Encoder):
    """Token vectors compared by MaxSim (Khattab and Zaharia 2020), saved in colbert-ai's form.

    Punctuation of passages takes no part in the score, which is 30 times the mean of the question's best matches.

    Args:
        base: what it starts from.
        max_query_tokens: of a question, [CLS], its marker and [SEP] included.
        max_passage_tokens: of a passage, without special tokens.
        dim: width of a token vector.
        expand_queries: whether questions are filled up to ``query_tokens`` with [MASK]s, which score like their tokens.
    """

    learning_rates: ClassVar[Mapping[str, float]] = {"layers": 5e-5, "projection": 5e-4}
    scale: ClassVar[float] = 30.0  # means of best matches lie closer together than cosines do

    def __init__(
        self, base: Base, max_query_tokens: int, max_passage_tokens: int, dim: int = 128, expand_queries: bool = False
    ) -> None:
        if read_format(base.folder).kind == PYLATE:
            raise ModelError(
                f"{base.folder}: expected an encoder or a checkpoint of colbert-ai, got one of PyLate, whose "
                "projection lies elsewhere; stages read those, training does not"
            )
        super().__init__(base, max_query_tokens, max_passage_tokens)
        self.query_tokens = max_query_tokens
        self.expand_queries = expand_queries
        known = base.state.get("linear.weight")
        self.linear = nn.Linear(int(base.config["hidden_size"]), dim if known is None else known.shape[0], bias=False)
        self._fresh = known is None
        if known is not None:
            self.linear.load_state_dict({"weight": known})
        token = self.tokenizer.token_id
        self._heads = [[self.tokenizer.cls_id, token(marker)] for marker in ("[unused0]", "[unused1]")]
        punctuation = [ids[0] for ids in self.tokenizer.encode(tuple(string.punctuation)) if len(ids)]
        self._skipped = torch.tensor(sorted(set(punctuation)))

    def warm_up(self, passages: Sequence[TokenIds]) -> None:
        """Makes a fresh projection that of the token states' first principal directions (uncentred).

        Cosines of projected states are then as near to those of the whole states as a projection can keep them.
        """
        if not self._fresh:
            return
        head, tail = self._heads[1], [self.tokenizer.sep_id]
        square = torch.zeros(self.linear.in_features, self.linear.in_features, dtype=torch.float64)
        device = self.linear.weight.device
        with torch.inference_mode():
            for first in range(0, len(passages), _WARM_UP_BATCH):
                part = passages[first : first + _WARM_UP_BATCH]
                ids, mask = pad([framed(head, passage, tail) for passage in part], self.tokenizer.pad_id)
                output = self.bert(input_ids=ids.to(device), attention_mask=mask.to(device))
                states = functional.normalize(output.last_hidden_state.float(), dim=-1).cpu()[mask.bool()].double()
                square += states.T @ states
        directions = torch.linalg.eigh(square).eigenvectors.flip(1)[:, : self.linear.out_features]
        with torch.no_grad():
            self.linear.weight.copy_(directions.T)
        self._fresh = False

    def collate(self, questions: Sequence[TokenIds], passages: Sequence[TokenIds], group: int) -> dict[str, Any]:
        """Questions filled up with [MASK] where they are expanded, else padded; passages padded."""
        ids, mask = self._asked(questions)
        read, kept = self._read(passages)
        return {"question_ids": ids, "question_mask": mask, "passage_ids": read, "passage_mask": kept}

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Scores [q, q * group]."""
        asked = self._encode(inputs["question_ids"], inputs["question_mask"])
        read = self._encode(inputs["passage_ids"], inputs["passage_mask"])
        dropped = self._dropped(inputs["passage_ids"], inputs["passage_mask"])
        similarity = torch.einsum("qid,pjd->qpij", asked, read)
        best = similarity.masked_fill(dropped[None, :, None, :], -torch.inf).amax(-1)
        counted = self._counted(inputs["question_mask"])
        shares = counted / counted.sum(-1, keepdim=True)
        return self.scale * (best.float() * shares[:, None, :]).sum(-1)

    def represent(self, texts: Sequence[TokenIds], *, questions: bool) -> list[torch.Tensor]:
        """The vectors of those tokens that take part in scores."""
        ids, mask = (part.to(self.bert.device) for part in (self._asked if questions else self._read)(texts))
        part = self._counted(mask) != 0 if questions else ~self._dropped(ids, mask)
        return [vectors[own] for vectors, own in zip(self._encode(ids, mask), part, strict=True)]

    def compare(self, question: torch.Tensor, passages: Sequence[torch.Tensor]) -> torch.Tensor:
        """30 times the mean of the question's best matches in each passage."""
        return self.scale * torch.stack([(question @ passage.T).amax(1).mean() for passage in passages])

    def save(self, folder: Path, half: bool, shared: bool) -> None:
        """A folder that colbert-ai reads, and so do stages."""
        state = {f"bert.{name}": tensor for name, tensor in self.bert.state_dict().items()}
        state["linear.weight"] = self.linear.weight.detach()
        write_folder(folder, self.base, {**self.base.config, "architectures": ["HF_ColBERT"]}, state, half, shared)
        metadata = {
            "dim": self.linear.out_features,
            "query_maxlen": self.query_tokens,
            "doc_maxlen": min(_COLBERT_PASSAGE_TOKENS, int(self.base.config["max_position_embeddings"])),
            "query_token_id": "[unused0]",
            "doc_token_id": "[unused1]",
            "query_token": "[Q]",
            "doc_token": "[D]",
            "mask_punctuation": True,
            "attend_to_mask_tokens": False,
            "expand_queries": self.expand_queries,
            "similarity": "cosine",
            "interaction": "colbert",
        }
        (folder / "artifact.metadata").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")

    def _asked(self, questions: Sequence[TokenIds]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of questions."""
        tail = [self.tokenizer.sep_id]
        room = self.query_tokens - len(self._heads[0]) - len(tail)
        asked = [framed(self._heads[0], question[:room], tail) for question in questions]
        return pad(asked, self.tokenizer.mask_id, multiple=self.query_tokens if self.expand_queries else 1)

    def _read(self, passages: Sequence[TokenIds]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of passages."""
        tail = [self.tokenizer.sep_id]
        return pad([framed(self._heads[1], passage, tail) for passage in passages], self.tokenizer.pad_id)

    def _counted(self, mask: torch.Tensor) -> torch.Tensor:
        """Which tokens of questions score."""
        return torch.ones_like(mask) if self.expand_queries else mask

    def _dropped(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Which tokens of passages take no part."""
        return (mask == 0) | torch.isin(ids, self._skipped.to(ids.device))

    def _encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return functional.normalize(self.linear(states).float(), dim=-1)


class UntrainedColbert(Colbert):
    """Late interaction over the token states of an encoder as it is: no markers, no projection, every token counts.

    A teacher only; what is trained from it is a ``Colbert``.
    """

    def __init__(self, base: Base, max_query_tokens: int, max_passage_tokens: int) -> None:
        super().__init__(base, max_query_tokens, max_passage_tokens)
        self._heads = [[self.tokenizer.cls_id]] * 2
        self._skipped = torch.tensor([], dtype=torch.int64)
        self.linear.requires_grad_(False)

    def _encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return functional.normalize(states.float(), dim=-1)
