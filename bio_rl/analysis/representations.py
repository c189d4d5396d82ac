"""How alike the representations of several runs are, layer by layer, the untrained networks being among the compared.

All networks are shown the same observations. Each run has probes of its own, from its first rollout, in which an
untrained policy acts, so that all are drawn from about the same distribution. None is preferred: the common ones are as
many from each run's, spread evenly over them, and the numbers of one comparison may be held against one another. Runs
of one seed have the same probes, which count once. Observations are as the networks receive them: where a run
normalises them, by its statistics then.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bio_rl.analysis.models import FindRule, Model, shipped_rule
from bio_rl.analysis.runs import Run, Unreadable
from bio_rl.diagnostics.representations import activities_of, dissimilarities, kernel, procrustes_distance
from bio_rl.network import Network
from bio_rl.rule import Divergence

MOST_PROBES = 256
"""Of the common ones: more change no similarity by what seeds do not change more, and take memory by their square."""


class NotComparable(ValueError):
    """Runs whose representations cannot be compared: which, and why, in one line."""


class Subject(NamedTuple):
    """The networks of a run, as they began or as they became.

    Attributes:
        run: its place among the runs that are compared, from 0.
        trained: whether they are those that have learnt.
    """

    run: int
    trained: bool


class Similarity(NamedTuple):
    """How alike one layer is in two subjects; NaN where activities do not vary.

    Attributes:
        network, layer: which layer, counted from 1 at the input.
        one, other: whose.
        cka, procrustes, rsa: see ``bio_rl.diagnostics.representations``.
    """

    network: str
    layer: int
    one: Subject
    other: Subject
    cka: float
    procrustes: float
    rsa: float


class Comparison(NamedTuple):
    """What came of a comparison.

    Attributes:
        rows: for each layer and each two subjects that have it.
        problems: a line for each subject that could not be shown the probes.
    """

    rows: list[Similarity]
    problems: list[str]


Activities = dict[tuple[str, int, bool], Tensor]
"""A subject's, ``(probes, features)``, by network, layer, and whether that layer is the output."""


@torch.no_grad()
def compare_representations(
    runs: Sequence[Run], find_rule: FindRule = shipped_rule, most: int = MOST_PROBES
) -> Comparison:
    """The similarity of each layer between each two of the runs' trained and untrained networks.

    A layer is compared with the one of the same number, a hidden layer with a hidden one and an output with an output,
    whatever their sizes. The work grows with the square of the number of runs.

    Args:
        runs: of one task.
        find_rule: decides which rules may be made, see ``Model``: some act by dynamics of their own.
        most: of the common probes.

    Raises:
        NotComparable: the runs are of different tasks, or no two of their probes or fewer than 4 of them go together.
    """
    _check_tasks(runs)
    probes = common_probes(runs, most)
    shown: dict[Subject, Activities] = {}
    problems: list[str] = []
    for number, run in enumerate(runs):
        for trained in (False, True):
            try:
                shown[Subject(number, trained)] = _activities(run, trained, probes, find_rule)
            except (Unreadable, ValueError, Divergence) as error:
                networks = "trained" if trained else "untrained"
                problems.append(f"the {networks} networks of {run} are not compared: {error}")
    layers = sorted({layer for activities in shown.values() for layer in activities})
    rows = [row for layer in layers for row in _of_layer(layer, shown)]
    return Comparison(rows, problems)


def common_probes(runs: Sequence[Run], most: int = MOST_PROBES) -> Tensor:
    """Observations that all networks are shown, ``(probes, in)``: as many from each run's, at most so many in all.

    Raises:
        NotComparable: no run has probes, two runs' are of different sizes, or there are fewer than 4.
    """
    distinct: list[Tensor] = []
    first = None
    for run in runs:
        if run.probes is None:
            continue
        first = first or run
        own = run.probes.observations
        if distinct and own.shape[1:] != distinct[0].shape[1:]:
            sizes = f"{tuple(distinct[0].shape[1:])} and {tuple(own.shape[1:])}"
            raise NotComparable(f"the probes of {first} and of {run} do not go together: of sizes {sizes}")
        if not any(torch.equal(own, other) for other in distinct):
            distinct.append(own)
    if not distinct:
        raise NotComparable(f"none of the {len(runs)} runs has probes; diagnostics=light keeps them")
    if len(distinct) == 1:
        probes = distinct[0]
    else:
        share = max(1, most // len(distinct))
        probes = torch.cat([_spread(own, share) for own in distinct])
        probes = _spread(probes, most)
    if len(probes) < 4:
        raise NotComparable(f"there must be at least 4 probes, and there are {len(probes)}")
    return probes


def _spread(observations: Tensor, most: int) -> Tensor:
    """Some of them, evenly."""
    count = len(observations)
    return observations if count <= most else observations[torch.linspace(0, count - 1, most).round().long()]


def _check_tasks(runs: Sequence[Run]) -> None:
    tasks: dict[str, Run] = {}
    for run in runs:
        tasks.setdefault(run.text("env_id"), run)
    if len(tasks) > 1:
        (one, first), (other, second), *_ = tasks.items()
        raise NotComparable(f"{first} is of {one} and {second} of {other}: only runs of one task have common probes")


def _activities(run: Run, trained: bool, probes: Tensor, find_rule: FindRule) -> Activities:
    """What a run's networks make of the probes."""
    place = run.trained if trained else run.untrained
    if place is not None:
        return _by_layer(
            {name: _shown(network, probes) for name, network in Model(run, place, find_rule).networks.items()}
        )
    if not trained and run.probes is not None and torch.equal(run.probes.observations, probes):
        return _by_layer(run.probes.untrained)
    raise Unreadable("it has saved no model" if trained else "it has kept none, which diagnostics=light does")


def _shown(network: Network, probes: Tensor) -> list[Tensor]:
    if network.in_features != probes.shape[-1]:
        raise ValueError(f"they have {network.in_features} inputs, and the probes are of {probes.shape[-1]}")
    return activities_of(network, probes.to(network.layers[0].weight))


def _by_layer(networks: Mapping[str, Sequence[Tensor]]) -> Activities:
    return {
        (name, number, number == len(layers)): activity
        for name, layers in networks.items()
        for number, activity in enumerate(layers, start=1)
    }


def _of_layer(layer: tuple[str, int, bool], shown: Mapping[Subject, Activities]) -> Iterator[Similarity]:
    """The rows of one layer."""
    network, number, _ = layer
    subjects = [subject for subject, activities in shown.items() if layer in activities]
    own = [shown[subject][layer].double() for subject in subjects]
    width = max(each.shape[-1] for each in own)
    # Neurons that are always silent change nothing.
    together = torch.stack([F.pad(each, (0, width - each.shape[-1])) for each in own])
    kernels, distances = kernel(together).flatten(1), dissimilarities(together)
    cka, rsa = kernels @ kernels.T, distances @ distances.T
    procrustes = torch.full_like(cka, math.nan)
    for index in range(len(subjects) - 1):
        others = together[index + 1 :]
        procrustes[index, index + 1 :] = procrustes_distance(together[index].expand_as(others), others)
    for one, other in combinations(range(len(subjects)), 2):
        values = (float(each[one, other]) for each in (cka, procrustes, rsa))
        yield Similarity(network, number, subjects[one], subjects[other], *values)
