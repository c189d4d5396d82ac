"""Comparisons of representations against closed forms, their papers' formulas, SciPy and rsatoolbox."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import null_space, orthogonal_procrustes
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, pearsonr

from bio_rl.diagnostics.representations import (
    debiased_cka,
    dimension,
    effective_rank,
    output_potent,
    potent_share,
    procrustes_distance,
    rsa,
)

COMPARISONS = {debiased_cka: 1, procrustes_distance: 0, rsa: 1}
"""Each with its value for shapes that are the same."""
compared = pytest.mark.parametrize("compare", COMPARISONS, ids=lambda compare: compare.__name__)


def activities(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def rotation(features):
    return torch.from_numpy(ortho_group.rvs(features, random_state=0))


@compared
def test_shapes_are_the_same_wherever_they_lie_however_large_and_turned(compare):
    x = activities(30, 6)
    turned = 3 * x @ rotation(6) + 100
    assert float(compare(x, turned)) == pytest.approx(COMPARISONS[compare], abs=1e-6)
    y = activities(30, 4)
    assert float(compare(turned, y)) == pytest.approx(float(compare(x, y)), abs=1e-9)
    assert float(compare(y, x)) == pytest.approx(float(compare(x, y)), abs=1e-12)


@compared
def test_members_are_compared_each_by_itself(compare):
    x, y = activities(2, 3, 20, 5), activities(2, 3, 20, 7)
    together = compare(x, y)
    assert together.shape == (2, 3)
    for i, j in ((0, 0), (1, 2)):
        torch.testing.assert_close(together[i, j], compare(x[i, j], y[i, j]), rtol=1e-10, atol=1e-12)
    x[0, 1, 3] = torch.nan
    ill = compare(x, y)
    assert ill.isnan().nonzero().tolist() == [[0, 1]]
    torch.testing.assert_close(ill[1], together[1], rtol=0, atol=0)


@compared
def test_what_does_not_vary_is_like_nothing(compare):
    assert compare(torch.ones(10, 3), activities(10, 3)).isnan()


@compared
def test_different_samples_are_refused(compare):
    with pytest.raises(ValueError, match=r"same samples, not of shapes \(10, 3\) and \(9, 3\)"):
        compare(activities(10, 3), activities(9, 3))
    with pytest.raises(ValueError, match="there must be at least"):
        compare(activities(1, 3), activities(1, 3))


def hsic(k, m):
    """Song et al. 2012, eq. 5, as it is printed."""
    n = len(k)
    k, m = k * (1 - np.eye(n)), m * (1 - np.eye(n))
    one = np.ones(n)
    means = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + means - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def test_cka_is_a_ratio_of_unbiased_estimates_of_hsic():
    x, y = activities(12, 5), activities(12, 30)
    y[:, :5] += x
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    expected = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    assert float(debiased_cka(x, y)) == pytest.approx(expected, rel=1e-12)


def test_cka_of_unrelated_activities_is_0_on_average_where_the_biased_one_is_near_1():
    x, y = activities(400, 16, 200), activities(400, 16, 200)
    similarity = debiased_cka(x, y)
    assert abs(similarity.mean()) < 4 * similarity.std() / 20

    def biased(a, b):
        a, b = a - a.mean(-2, keepdim=True), b - b.mean(-2, keepdim=True)
        return (a.mT @ b).square().sum() / ((a.mT @ a).norm() * (b.mT @ b).norm())

    assert biased(x[0], y[0]) > 0.9


def test_procrustes_against_scipy():
    x, y = activities(25, 6), activities(25, 6)
    y += x
    distance = float(procrustes_distance(x, y))
    _, _, disparity = procrustes(x.numpy(), y.numpy())
    assert math.sin(distance) ** 2 == pytest.approx(disparity, rel=1e-10)
    x, y = (each - each.mean(0) for each in (x, y))
    _, nuclear_norm = orthogonal_procrustes(x.numpy(), y.numpy())
    assert math.cos(distance) == pytest.approx(nuclear_norm / float(x.norm() * y.norm()), rel=1e-10)


def test_procrustes_is_an_angle():
    x = torch.tensor([[1.0], [-1], [0], [0]])
    assert float(procrustes_distance(x, torch.tensor([[0.0], [0], [1], [-1]]))) == pytest.approx(math.pi / 2)
    # Of two orthogonal patterns with a share each: the angle by which the share says it is turned.
    mixed = math.cos(0.3) * x + math.sin(0.3) * torch.tensor([[0.0], [0], [1], [-1]])
    assert float(procrustes_distance(x, mixed)) == pytest.approx(0.3, rel=1e-6)
    three = [activities(20, size) for size in (3, 5, 8)]
    one, two, straight = (procrustes_distance(three[i], three[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
    assert straight <= one + two


def test_rsa_against_scipy():
    x, y = activities(15, 6), activities(15, 9)
    y[:, :6] += x
    expected = pearsonr(*(pdist(each.numpy(), "sqeuclidean") for each in (x, y))).statistic
    assert float(rsa(x, y)) == pytest.approx(expected, rel=1e-10)


def test_rsa_against_rsatoolbox():
    rsatoolbox = pytest.importorskip("rsatoolbox")
    x, y = activities(15, 6), activities(15, 9)
    y[:, :6] += x
    one, other = (rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(each.numpy()), method="euclidean") for each in (x, y))
    assert float(rsa(x, y)) == pytest.approx(rsatoolbox.rdm.compare(one, other, method="corr").item(), rel=1e-10)


@pytest.mark.parametrize("size", [1, 1e-150])
def test_effective_rank_counts_equal_directions(size):
    x = size * rotation(8)[:, :5]
    assert float(effective_rank(x)) == pytest.approx(5, rel=1e-12)
    assert float(effective_rank(size * torch.outer(activities(4), activities(9)))) == pytest.approx(1, rel=1e-12)
    values = torch.tensor([3.0, 2, 1], dtype=torch.float64)
    matrix = size * rotation(6)[:, :3] @ values.diag() @ rotation(3)
    assert float(effective_rank(matrix)) == pytest.approx(14**2 / (81 + 16 + 1), rel=1e-10)
    assert effective_rank(0 * matrix).isnan()


def test_dimension_is_that_of_the_cloud_about_its_mean():
    x = activities(2, 4000, 3) @ rotation(7)[:3] + 50
    torch.testing.assert_close(dimension(x), torch.full((2,), 3.0, dtype=torch.float64), rtol=0.01, atol=0)


def test_what_the_read_out_sees_of_a_change():
    readout, change = activities(2, 3, 8), activities(2, 20, 8)
    potent, null = output_potent(change, readout)
    torch.testing.assert_close(potent + null, change, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(potent @ readout.mT, change @ readout.mT, rtol=1e-10, atol=1e-10)
    assert (null @ readout.mT).abs().max() < 1e-10
    for member in range(2):
        basis = torch.from_numpy(null_space(readout[member].numpy()))
        torch.testing.assert_close(null[member], change[member] @ basis @ basis.T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(potent_share(potent, readout), torch.ones(2, dtype=torch.float64))
    assert potent_share(null, readout).max() < 1e-20
    # Of a change in any direction alike, as many shares as the read-out has directions, of all that there are.
    share = potent_share(activities(2, 20_000, 8), readout)
    torch.testing.assert_close(share, torch.full((2,), 3 / 8, dtype=torch.float64), rtol=0.02, atol=0)


def test_a_read_out_sees_no_more_than_its_rank():
    readout = activities(1, 6).expand(4, 6)
    change = activities(10, 6)
    potent, _ = output_potent(change, readout)
    unit = readout[0] / readout[0].norm()
    torch.testing.assert_close(potent, (change @ unit).unsqueeze(-1) * unit, rtol=1e-10, atol=1e-10)
