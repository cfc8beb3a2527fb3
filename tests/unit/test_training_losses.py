import math

import pytest
import torch

from stages.training.losses import LEFT_OUT, anchor_kl, listwise_kl, margin_mse, own_candidates, softmax_loss


def test_softmax_loss_is_the_negative_log_share_of_the_target() -> None:
    scores = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    loss = softmax_loss(scores, torch.tensor([1, 0]), torch.zeros(2, 2, dtype=torch.bool))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_candidates_left_out_do_not_count_and_get_no_gradient() -> None:
    scores = torch.tensor([[1.0, 5.0, 1.0]], requires_grad=True)
    loss = softmax_loss(scores, torch.tensor([0]), torch.tensor([[False, True, False]]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert scores.grad is not None
    assert scores.grad[0, 1] == 0


def test_margin_mse_compares_margins_not_scores() -> None:
    teacher = torch.tensor([[3.0, 1.0, 0.0]])
    assert margin_mse(teacher + 7, teacher).item() == 0
    assert margin_mse(torch.zeros(1, 3), teacher).item() == pytest.approx((2**2 + 3**2) / 2)


def test_listwise_kl_is_that_of_the_distributions() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(9.0), 0.0]])
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert listwise_kl(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert listwise_kl(student, 4 * teacher, temperature=4).item() == pytest.approx(expected, rel=1e-5)


def test_the_anchor_is_the_divergence_from_the_bi_encoder_where_it_has_a_say() -> None:
    scores = torch.tensor([[0.0, 50.0, 0.0]], requires_grad=True)
    bi_encoder = torch.tensor([[math.log(9.0), LEFT_OUT, 0.0]])
    loss = anchor_kl(scores, bi_encoder)
    loss.backward()
    assert loss.item() == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5), rel=1e-5)
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([-0.4, 0.0, 0.4], abs=1e-5)


def test_own_candidates_are_the_blocks_of_the_diagonal() -> None:
    scores = torch.arange(12.0).view(2, 6)
    assert own_candidates(scores, 3).tolist() == [[0, 1, 2], [9, 10, 11]]
