"""The findings say what the published rows bear out: ``docs/findings.md``, and what the README says of DigitSum."""

import itertools
from collections.abc import Sequence
from statistics import fmean

import pytest
from conftest import HERE

from benchmarks import interface
from bio_rl.rules import rule_names
from docs import figures

ROOT = HERE.parents[1]
FINDINGS = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FROM_ACTIVITY = ("weight_mirror", "target_propagation")
PROSPECTIVE = (
    "predictive_coding",
    "equilibrium_propagation",
    "target_propagation",
    "deep_feedback_control",
    "dendritic_microcircuit",
    "segregated_dendrites",
    "burst",
)
UNGATED = ("feedback_alignment", "direct_feedback_alignment", "segregated_dendrites", "burst")
FIXED_FEEDBACK = (*UNGATED, "gated")
ALONG_WEIGHTS = ("weight_perturbation", "forward_gradient")
AS_BACKPROP = ("node_perturbation", "sign_symmetry", "weight_mirror", "predictive_coding", "equilibrium_propagation")
BY_LESS = ("target_propagation", "deep_feedback_control", *ALONG_WEIGHTS)
BRING_BACK = ("backprop", *AS_BACKPROP, *BY_LESS)
DO_NOT = (*FIXED_FEEDBACK, "kolen_pollack", "pepita", "dendritic_microcircuit")
"""The cursor, on Interface."""
WORSE_WITH_A_FINITE_NUDGE = ("deep_feedback_control", "dendritic_microcircuit")
"""On CartPole."""
DIFFER = {
    "digit_sum": [
        ("direct_feedback_alignment", "feedback_alignment"),
        ("backprop", "kolen_pollack"),
        ("backprop", "sign_symmetry"),
        *((other, "gated") for other in (*UNGATED, "dendritic_microcircuit")),
        *(("backprop", rule) for rule in ("node_perturbation", *ALONG_WEIGHTS)),
        ("readout", "pepita"),
        ("target_propagation", f"target_propagation {figures.PRESET}"),
    ],
    "interface": [
        *((rule, "readout") for rule in BRING_BACK),
        *(("backprop", rule) for rule in BY_LESS),
        *((one, other) for one in (*AS_BACKPROP, *BY_LESS) for other in DO_NOT),
    ],
    "lunar_lander": [
        *(
            (one, other)
            for one in ("backprop", *FROM_ACTIVITY)
            for other in ("kolen_pollack", "direct_feedback_alignment")
        ),
        ("backprop", "node_perturbation"),
        ("weight_mirror", "feedback_alignment"),
        *((other, "gated") for other in (*UNGATED, "dendritic_microcircuit")),
    ],
    "cartpole": [
        ("backprop", "weight_perturbation"),
        ("backprop", "pepita"),
        *((rule, f"{rule} {figures.PRESET}") for rule in WORSE_WITH_A_FINITE_NUDGE),
    ],
    "digits": [("backprop", "pepita")],
}
"""Of each pair, the first returns more."""
NOT_TOLD_APART = {
    "digit_sum": [
        *(("backprop", rule) for rule in (*FROM_ACTIVITY, "predictive_coding", "equilibrium_propagation")),
        ("sign_symmetry", "kolen_pollack"),
        ("direct_feedback_alignment", "segregated_dendrites"),
        ("feedback_alignment", "burst"),
        ("feedback_alignment", "dendritic_microcircuit"),
        ("backprop", "deep_feedback_control"),
        *(("node_perturbation", rule) for rule in ALONG_WEIGHTS),
        ("burst", f"burst {figures.PRESET}"),
    ],
    "interface": [
        *(("backprop", rule) for rule in AS_BACKPROP),
        *(("readout", rule) for rule in DO_NOT),
    ],
    "lunar_lander": [
        *(("backprop", rule) for rule in FROM_ACTIVITY),
        ("sign_symmetry", "kolen_pollack"),
        ("direct_feedback_alignment", "feedback_alignment"),
        ("direct_feedback_alignment", "segregated_dendrites"),
        ("feedback_alignment", "burst"),
        ("feedback_alignment", "dendritic_microcircuit"),
    ],
    "cartpole": [
        *(
            ("backprop", rule)
            for rule in rule_names()
            if rule not in {"backprop", "readout", "pepita", "weight_perturbation"}
        ),
        *((rule, f"{rule} {figures.PRESET}") for rule in PROSPECTIVE if rule not in WORSE_WITH_A_FINITE_NUDGE),
    ],
    "digits": [
        ("backprop", rule)
        for rule in (
            *FROM_ACTIVITY,
            "feedback_alignment",
            "direct_feedback_alignment",
            "sign_symmetry",
            "kolen_pollack",
            "segregated_dendrites",
            "burst",
            "gated",
        )
    ],
}
CREDIT = {
    ("digit_sum", "weight_mirror"): "0.98 each",
    ("digit_sum", "target_propagation"): "0.98 each",
    ("digit_sum", f"target_propagation {figures.PRESET}"): "0.98 to 0.59",
    ("digit_sum", "feedback_alignment"): "earns 0.62",
    ("digit_sum", "direct_feedback_alignment"): "0.70, and the two differ",
    ("lunar_lander", "feedback_alignment"): "0.87 and 0.74",
    ("lunar_lander", "direct_feedback_alignment"): "0.74, and are not told apart",
    ("digit_sum", "node_perturbation"): "0.08 on DigitSum",
    ("lunar_lander", "node_perturbation"): "0.48 on LunarLander",
}
"""The words in which each stands."""
RATES = ("0.003", "0.001")
"""Learning rates that are said, where they are not the one that goes without saying."""
START, END = ("actor_angle_start", "critic_angle_start"), ("actor_angle", "critic_angle")
BOTH = ("digit_sum", "lunar_lander")
ANGLES = [
    *((("digit_sum", "lunar_lander", "cartpole"), rule, END, 0, 10) for rule in FROM_ACTIVITY),
    (("digits",), "target_propagation", END, 0, 10),
    (("digits",), "weight_mirror", ("actor_angle",), 0, 10),
    (("digits",), "weight_mirror", ("critic_angle",), 60, 90),
    (("digit_sum",), "kolen_pollack", END, 0, 2.5),
    (("lunar_lander",), "kolen_pollack", END, 0, 6.5),
    (BOTH, "kolen_pollack", START, 88, 92),
    (BOTH, "sign_symmetry", START, 42, 44),
    (BOTH, "sign_symmetry", END, 25, 35),
    (("digit_sum",), "pepita", ("actor_angle",), 46, 48),
    (("digit_sum",), "equilibrium_propagation", END, 0, 1.5),
    (("digit_sum",), "deep_feedback_control", ("actor_angle",), 42.5, 43.5),
    *((("digit_sum",), rule, END, 87.5, 88.5) for rule in ALONG_WEIGHTS),
    (("lunar_lander",), "gated", ("critic_angle",), 87.5, 88.5),
]
"""Of a rule's updates to backprop's on these tasks, between these degrees."""


def contender(task: str, name: str) -> figures.Contender:
    found = figures.shown(figures.TABLES[task])
    return next(found[each] for each in (name, *(f"{name} {figures.RATE}{rate}" for rate in RATES)) if each in found)


def settled(task: str) -> set[tuple[str, str]]:
    return {(pair.one, pair.other) for pair in figures.task_of(figures.TABLES[task]).pairs if pair.is_settled}


@pytest.mark.parametrize(
    ("task", "higher", "lower"), [(task, *pair) for task, pairs in DIFFER.items() for pair in pairs]
)
def test_these_differ(task: str, higher: str, lower: str) -> None:
    assert (contender(task, higher).name, contender(task, lower).name) in settled(task)


@pytest.mark.parametrize(
    ("task", "one", "other"), [(task, *pair) for task, pairs in NOT_TOLD_APART.items() for pair in pairs]
)
def test_these_are_not_told_apart(task: str, one: str, other: str) -> None:
    names = contender(task, one).name, contender(task, other).name
    assert not settled(task) & {names, names[::-1]}


@pytest.mark.parametrize(("task", "rule"), CREDIT)
def test_credit_is_as_it_is_said(task: str, rule: str) -> None:
    credit = contender(task, rule).credit
    assert credit is not None
    words = CREDIT[task, rule]
    assert f"{credit.value:.2f}" in words
    assert words in " ".join(FINDINGS.split())


def test_interface_has_every_rule_and_tells_them_apart_in_two() -> None:
    task = figures.task_of(figures.TABLES["interface"])
    assert {each.name.split()[0] for each in task.contenders} == {*rule_names()} == {"readout", *BRING_BACK, *DO_NOT}
    backprop = contender("interface", "backprop").score.value
    assert all(backprop - contender("interface", rule).score.value < 0.02 for rule in BRING_BACK)


def test_how_many_pairs_digit_sum_tells_apart() -> None:
    claim = f"{len(settled('digit_sum'))} of {len(figures.task_of(figures.TABLES['digit_sum']).pairs)} pairs"
    assert claim in " ".join(FINDINGS.split())
    assert claim.replace("of", "of the") in " ".join(README.split())


@pytest.mark.parametrize(("tasks", "rule", "columns", "low", "high"), ANGLES)
def test_updates_point_where_it_is_said(
    tasks: Sequence[str], rule: str, columns: Sequence[str], low: float, high: float
) -> None:
    for task, column in itertools.product(tasks, columns):
        assert low <= fmean(record.numbers[column] for record in contender(task, rule).records) <= high


def test_six_tasks_need_credit_in_the_actor() -> None:
    tasks = figures.controls_table().splitlines()[2:]
    assert len(tasks) == 6
    assert all("actor" in row.split("|")[-2] for row in tasks)
    assert [row.split("`")[1] for row in tasks if "critic" in row.split("|")[-2]] == ["interface"]


def test_what_a_neuron_is_taught_tells_who_brings_the_cursor_back() -> None:
    rows = interface.read(ROOT / "benchmarks" / "interface.csv")

    def middle(rule: str, measure: str) -> float:
        return float(interface.middle([row for row in rows if row["rule"] == rule], measure))

    assert min(middle(rule, "teaching_correlation") for rule in BRING_BACK) >= 0.735
    assert max(middle(rule, "teaching_correlation") for rule in DO_NOT) <= 0.47
    assert min(middle(rule, "potent_share") for rule in BRING_BACK) > 0.2
    assert max(middle(rule, "potent_share") for rule in DO_NOT) <= 0.05


def test_no_finite_nudge_returns_more_on_cartpole() -> None:
    better = {
        (contender("cartpole", f"{rule} {figures.PRESET}").name, contender("cartpole", rule).name)
        for rule in PROSPECTIVE
    }
    assert not settled("cartpole") & better
