"""Checks of settings."""

import math


def check_positive(**settings: float) -> None:
    """Refuse a setting that is not finite and above 0, by its name.

    Raises:
        ValueError: naming the setting and its value.
    """
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0, not {value}")


def check_not_negative(**settings: float) -> None:
    """Refuse a setting that is below 0, by its name.

    Raises:
        ValueError: naming the setting and its value.
    """
    for name, value in settings.items():
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, not {value}")


def check_steps(steps: int) -> None:
    """Refuse a number of sweeps below 1.

    Raises:
        ValueError: naming it.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
