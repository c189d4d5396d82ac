"""Axes of the pages' charts: whatever the numbers, there is something to read them by."""

import numpy as np
import pytest

from bio_rl.analysis.axes import logarithmic_axis


@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.0, 2.29, 3.0, 40.0, 1e7])
def test_a_logarithmic_axis_has_ticks_within_it(ratio: float) -> None:
    for low in np.geomspace(1, 10, 200) * 1e8:
        axis = logarithmic_axis(low, low * ratio, most_ticks=5)
        assert 1 <= len(axis.ticks) <= 5
        assert axis.low <= axis.ticks[0] <= axis.ticks[-1] <= axis.high
