"""What several rules share: how signals descend, feedback weights, nudging, relaxation, perturbation, settings."""
