"""Derivatives that are written down are those that autograd finds."""

import pytest
import torch

from agents.distributions import Categorical
from agents.ppo import clipped_surrogate


@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_categorical_s_log_probabilities_and_entropy(lead: tuple[int, ...]) -> None:
    logits = torch.randn(*lead, 7, 4, dtype=torch.float64, requires_grad=True)
    actions = torch.randint(4, (*lead, 7))
    assert torch.autograd.gradcheck(lambda x: Categorical(x).evaluate(actions), (logits,))
    distribution = torch.distributions.Categorical(logits=logits)
    log_prob, entropy = Categorical(logits).evaluate(actions)
    torch.testing.assert_close(log_prob, distribution.log_prob(actions))
    torch.testing.assert_close(entropy, distribution.entropy())


@pytest.mark.parametrize("lead", [(), (3,)])
def test_the_clipped_surrogate(lead: tuple[int, ...]) -> None:
    old, advantages = torch.randn(2, *lead, 50, dtype=torch.float64)
    log_prob = (old + 0.3 * torch.randn_like(old)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clipped_surrogate(x, old, advantages, 0.2), (log_prob,))
    ratio = (log_prob - old).exp()
    assert ((ratio - 1).abs() > 0.2).any()
    assert ((ratio - 1).abs() < 0.2).any()
    expected = -torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean(-1)
    torch.testing.assert_close(clipped_surrogate(log_prob, old, advantages, 0.2), expected)


def test_a_loss_that_is_not_finite_says_so() -> None:
    """What a member's own failure is found by must not be lost in a comparison."""
    log_prob = torch.tensor([float("nan"), 0.0], requires_grad=True)
    clipped_surrogate(log_prob, torch.zeros(2), torch.ones(2), 0.2).backward()
    assert log_prob.grad is not None
    assert log_prob.grad.isnan().tolist() == [True, False]
