"""What a network's outputs say about actions, for any leading member dimensions.

Shapes: ``m`` members (none for a single agent), ``b`` batch, ``a`` action numbers. They are
Stable-Baselines3's distributions (``common/distributions.py``), written for what a training loop
asks of them: a single agent draws the numbers that SB3 draws, and each member draws from a
generator of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LOG_SQRT_2PI = 0.9189385332046727


class Draws:
    """Random numbers for a tensor, each member's from its own generator.

    Args:
        generators: one for each member, or the only one. ``None`` leaves a member's numbers at
            0: it waits, and its generator stays where it is.
        members: whether the tensors have a leading member dimension.
    """

    def __init__(self, generators: Sequence[Generator | None], members: bool):
        self.generators = generators
        self.members = members

    def fill(self, like: Tensor, draw: Callable[[Tensor, int, Generator], object]) -> Tensor:
        """A tensor like ``like``, of which ``draw(part, member, generator)`` fills each member's part."""
        out = torch.zeros_like(like)
        parts = out.unbind(0) if self.members else (out,)
        for member, (part, generator) in enumerate(zip(parts, self.generators, strict=True)):
            if generator is not None:
                draw(part, member, generator)
        return out

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers, of the shape of ``like``."""
        return self.fill(like, lambda part, _, generator: part.normal_(generator=generator))

    def exponential(self, like: Tensor) -> Tensor:
        """Exponential numbers of mean 1, of the shape of ``like``."""
        return self.fill(like, lambda part, _, generator: part.exponential_(generator=generator))


class Distribution(ABC):
    """A distribution over the actions of every sample."""

    @abstractmethod
    def sample(self, draws: Draws) -> Tensor:
        """An action for each sample."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The most probable action of each sample."""

    @abstractmethod
    def log_prob(self, actions: Tensor) -> Tensor:
        """The log-probability of an action for each sample, ``(m, b)``."""

    @abstractmethod
    def entropy(self) -> Tensor | None:
        """The entropy of each sample's distribution, ``(m, b)``; ``None`` where there is no closed form."""

    def evaluate(self, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities and entropy, as a loss takes both."""
        return self.log_prob(actions), self.entropy()


class Categorical(Distribution):
    """Discrete actions ``(m, b)``, by their logits ``(m, b, a)``.

    Probabilities lie as ``(m, a, b)``: where actions are few, torch's kernels are ten times faster across the
    samples than along the actions.
    """

    def __init__(self, logits: Tensor):
        self.logits = logits

    @cached_property
    def log_p(self) -> Tensor:
        return F.log_softmax(self.logits.mT, dim=-2)

    def sample(self, draws: Draws) -> Tensor:
        # The race of exponentials by which torch.multinomial draws one of several.
        p = self.logits.softmax(-1)
        return (p / draws.exponential(p)).argmax(-1)

    def mode(self) -> Tensor:
        return self.log_p.argmax(-2)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.log_p.gather(-2, actions.long().unsqueeze(-2)).squeeze(-2)

    def entropy(self) -> Tensor:
        return -(self.log_p.exp() * self.log_p).sum(-2)

    def evaluate(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        evaluated: tuple[Tensor, Tensor] = _Evaluation.apply(self.logits, actions)  # type: ignore[no-untyped-call]
        return evaluated


class _Evaluation(torch.autograd.Function):
    """``Categorical``'s log-probabilities and entropy H, whose derivatives at the logits can be written down.

    ``d log p_k / d logit_j = [j = k] - p_j`` and ``d H / d logit_j = -p_j (log p_j + H)``. Autograd, which
    goes through every operation, takes three times as long.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(logits.mT, dim=-2)
        p, chosen = log_p.exp(), actions.long().unsqueeze(-2)
        entropy = (p * log_p).sum(-2).neg_()
        ctx.save_for_backward(log_p, p, chosen, entropy)
        return log_p.gather(-2, chosen).squeeze(-2), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, log_prob_error: Tensor, entropy_error: Tensor) -> tuple[Tensor, None]:
        log_p, p, chosen, entropy = ctx.saved_tensors
        log_prob_error = log_prob_error.unsqueeze(-2)
        error = (log_p + entropy.unsqueeze(-2)).mul_(entropy_error.unsqueeze(-2)).add_(log_prob_error).mul_(p).neg_()
        return error.scatter_add_(-2, chosen, log_prob_error).mT, None


class MultiCategorical(Distribution):
    """Several discrete actions ``(m, b, a)``, by the logits of all, one after the other."""

    def __init__(self, logits: Tensor, counts: Sequence[int]):
        self.parts = [Categorical(part) for part in logits.split(list(counts), dim=-1)]

    def sample(self, draws: Draws) -> Tensor:
        return torch.stack([part.sample(draws) for part in self.parts], dim=-1)

    def mode(self) -> Tensor:
        return torch.stack([part.mode() for part in self.parts], dim=-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        chosen = actions.unbind(-1)
        return torch.stack([part.log_prob(a) for part, a in zip(self.parts, chosen, strict=True)]).sum(0)

    def entropy(self) -> Tensor:
        return torch.stack([part.entropy() for part in self.parts]).sum(0)


class Bernoulli(Distribution):
    """Binary actions ``(m, b, a)``, by their logits."""

    def __init__(self, logits: Tensor):
        self.logits = logits

    def sample(self, draws: Draws) -> Tensor:
        p = self.logits.sigmoid()
        parts = p.unbind(0) if draws.members else (p,)
        return draws.fill(p, lambda part, member, generator: part.bernoulli_(parts[member], generator=generator))

    def mode(self) -> Tensor:
        return self.logits.sigmoid().round()

    def log_prob(self, actions: Tensor) -> Tensor:
        return -self._cross_entropy(actions.to(self.logits.dtype))

    def entropy(self) -> Tensor:
        return self._cross_entropy(self.logits.sigmoid())

    def _cross_entropy(self, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits, target, reduction="none").sum(-1)


class Gaussian(Distribution):
    """Continuous actions ``(m, b, a)``: means ``(m, b, a)``, one log standard deviation ``(m, a)`` for all samples."""

    def __init__(self, means: Tensor, log_std: Tensor):
        self.means = means
        self.log_std = log_std.unsqueeze(-2)

    def sample(self, draws: Draws) -> Tensor:
        return draws.normal(self.means).mul_(self.log_std.exp()).add_(self.means)

    def mode(self) -> Tensor:
        return self.means

    def log_prob(self, actions: Tensor) -> Tensor:
        scaled = (actions - self.means) * (-self.log_std).exp()
        return -(scaled.square() / 2 + self.log_std + LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        return (self.log_std + (LOG_SQRT_2PI + 0.5)).sum(-1).expand(self.means.shape[:-1])


class StateDependentNoise(Distribution):
    """Continuous actions whose noise is a linear function of the last hidden activity (gSDE, Raffin et al. 2022).

    Args:
        means: ``(m, b, a)``.
        log_std: of the function's weights, ``(m, hidden, a)``.
        hidden: the last hidden activity, ``(m, b, hidden)``.
        settings: SB3's distribution, for its own settings.
        noise: the drawn weights: one function for each sample, ``(m, b, hidden, a)``.
    """

    def __init__(
        self,
        means: Tensor,
        log_std: Tensor,
        hidden: Tensor,
        settings: StateDependentNoiseDistribution,
        noise: Tensor | None,
    ):
        self.means = means
        self.hidden = hidden
        self.bijector = settings.bijector
        self.noise = noise
        variance = torch.matmul(hidden.square(), settings.get_std(log_std).square())
        self.std = (variance + settings.epsilon).sqrt()

    def sample(self, draws: Draws) -> Tensor:
        assert self.noise is not None, "exploration noise is drawn before acting"
        return self._squashed(self.means + torch.matmul(self.hidden.unsqueeze(-2), self.noise).squeeze(-2))

    def mode(self) -> Tensor:
        return self._squashed(self.means)

    def log_prob(self, actions: Tensor) -> Tensor:
        raw = actions if self.bijector is None else self.bijector.inverse(actions)
        log_prob = -(((raw - self.means) / self.std).square() / 2 + self.std.log() + LOG_SQRT_2PI).sum(-1)
        return log_prob if self.bijector is None else log_prob - self.bijector.log_prob_correction(raw).sum(-1)

    def entropy(self) -> Tensor | None:
        return None if self.bijector is not None else (self.std.log() + (LOG_SQRT_2PI + 0.5)).sum(-1)

    def _squashed(self, actions: Tensor) -> Tensor:
        return actions if self.bijector is None else self.bijector.forward(actions)


def of_outputs(outputs: Tensor, action_space: spaces.Space, log_std: Tensor | None) -> Distribution:
    """The distribution that a network's outputs describe, for every action space but with gSDE.

    Args:
        outputs: ``(m, b, outputs)``.
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        log_std: of a Box's actions.
    """
    match action_space:
        case spaces.Discrete():
            return Categorical(outputs)
        case spaces.MultiDiscrete():
            return MultiCategorical(outputs, action_space.nvec.tolist())
        case spaces.MultiBinary():
            return Bernoulli(outputs)
    assert log_std is not None
    return Gaussian(outputs, log_std)
