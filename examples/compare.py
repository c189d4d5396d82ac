"""Three rules compared as in a notebook: train them, load what they did, plot it. It needs ``bio-rl[analysis]``.

Run it with ``python examples/compare.py``, or with settings: ``python examples/compare.py members=2 env=acrobot``.
"""

import sys

import matplotlib.pyplot as plt
import polars as pl

from bio_rl.analysis import load
from bio_rl.cli import main

# %% Train: runs that are finished already stay, so that this cell may be run again.
main(["train", "-m", "study=notebook", "rule=backprop,readout,feedback_alignment", *(sys.argv[1:] or ["members=8"])])

# %% Load: two data frames of polars, a row for each run and a row for each evaluation.
runs, evaluations = load("runs/notebook")
print(runs[["rule", "seed", "return_mean"]])

# %% Plot: the mean over seeds.
for (rule,), curves in evaluations.join(runs[["folder", "rule"]], on="folder").group_by("rule", maintain_order=True):
    curve = curves.group_by("timesteps").agg(pl.mean("return_mean")).sort("timesteps")
    plt.plot(curve["timesteps"], curve["return_mean"], label=rule)
plt.legend()
plt.savefig("runs/notebook/curves.png")
