"""What a student is to learn, as functions of its scores."""

from __future__ import annotations

import torch
from torch.nn import functional

LEFT_OUT = -1e4
"""Score of a candidate that takes no part; finite, so that a row of nothing else gives no NaN."""


def softmax_loss(scores: torch.Tensor, targets: torch.Tensor, left_out: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the relevant candidate among all: -log softmax(scores)[target], the mean over questions.

    Args:
        scores: [q, n].
        targets: int64 [q], the column of each question's relevant candidate.
        left_out: bool [q, n], candidates that may be relevant, too, and are no negatives.

    >>> even = torch.zeros(1, 4)
    >>> round(softmax_loss(even, torch.tensor([0]), torch.zeros(1, 4, dtype=torch.bool)).exp().item(), 3)
    4.0
    """
    return functional.cross_entropy(scores.float().masked_fill(left_out, LEFT_OUT), targets)


def margin_mse(scores: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the margins between the first candidate and each other one.

    mean (( s_0 - s_j ) - ( t_0 - t_j ))^2, Hofstätter et al. 2020 (arXiv 2010.02666), equation 4.

    Args:
        scores: [q, k], the student's.
        teacher: [q, k].

    >>> margin_mse(torch.tensor([[3.0, 1.0]]), torch.tensor([[7.0, 4.0]])).item()
    1.0
    """
    scores, teacher = scores.float(), teacher.float()
    return functional.mse_loss(scores[:, :1] - scores[:, 1:], teacher[:, :1] - teacher[:, 1:])


def listwise_kl(scores: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL(softmax(t / T) || softmax(s)): how far the student's softmax over the candidates is from the teacher's.

    Args:
        scores: [q, k], the student's.
        teacher: [q, k].
        temperature: T, divides the teacher's scores.

    >>> listwise_kl(torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 6.0]])).item()
    0.0
    """
    wanted = (teacher.float() / temperature).log_softmax(-1)
    return functional.kl_div(scores.float().log_softmax(-1), wanted, reduction="batchmean", log_target=True)


def centred_mse(scores: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared error of scores of which each question's mean is taken off.

    Args:
        scores: [q, k], the student's.
        teacher: [q, k].

    >>> centred_mse(torch.tensor([[3.0, 1.0]]), torch.tensor([[7.0, 3.0]])).item()
    1.0
    """
    scores, teacher = scores.float(), teacher.float()
    return functional.mse_loss(scores - scores.mean(-1, keepdim=True), teacher - teacher.mean(-1, keepdim=True))


def anchor_kl(scores: torch.Tensor, bi_encoder: torch.Tensor) -> torch.Tensor:
    """How far the student's softmax is from the bi-encoder's: ``listwise_kl`` over what the bi-encoder has a say in.

    A penalty in the manner of learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282).

    Args:
        scores: [q, n], the student's.
        bi_encoder: [q, n], logits; ``LEFT_OUT`` where the student is free.

    >>> anchor_kl(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[5.0, 6.0, LEFT_OUT]])).item()
    0.0
    """
    return listwise_kl(scores.float().masked_fill(bi_encoder == LEFT_OUT, LEFT_OUT), bi_encoder)


def own_candidates(scores: torch.Tensor, group: int) -> torch.Tensor:
    """[q, group]: of scores [q, q * group] of every question with every candidate, those of its own."""
    questions = scores.shape[0]
    own = torch.arange(questions, device=scores.device)
    return scores.view(questions, questions, group)[own, own]
