"""When a relaxation ends, and how each sample's step follows its imbalance."""

import pytest
import torch

from bio_rl.mechanisms.relaxation import Cautious, relax
from bio_rl.rules import Backprop


def falling(share, sizes):
    """A sweep whose residuals, of one layer each, begin with ``sizes`` and fall to this share at every step."""
    residuals = [torch.tensor([[0.0, -size]], dtype=torch.float64) / share for size in sizes]

    def sweep():
        for residual in residuals:
            residual.mul_(share)
        return residuals

    return sweep


@pytest.mark.parametrize(
    ("share", "sizes", "tolerance", "expected"),
    [
        (0.5, (1.0,), 0.5**3, 4),  # what is reached exactly is reached
        (0.5, (1.0, 1e-6), 0.5**3, 4),  # each layer is held against its own largest
        (0.5, (1.0, 0.0), 0.5**5, 6),
        (0.5, (0.0, 0.0), 0.0, 1),  # nothing is left to change
        (0.5, (1.0,), 0.0, 20),
    ],
)
def test_a_relaxation_ends_where_every_layer_has_come_to_a_fraction_of_its_largest(
    build, share, sizes, tolerance, expected
):
    taken = relax(build(Backprop()), "rule", falling(share, sizes), list, steps=20, tolerance=tolerance)
    assert taken == [expected]


def test_a_sample_is_halved_where_the_whole_of_its_imbalance_has_grown():
    cautious = Cautious(torch.ones(2, 1))
    cautious.heed([torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [4.0]])])
    assert cautious.step.tolist() == [[1], [1]]
    cautious.heed([torch.tensor([[2.0], [2.0]]), torch.tensor([[4.0], [1.0]])])
    assert cautious.step.tolist() == [[0.5], [1]]
    cautious.heed([torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [1.5]])])
    assert cautious.step.tolist() == [[0.5], [0.5]]
