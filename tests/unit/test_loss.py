import math

import pytest
import torch

from rlvid.algo.aggregation import token_weights
from rlvid.algo.loss import LossOptions, k3_kl, policy_loss


def loss_of(logprobs, old, sampler, advantages, weights=None, sequence=None, reference=None, **options):
    n = len(logprobs)
    return policy_loss(
        torch.tensor(logprobs, requires_grad=True),
        old_logprobs_A=torch.tensor(old),
        sampler_logprobs_A=torch.tensor(sampler),
        advantages_A=torch.tensor(advantages),
        weights_A=torch.tensor(weights or [1 / n] * n),
        sequence_A=torch.tensor(sequence or [0] * n),
        options=LossOptions(**options),
        reference_logprobs_A=None if reference is None else torch.tensor(reference),
    )


def test_first_update_is_the_plain_policy_gradient():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss, _ = policy_loss(
        logprobs,
        old_logprobs_A=logprobs.detach(),
        sampler_logprobs_A=logprobs.detach(),
        advantages_A=torch.tensor([1.0, -3.0]),
        weights_A=torch.tensor([0.5, 0.5]),
        sequence_A=torch.tensor([0, 1]),
        options=LossOptions(),
    )
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert logprobs.grad.tolist() == pytest.approx([-0.5, 1.5])


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "expected"),
    [
        (math.log(1.5), 1.0, 1.28),  # clip-higher
        (math.log(1.5), -1.0, -1.5),  # a bad answer made likelier is not clipped
        (math.log(0.5), -1.0, -0.8),
        (math.log(0.5), 1.0, 0.5),
        (math.log(1.1), 2.0, 2.2),
    ],
)
def test_asymmetric_clip(log_ratio, advantage, expected):
    loss, _ = loss_of([-1.0 + log_ratio], [-1.0], [-1.0], [advantage])
    assert loss.item() == pytest.approx(-expected, rel=1e-5)


def test_importance_is_truncated():
    loss, _ = loss_of([-1.0, -1.0], [-1.0, -1.0], [-3.0, -1.5], [1.0, 1.0])
    assert loss.item() == pytest.approx(-(2.0 + math.exp(0.5)) / 2, rel=1e-5)


def test_sequence_ratio_is_the_geometric_mean():
    loss, _ = loss_of([-1.1, -0.9, -2.0], [-1.0, -1.0, -1.9], [-1.0, -1.0, -1.9], [1.0, 1.0, 1.0], sequence=[0, 0, 1], ratio="sequence")
    assert loss.item() == pytest.approx(-(1 + 1 + math.exp(-0.1)) / 3, rel=1e-5)


def test_kl_is_k3():
    assert k3_kl(torch.tensor([-1.0]), torch.tensor([-1.5])).item() == pytest.approx(math.exp(-0.5) + 0.5 - 1, rel=1e-6)
    with_kl, sums = loss_of([-1.0], [-1.0], [-1.0], [0.0], reference=[-1.5], kl_coef=0.1)
    assert with_kl.item() == pytest.approx(0.1 * sums["loss/kl"].item(), rel=1e-6)


def test_what_is_masked_counts_nothing_and_the_others_make_the_mean():
    assert token_weights([2, 6, 90], "token", 100, [False, False, True]) == [1 / 8, 1 / 8, 0.0]
    assert token_weights([2, 6, 90], "sequence", 100, [False, False, True]) == [1 / 4, 1 / 12, 0.0]
    assert token_weights([2, 6, 90], "constant", 100, [False, False, True]) == [1 / 200, 1 / 200, 0.0]
    assert token_weights([90, 90], "token", 100, [True, True]) == [0.0, 0.0]


def test_token_weights():
    assert token_weights([2, 6], "token", 10) == [1 / 8, 1 / 8]
    assert token_weights([2, 6], "sequence", 10) == [1 / 4, 1 / 12]
    assert token_weights([2, 6], "constant", 10) == [1 / 20, 1 / 20]


def test_kl_of_almost_equal_policies_is_not_negative():
    near = torch.linspace(-1e-3, 1e-3, 999)
    assert (k3_kl(torch.zeros(999), near) >= 0).all() and k3_kl(torch.zeros(1), torch.tensor([1e-4])).item() == pytest.approx(5e-9, rel=1e-3)


def test_cispo_keeps_the_gradient_of_every_token():
    """Ratio e^0.5 is beyond 1.28: PPO's clip leaves no gradient for a good answer, CISPO weights logp's by the clipped ratio, which has none of its own."""
    shared = {"old": [-1.5], "sampler": [-1.5], "advantages": [2.0]}
    logprobs = torch.tensor([-1.0], requires_grad=True)
    for surrogate, gradient in (("clip", 0.0), ("cispo", -1.28 * 2.0)):
        loss, _ = policy_loss(
            logprobs,
            old_logprobs_A=torch.tensor(shared["old"]),
            sampler_logprobs_A=torch.tensor(shared["sampler"]),
            advantages_A=torch.tensor(shared["advantages"]),
            weights_A=torch.tensor([1.0]),
            sequence_A=torch.tensor([0]),
            options=LossOptions(surrogate=surrogate),
        )
        (found,) = torch.autograd.grad(loss, logprobs)
        assert found.item() == pytest.approx(gradient)


@pytest.mark.parametrize(
    ("importance", "loss", "masked"),
    [
        # Ratios learner / sampler: 1, e^2 in the first answer; 1 in the second. Advantages 1, weights 1/3, first update: the loss is -1/3 x the sum of weights.
        ("cap", -(1 + 2 + 1) / 3, None),
        ("mask_tokens", -(1 + 0 + 1) / 3, 1),
        # The first answer's geometric mean is e: inside the band of 0.5 to 5, so both its tokens count in full.
        ("mask_answers", -(1 + math.exp(2) + 1) / 3, 0),
    ],
)
def test_masked_importance_sampling(importance, loss, masked):
    found, sums = loss_of([-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0], [-1.0, -3.0, -1.0], [1.0, 1.0, 1.0], sequence=[0, 0, 1], importance=importance)
    assert found.item() == pytest.approx(loss)
    assert (sums.get("loss/sum_masked") is None) == (masked is None) and (masked is None or sums["loss/sum_masked"].item() == masked)


def test_a_whole_answer_is_left_out():
    _, sums = loss_of([-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0], [-3.0, -3.0, -1.0], [1.0, 1.0, 1.0], sequence=[0, 0, 1], importance="mask_answers")
    assert sums["loss/sum_masked"].item() == 2


def test_entropy_bonus():
    loss, sums = policy_loss(
        torch.tensor([-1.0, -1.0]),
        old_logprobs_A=torch.tensor([-1.0, -1.0]),
        sampler_logprobs_A=torch.tensor([-1.0, -1.0]),
        advantages_A=torch.zeros(2),
        weights_A=torch.tensor([0.5, 0.5]),
        sequence_A=torch.tensor([0, 1]),
        options=LossOptions(entropy_coef=0.1),
        entropy_A=torch.tensor([1.0, 3.0]),
    )
    assert loss.item() == pytest.approx(-0.1 * 2.0) and sums["loss/entropy"].item() == pytest.approx(2.0)
