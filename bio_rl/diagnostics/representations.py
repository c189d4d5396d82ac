"""How alike the activities of two layers are, and what a read-out sees of a change of them.

Shapes: activities ``(*members, samples, features)``, both of the same samples; results
``(*members,)``. The comparisons do not depend on where the activities' mean lies, on their scale, or on how
their space is turned. All is computed in float64; what does not vary is like nothing: NaN.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bio_rl.diagnostics.measure import Measure
from bio_rl.network import Network


@torch.no_grad()
def measure_representations(network: Network, start: Sequence[Tensor], now: Sequence[Tensor]) -> Iterator[Measure]:
    """How far each layer's activities have come from where they started.

    ``cka``, ``procrustes``, ``rsa``
        of the activities to those at the start, see ``debiased_cka``, ``procrustes_distance`` and ``rsa``.
    ``dimension``
        of the activities, see there.
    ``potent_share``
        of the last hidden layer: how much of the change since the start the read-out sees, by its weights as they
        are. A layer that is no narrower than the one below it sees all.

    Args:
        network: as it is now.
        start, now: each layer's activities at the same inputs, ``(*members, samples, features)``, at least 4 samples.
    """
    for number, (before, after) in enumerate(zip(start, now, strict=True), start=1):
        yield Measure("cka", number, debiased_cka(before, after))
        yield Measure("procrustes", number, procrustes_distance(before, after))
        yield Measure("rsa", number, rsa(before, after))
        yield Measure("dimension", number, dimension(after))
        if number == len(network.layers) - 1:
            yield Measure("potent_share", number, potent_share(after - before, network.layers[-1].weight))


def activities_of(network: Network, x: Tensor) -> list[Tensor]:
    """Each layer's activity at the end of the sweep that acts, the network being left as it is.

    Args:
        network: any network, or several as one.
        x: input ``(*members, samples, in)``.
    """
    return [activity.clone() for activity in copy.deepcopy(network).activities(x)[1:]]


def debiased_cka(x: Tensor, y: Tensor) -> Tensor:
    """Debiased linear centred kernel alignment, at most 1, about 0 for unrelated activities.

    Kornblith et al. 2019, Similarity of neural network representations revisited, with the unbiased
    estimator of HSIC (Song et al. 2012, Feature selection via dependence maximization, eq. 5): without
    it few samples of many features look alike whatever they are (Murphy et al. 2024, Correcting
    biased centered kernel alignment measures). The estimator is the product of two U-centred Gram matrices
    (Székely & Rizzo 2014), so that this is the cosine between them. It may be a little below 0.

    Raises:
        ValueError: different samples, or fewer than 4.
    """
    _check_pair(x, y)
    return (kernel(x) * kernel(y)).sum((-2, -1))


def kernel(x: Tensor) -> Tensor:
    """What ``debiased_cka`` compares: a U-centred Gram matrix of norm 1, ``(*members, samples, samples)``.

    The similarity of two layers is the sum of the products of its entries.

    Raises:
        ValueError: fewer than 4 samples.
    """
    x = _samples(x, at_least=4)
    centred = _u_centred(torch.matmul(x, x.mT))
    return centred / _norm(centred)[..., None, None]


def procrustes_distance(x: Tensor, y: Tensor) -> Tensor:
    """The angle in radians that is left between two shapes after the best rotation or reflection, 0 to pi / 2.

    Shapes are activities centred and scaled to a Frobenius norm of 1; the angle is
    ``arccos |X^T Y|_*`` with the nuclear norm, the angular one of the generalized shape metrics of Williams et
    al. 2021 (eq. 11 of Generalized shape metrics on neural representations, for orthogonal alignments). Unlike
    a similarity it obeys the triangle inequality. The ``disparity`` of SciPy is its squared sine. The layers
    may differ in size, as if the smaller had neurons that are always silent.

    Raises:
        ValueError: different samples, or fewer than 2.
    """
    _check_pair(x, y)
    x, y = (_centred(_samples(each, at_least=2)) for each in (x, y))
    product = torch.matmul(x.mT, y) / (_norm(x) * _norm(y))[..., None, None]
    # A member that diverged has no singular values, and must not take the others' away.
    cosine = torch.linalg.svdvals(product.nan_to_num(0, 0, 0)).sum(-1) + 0 * product.sum((-2, -1))
    return cosine.clamp(max=1).arccos()


def rsa(x: Tensor, y: Tensor) -> Tensor:
    """Representational similarity: Pearson's correlation of two dissimilarity matrices, -1 to 1.

    Kriegeskorte et al. 2008, Representational similarity analysis. Dissimilarity is the squared
    Euclidean distance between the activities of two samples.

    Raises:
        ValueError: different samples, or fewer than 3.
    """
    _check_pair(x, y)
    return (dissimilarities(x) * dissimilarities(y)).sum(-1)


def dissimilarities(x: Tensor) -> Tensor:
    """What ``rsa`` compares: those of all pairs of samples, centred and of norm 1, ``(*members, pairs)``.

    The similarity of two layers is the sum of the products of its entries.

    Raises:
        ValueError: fewer than 3 samples.
    """
    centred = _centred(_squared_distances(_samples(x, at_least=3)).unsqueeze(-1))
    return (centred / _norm(centred)[..., None, None]).squeeze(-1)


def effective_rank(matrix: Tensor) -> Tensor:
    """The participation ratio of a matrix's squared singular values s: ``(sum s^2)^2 / sum s^4``, ``(*members,)``.

    1 for an outer product, n for n equal directions (Gao et al. 2017, A theory of multineuronal dimensionality).
    Of activities that are centred it is the dimension of their cloud. NaN where the matrix is 0.

    Args:
        matrix: ``(*members, rows, columns)``.
    """
    matrix = matrix.double()
    # Of 1, so that the fourth powers of small updates do not vanish.
    matrix = matrix / _norm(matrix)[..., None, None]
    gram = torch.matmul(matrix, matrix.mT) if matrix.shape[-2] < matrix.shape[-1] else torch.matmul(matrix.mT, matrix)
    return 1 / gram.square().sum((-2, -1))


def dimension(activities: Tensor) -> Tensor:
    """The effective rank of activities about their mean."""
    return effective_rank(_centred(activities.double()))


def output_potent(change: Tensor, readout: Tensor) -> tuple[Tensor, Tensor]:
    """A change of activity as what the read-out sees of it, and what it does not: potent and null.

    The two add up to the change and are orthogonal in every sample: the potent part lies in the row
    space of the read-out, the null part is mapped to 0 (Kaufman et al. 2014, Cortical activity in the null space).

    Args:
        change: ``(*members, samples, features)``.
        readout: the weights above, ``(*members, outputs, features)``.

    Returns:
        Both in ``change``'s shape, in float64.
    """
    change, readout = change.double(), readout.double()
    _, sizes, rows = torch.linalg.svd(readout.nan_to_num(0, 0, 0), full_matrices=False)
    rounding = max(readout.shape[-2:]) * torch.finfo(readout.dtype).eps
    rows = rows * (sizes > rounding * sizes.amax(-1, keepdim=True)).unsqueeze(-1)
    potent = torch.matmul(torch.matmul(change, rows.mT), rows)
    return potent, change - potent


def potent_share(change: Tensor, readout: Tensor) -> Tensor:
    """How much of the squared change the read-out sees, 0 to 1; NaN where nothing changed. See ``output_potent``."""
    potent, null = output_potent(change, readout)
    return _norm(potent).square() / (_norm(potent).square() + _norm(null).square())


def _check_pair(x: Tensor, y: Tensor) -> None:
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(f"activities must be of the same samples, not of shapes {tuple(x.shape)} and {tuple(y.shape)}")


def _samples(x: Tensor, at_least: int) -> Tensor:
    if x.shape[-2] < at_least:
        raise ValueError(f"there must be at least {at_least} samples, not {x.shape[-2]}")
    return x.double()


def _centred(activities: Tensor) -> Tensor:
    return activities - activities.mean(-2, keepdim=True)


def _norm(matrix: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrix, dim=(-2, -1))


def _u_centred(gram: Tensor) -> Tensor:
    """A Gram matrix without its diagonal, each row and column centred without bias (Székely & Rizzo 2014)."""
    samples = gram.shape[-1]
    own = torch.eye(samples, dtype=torch.bool, device=gram.device)
    gram = gram.masked_fill(own, 0)
    rows = gram.sum(-1, keepdim=True) / (samples - 2)
    everything = rows.sum(-2, keepdim=True) / (samples - 1)
    return (gram - rows - rows.mT + everything).masked_fill(own, 0)


def _squared_distances(activities: Tensor) -> Tensor:
    """Squared distances of all pairs of samples, ``(*members, pairs)``."""
    samples = activities.shape[-2]
    one, other = torch.triu_indices(samples, samples, offset=1, device=activities.device)
    centred = _centred(activities)
    gram = torch.matmul(centred, centred.mT)
    sizes = gram.diagonal(dim1=-2, dim2=-1)
    return sizes[..., one] + sizes[..., other] - 2 * gram[..., one, other]
