"""Statistics of few runs, against scipy, closed forms, and how often they are wrong."""

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from bio_rl.analysis import statistics
from bio_rl.analysis.statistics import (
    Estimate,
    band,
    compare_pairs,
    credit_score,
    estimate,
    iqm,
    more_seeds,
    probability_of_improvement,
    profile,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("runs", [1, 3, 4, 7, 8, 33])
def test_the_interquartile_mean_is_scipys_trimmed_mean(runs: int) -> None:
    scores = [rng(runs).normal(size=runs), rng(runs + 1).normal(size=runs)]
    assert iqm(scores) == pytest.approx(scipy.stats.trim_mean(np.concatenate(scores), 0.25))
    stacked = [np.stack([each, 2 * each]) for each in scores]
    np.testing.assert_allclose(iqm(stacked), [iqm(scores), 2 * iqm(scores)])


def test_a_probability_of_improvement_is_mann_whitneys_share() -> None:
    one, other = rng(1).integers(0, 5, 9).astype(float), rng(2).integers(0, 5, 7).astype(float)
    expected = scipy.stats.mannwhitneyu(one, other).statistic / 63
    assert probability_of_improvement(one, other) == pytest.approx(expected)
    assert probability_of_improvement(one, other) + probability_of_improvement(other, one) == pytest.approx(1)


def test_a_profile_is_the_share_above_each_threshold_every_task_the_same() -> None:
    scores = [np.array([0.0, 1.0, 2.0, 3.0]), np.array([5.0])]
    np.testing.assert_allclose(profile(scores, np.array([-1.0, 1.0, 4.0, 5.0])), [1, 0.75, 0.5, 0])
    survival = 1 - scipy.stats.ecdf(scores[0]).cdf.evaluate([0.5, 1, 3])
    np.testing.assert_allclose(profile(scores[:1], np.array([0.5, 1, 3])), survival)


def test_a_credit_score_places_a_rule_between_readout_and_backprop() -> None:
    backprop, readout = [np.full(4, 500.0)], [np.full(4, 100.0)]
    assert credit_score(readout, backprop, readout) == 0
    assert credit_score(backprop, backprop, readout) == 1
    assert credit_score([np.array([0.0, 200.0, 200.0, 500.0])], backprop, readout) == 0.25
    assert not np.isfinite(credit_score(backprop, readout, readout))


def test_an_interval_is_scipys_percentile_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 20_000)
    runs = rng(3).gamma(2, size=12)
    expected = scipy.stats.bootstrap(
        (runs,), lambda x, axis: iqm([x]), n_resamples=20_000, method="percentile", rng=rng(4)
    ).confidence_interval
    found = estimate(iqm, rng(5), [runs])
    assert found.interval == pytest.approx(tuple(expected), abs=0.02)
    band_of_one = band(lambda scores: iqm(scores)[..., None], rng(6), [runs])
    assert band_of_one is not None
    assert [each[0] for each in band_of_one] == pytest.approx(found.interval, abs=0.02)


def test_tasks_are_strata() -> None:
    """Runs that differ between tasks and not within them leave nothing uncertain."""
    assert estimate(iqm, rng(), [np.zeros(5), np.ones(5)]).interval == (0.5, 0.5)


def test_under_three_runs_there_is_no_interval() -> None:
    assert estimate(iqm, rng(), [np.array([1.0, 3.0])]) == Estimate(2, None)
    assert estimate(iqm, rng(), [np.arange(9.0), np.arange(2.0)]).interval is None
    assert band(iqm, rng(), [np.arange(2.0)]) is None
    assert estimate(iqm, rng(), [np.arange(3.0)]).interval is not None


def test_an_interval_covers_about_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 samples of 32 normal numbers, whose interquartile mean is 0; the percentile bootstrap is a little narrow."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    draws = rng(1)
    found = [estimate(iqm, draws, [draws.normal(size=32)]) for _ in range(400)]
    assert 0.91 < np.mean([each.low <= 0 <= each.high for each in found]) < 0.98


def test_two_rules_are_tested_as_by_scipys_permutation_test() -> None:
    one, other = rng(1).normal(0.8, 1, 9), rng(2).normal(0, 1, 7)
    expected = scipy.stats.permutation_test(
        (one, other), lambda x, y, axis: np.abs(x.mean(axis) - y.mean(axis)), alternative="greater", n_resamples=20_000
    ).pvalue
    (found,) = compare_pairs({"one": one, "other": other}, rng(3))
    assert found.p_value == pytest.approx(expected, abs=0.01)
    assert (found.one, found.other) == ("one", "other")
    assert found.difference == pytest.approx(one.mean() - other.mean())


def test_the_largest_of_all_pairs_is_what_each_is_held_against(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adjusted p-values of the step-down maxT method, written out as a loop over all permutations of equal sizes."""
    monkeypatch.setattr(statistics, "PERMUTATIONS", 20_000)
    scores = {name: rng(number).normal(number, 1, 4) for number, name in enumerate("abc")}
    pairs = list(combinations(scores, 2))
    splits = [np.isin(np.arange(8), each) for each in combinations(range(8), 4)]

    def statistic(one: np.ndarray, other: np.ndarray, split: np.ndarray) -> float:
        both = np.concatenate([one, other])
        return abs(both[split].mean() - both[~split].mean()) / both.std()

    table = {pair: [statistic(*(scores[name] for name in pair), split) for split in splits] for pair in pairs}
    seen = {pair: table[pair][0] for pair in pairs}
    left, before, expected = sorted(pairs, key=lambda pair: -seen[pair]), 0.0, {}
    while left:
        largest = np.max([table[pair] for pair in left], axis=0)
        before = max(before, float((largest >= seen[left[0]] - 1e-9).mean()))
        expected[frozenset(left.pop(0))] = before
    found = {frozenset((each.one, each.other)): each.p_value for each in compare_pairs(scores, rng(9))}
    assert found == pytest.approx(expected, abs=0.012)


def test_the_chance_of_any_false_claim_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six equal rules, 15 pairs, 300 times; at 5 %, more than 8.5 % has a chance under 1 in 200."""
    monkeypatch.setattr(statistics, "PERMUTATIONS", 400)
    draws = rng(7)
    claims = [
        any(each.is_settled for each in compare_pairs({name: draws.exponential(size=6) for name in "abcdef"}, draws))
        for _ in range(300)
    ]
    assert np.mean(claims) < 0.085


def test_rules_of_one_constant_return_are_not_told_apart_and_need_no_seeds() -> None:
    (found,) = compare_pairs({"one": np.full(9, 500.0), "other": np.full(9, 500.0)}, rng())
    assert (found.p_value, found.is_settled, found.more_seeds) == (1, False, None)
    (clear,) = compare_pairs({"one": np.full(9, 12.0), "other": np.full(9, 500.0)}, rng())
    assert (clear.one, clear.is_settled, clear.more_seeds) == ("other", True, None)
    assert compare_pairs({"alone": np.ones(3)}, rng()) == []


def test_three_seeds_settle_nothing_and_the_line_says_how_many_would() -> None:
    """Of 3 and 3 runs there are 20 splits: 0.1 is the smallest p-value that there can be."""
    (found,) = compare_pairs({"one": np.array([9.0, 10, 11]), "other": np.array([0.0, 1, 2])}, rng())
    assert found.p_value == pytest.approx(0.1, abs=0.01)
    assert not found.is_settled
    assert found.more_seeds is not None
    assert 1 <= found.more_seeds < 10


def test_as_many_more_seeds_as_are_said_have_the_power_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal runs, a deviation apart: by Student's test 17 of each have a power of 0.8."""
    monkeypatch.setattr(statistics, "PERMUTATIONS", 400)
    few = np.array([-1.0, 1.0])
    needed = 2 + (more_seeds(few + 0.5, few - 0.5, critical=1.96) or math.nan)
    draws = rng(2)
    settled = [
        compare_pairs({"one": draws.normal(1, 1, needed), "other": draws.normal(0, 1, needed)}, draws)[0].is_settled
        for _ in range(300)
    ]
    assert 0.74 < np.mean(settled) < 0.9
    assert more_seeds(few, few + 1e-3, critical=1.96) is None
    assert more_seeds(np.repeat(few, 20) + 0.5, np.repeat(few, 20) - 0.5, critical=1.96) == 1
