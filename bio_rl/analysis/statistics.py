"""Statistics of few runs, with their uncertainty.

After Agarwal, Schwarzer, Castro, Courville & Bellemare (2021), "Deep Reinforcement Learning at the Edge of the
Statistical Precipice", sections 4.1 to 4.3, and Mathieu et al. (2023), "AdaStop: adaptive statistical testing for sound
comparisons of Deep RL agents".

Scores of one rule are a sequence with an array ``(runs,)`` for each task: a stratum of the bootstrap. A resample
is never of the same random numbers as another: each call draws from the generator that it is given.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
"""Of every interval; one less is the family-wise error of a comparison."""
LEAST_RUNS = 3
"""Under which an interval would say nothing."""
RESAMPLES, PERMUTATIONS = 2_000, 10_000
POWER = 0.8
"""With which a number of further seeds would settle a comparison."""
MOST_SEEDS = 1_000
"""More than anybody runs: a difference that needs them is as good as none."""

Scores = Sequence[np.ndarray]
Statistic = Callable[[Sequence[np.ndarray]], np.ndarray]
"""A number of arrays ``(..., runs)``, one for each task, of the same leading dimensions: ``(...,)``."""


class Estimate(NamedTuple):
    """A number and its interval; ``None`` where there are too few runs for one."""

    value: float
    interval: tuple[float, float] | None = None

    @property
    def low(self) -> float:
        """The interval's lower end, or the number itself."""
        return self.value if self.interval is None else self.interval[0]

    @property
    def high(self) -> float:
        """The upper end."""
        return self.value if self.interval is None else self.interval[1]

    def overlaps(self, other: "Estimate") -> bool:
        """Whether there is a number in both intervals."""
        return self.low <= other.high and other.low <= self.high


class Pair(NamedTuple):
    """Two rules compared.

    Attributes:
        one, other: their names; ``one`` has the higher mean.
        difference: of their means.
        p_value: adjusted for all pairs that were compared; 1 where there are too few runs to test anything.
        is_settled: whether they differ, the chance of any such claim in the family being wrong held at 1 - ``LEVEL``.
        more_seeds: of each, that would settle it if the difference is as large as it looks; ``None`` where it is
            settled, or where more than ``MOST_SEEDS`` would be needed.
    """

    one: str
    other: str
    difference: float
    p_value: float
    is_settled: bool
    more_seeds: int | None


# -- numbers of one rule -------------------------------------------------------------------


def iqm(scores: Sequence[np.ndarray]) -> np.ndarray:
    """The interquartile mean: of all runs of all tasks, without the lowest and the highest quarter.

    Agarwal et al. (2021), section 4.3. A quarter is rounded down to whole runs.

    Args:
        scores: ``(..., runs)`` for each task, with the same leading dimensions.

    Returns:
        ``(...,)``.
    """
    together = np.sort(np.concatenate(list(scores), axis=-1), axis=-1)
    count = together.shape[-1]
    cut = count // 4
    mean: np.ndarray = together[..., cut : count - cut].mean(axis=-1)
    return mean


def profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs above each threshold, each task counting the same: the run-score distribution.

    Agarwal et al. (2021), section 4.2.

    Args:
        scores: ``(..., runs)`` for each task.
        thresholds: ``(thresholds,)``.

    Returns:
        ``(..., thresholds)``.
    """
    shares: np.ndarray = np.mean([(each[..., None] > thresholds).mean(axis=-2) for each in scores], axis=0)
    return shares


def probability_of_improvement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How likely a run of one rule is better than a run of another; equal runs count half.

    Agarwal et al. (2021), section 4.3: the Mann-Whitney U statistic over the number of pairs.

    Args:
        one, other: ``(..., runs)``, each with its own number of them.

    Returns:
        ``(...,)``.
    """
    above = one[..., :, None] > other[..., None, :]
    level = one[..., :, None] == other[..., None, :]
    share: np.ndarray = (above + 0.5 * level).mean(axis=(-2, -1))
    return share


def credit_score(rule: Scores, backprop: Scores, readout: Scores) -> np.ndarray:
    """How much of what hidden credit can bring a rule brings: 0 is the read-out alone, 1 is backprop.

    (rule - readout) / (backprop - readout), of interquartile means. ``(..., runs)`` for each task; ``(...,)``, not
    finite where backprop brings nothing.
    """
    floor = iqm(readout)
    with np.errstate(divide="ignore", invalid="ignore"):
        score: np.ndarray = (iqm(rule) - floor) / (iqm(backprop) - floor)
    return score


# -- intervals -----------------------------------------------------------------------------


def estimate(statistic: Callable[..., np.ndarray], rng: np.random.Generator, *groups: Scores) -> Estimate:
    """A number and its stratified percentile bootstrap interval.

    Of each rule's runs on each task as many are drawn as there are, with replacement (Agarwal et al., 2021, section
    4.1; Efron, 1979).

    Args:
        statistic: of the groups' scores, as ``iqm`` is of one.
        rng: draws.
        groups: the scores of each rule.
    """
    value = float(statistic(*groups))
    if any(len(task) < LEAST_RUNS for group in groups for task in group):
        return Estimate(value)
    drawn = statistic(*([resampled(task, rng) for task in group] for group in groups))
    drawn = drawn[np.isfinite(drawn)]
    return Estimate(value, _quantiles(drawn) if len(drawn) else None)


def band(
    statistic: Callable[[Scores], np.ndarray], rng: np.random.Generator, scores: Scores
) -> tuple[np.ndarray, np.ndarray] | None:
    """The interval of each of many numbers, as ``estimate`` has it of one: two arrays; ``None`` for too few runs."""
    if any(len(task) < LEAST_RUNS for task in scores):
        return None
    drawn = statistic([resampled(task, rng) for task in scores])
    low, high = np.quantile(drawn, _tails(), axis=0)
    return low, high


def resampled(runs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``(RESAMPLES, runs)``, drawn from ``(runs,)`` with replacement."""
    drawn: np.ndarray = rng.choice(runs, (RESAMPLES, len(runs)))
    return drawn


def _quantiles(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(drawn, _tails())
    return float(low), float(high)


def _tails() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2


# -- who differs ---------------------------------------------------------------------------


def compare_pairs(scores: Mapping[str, np.ndarray], rng: np.random.Generator) -> list[Pair]:
    """Which rules differ on one task, the family-wise error held.

    For each pair the runs of both are permuted between them, and the statistic of the pair is the difference of
    means, over the deviation of all their runs, which no permutation changes. All pairs are permuted alike, and each
    is held against the largest statistic among the pairs that are not settled before it. This is the test of Mathieu
    et al. (2023) at a single look, with p-values (Westfall & Young, 1993, the step-down maxT method) and with the
    statistic scaled, so that no pair of great variance decides for all. To look again after every few seeds until
    something is settled would need AdaStop's own levels.

    Args:
        scores: ``(runs,)`` of each rule by its name.
        rng: draws the permutations.

    Returns:
        A pair for each two rules, the smallest p-value first.
    """
    pairs = list(combinations(scores, 2))
    tested = [pair for pair in pairs if all(len(scores[name]) >= LEAST_RUNS for name in pair)]
    # The outlier of a pair of few runs would be the largest statistic of all, and settle nothing for the others.
    found = [_pair(pair, scores, 1.0, _critical(len(pairs))) for pair in pairs if pair not in tested]
    if tested:
        seen, permuted = _statistics([(scores[one], scores[other]) for one, other in tested], rng)
        p_values, critical = _step_down(np.abs(seen), permuted)
        for pair, p_value, own in zip(tested, p_values, critical, strict=True):
            found.append(_pair(pair, scores, float(p_value), max(float(own), _critical(len(pairs)))))
    return sorted(found, key=lambda pair: (pair.p_value, -pair.difference))


def _critical(pairs: int) -> float:
    """What a statistic of many runs must reach, if each of the pairs has an equal share of the error."""
    return NormalDist().inv_cdf(1 - (1 - LEVEL) / (2 * pairs))


def _statistics(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Each pair's statistic, ``(pairs,)`` with its sign, and its size under permutation, ``(pairs, PERMUTATIONS)``."""
    most = max(len(each) for pair in pairs for each in pair)
    # The order of these decides which runs of a pair change sides, for all pairs at once.
    keys = rng.random((PERMUTATIONS, 2 * most))
    sides: dict[tuple[int, int], np.ndarray] = {}
    seen, permuted = np.empty(len(pairs)), np.empty((len(pairs), PERMUTATIONS))
    for number, (one, other) in enumerate(pairs):
        sizes = len(one), len(other)
        if sizes not in sides:
            places = np.concatenate([np.arange(sizes[0]), most + np.arange(sizes[1])])
            order = np.argsort(keys[:, places], axis=1)
            sides[sizes] = np.where(order < sizes[0], 1 / sizes[0], -1 / sizes[1])
        together = np.concatenate([one, other])
        scale = together.std() * math.sqrt(1 / sizes[0] + 1 / sizes[1])
        centred = together - together.mean()
        seen[number] = (one.mean() - other.mean()) / scale if scale else 0
        permuted[number] = np.abs(sides[sizes] @ centred) / scale if scale else 0
    return seen, permuted


def _step_down(seen: np.ndarray, permuted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adjusted p-values and critical values, ``(pairs,)`` each.

    Each pair is held against the largest statistic of those that are seen no larger.
    """
    order = np.argsort(-seen, kind="stable")
    largest = np.maximum.accumulate(permuted[order[::-1]], axis=0)[::-1]
    # What is equal but for rounding counts as reached.
    reached = (largest >= seen[order, None] * (1 - 1e-9)).sum(axis=1)
    p_values, critical = np.empty(len(seen)), np.empty(len(seen))
    p_values[order] = np.maximum.accumulate((1 + reached) / (1 + permuted.shape[1]))
    critical[order] = np.quantile(largest, LEVEL, axis=1)
    return p_values, critical


def _pair(names: tuple[str, str], scores: Mapping[str, np.ndarray], p_value: float, critical: float) -> Pair:
    one, other = sorted(names, key=lambda name: -scores[name].mean())
    difference = float(scores[one].mean() - scores[other].mean())
    is_settled = p_value <= 1 - LEVEL
    more = None if is_settled else more_seeds(scores[one], scores[other], critical)
    return Pair(one, other, difference, p_value, is_settled, more)


def more_seeds(one: np.ndarray, other: np.ndarray, critical: float) -> int | None:
    """How many more runs of each would settle a difference as large as the one that is seen.

    By the normal approximation of the test's power: runs n of each, at which the mean statistic, sqrt(n / 2) times
    the difference over the deviation of both, lies above its critical value by the quantile of ``POWER``.

    Args:
        one, other: ``(runs,)``.
        critical: what the statistic must reach, in standard deviations.

    Returns:
        At least 1; ``None`` where more than ``MOST_SEEDS`` would be needed, or nothing differs.
    """
    difference = abs(float(one.mean() - other.mean()))
    variance = (one.var() + other.var()) / 2 + difference**2 / 4
    if not difference or not math.isfinite(variance):
        return None
    needed = 2 * (critical + NormalDist().inv_cdf(POWER)) ** 2 * variance / difference**2
    more = math.ceil(needed) - min(len(one), len(other))
    return max(1, more) if more <= MOST_SEEDS else None
