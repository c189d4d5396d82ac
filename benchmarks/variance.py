"""What a gradient costs each rule: its angle to backprop, its noise, and the samples it needs, by network size.

Networks of tanh layers meet a batch of regression on a random linear teacher. Each rule's update of
the hidden layers is drawn several times and held against backprop's on the same batch:

* the angle of one update, with the rule's default settings;
* its signal-to-noise ratio, ``|mean|^2 / variance``, infinite for a rule that draws no noise;
* the samples, draws times batch, over which a cosine of 0.9 is reached. The variance falls as one over
  their number and the bias stays, so a rule without noise needs one batch or never gets there.

The width varies at one depth and the depth at one width, at the initial weights. Feedback may
align with learning, so every rule that has some is measured once more after many updates of Adam,
against another teacher, at the smaller widths. The read-out layer is left out: it is exact under
nearly every rule and would flatter narrow networks.

    python benchmarks/variance.py --quick
    python benchmarks/variance.py --output benchmarks/variance
"""

import argparse
import copy
import csv
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bio_rl import Dense, Network, make_rule
from bio_rl.rules import rule_class, rule_names

INPUTS, OUTPUTS, BATCH = 16, 4, 64
WIDTHS, DEPTHS = (16, 64, 256, 1024, 4096), (1, 2, 4, 8)
WIDTH, DEPTH = 256, 2  # of the networks whose depth and whose width varies
LEARNT_WIDTHS = (16, 64, 256)
COSINE = 0.9
# What the samples needed grow with, in proportion (Werfel, Xie & Seung 2005; Baydin et al. 2022).
THEORY = {"node_perturbation": "neurons", "weight_perturbation": "weights", "forward_gradient": "weights"}


class Measurement(NamedTuple):
    """One rule in one network.

    Attributes:
        rule, width, depth, seed: the rule, and the hidden layers' neurons each, number and initial weights.
        updates: how many the network had learnt by.
        neurons, weights: of all hidden layers, biases among the weights.
        draws: noise directions of one update.
        angle: of one update to backprop's, in degrees.
        snr: of one update.
        limit_cosine: to backprop, of infinitely many updates' mean.
        samples: draws times batch for a cosine of 0.9; infinite where bias forbids it.
    """

    rule: str
    width: int
    depth: int
    seed: int
    updates: int
    neurons: int
    weights: int
    draws: int
    angle: float
    snr: float
    limit_cosine: float
    samples: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    sizes = sorted({(width, DEPTH) for width in options.widths} | {(WIDTH, depth) for depth in options.depths})
    cells = [(name, width, depth, 0) for width, depth in sizes for name in options.rules]
    learning = [name for name in options.rules if rule_class(name).ngrad != "perturbation"]
    cells += [(name, width, DEPTH, options.updates) for width in options.learnt_widths for name in learning]
    rows: list[Measurement] = []
    for cell in cells:
        rows += measure(*cell, options.seeds, options.repeats)
        print(line(rows[-options.seeds :]), flush=True)
        write_csv(rows, options.output.with_suffix(".csv"))
    print(f"\nsamples for a cosine of {COSINE}: fitted exponents, with the share of the variance that the fit explains")
    for text in exponent_table(rows):
        print(text)
    draw(rows, options.output.with_suffix(".png"))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", default=rule_names(), choices=rule_names(), metavar="RULE")
    parser.add_argument("--seeds", type=int, default=3, help="networks of each size")
    parser.add_argument("--repeats", type=int, default=8, help="updates drawn of each, at least 3")
    parser.add_argument("--updates", type=int, default=1000, help="learnt by before the second measurement")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--output", type=Path, default=Path("variance"), help="a path without extension")
    parser.add_argument("--quick", action="store_true", help="small sizes, little learning")
    options = parser.parse_args(arguments)
    if options.repeats < 3:
        parser.error("--repeats must be at least 3")
    options.widths, options.depths, options.learnt_widths = WIDTHS, DEPTHS, LEARNT_WIDTHS
    if options.quick:
        options.widths, options.depths, options.learnt_widths, options.updates = (16, 64), (1, 2), (16,), 50
    return options


def measure(name: str, width: int, depth: int, updates: int, seeds: int, repeats: int) -> list[Measurement]:
    """A rule's updates of the hidden layers against backprop's, in ``seeds`` networks at once."""
    network = make_network(name, width, depth, seeds)
    learn(network, updates)
    x, output_error = task_error(network, random_teacher(network))
    exact = hidden_update(with_rule(network, "backprop"), x, output_error)
    drawn = [hidden_update(network, x, output_error)]
    while len(drawn) < repeats and not (len(drawn) == 2 and torch.equal(*drawn)):
        drawn.append(hidden_update(network, x, output_error))
    draws = getattr(network.rule, "draws", 1)
    rows = []
    for seed, one in enumerate(exact):
        angle, snr, limit, needed = statistics([update[seed] for update in drawn], one)
        samples = max(needed * draws, 1) * BATCH
        size = width, depth, seed, updates, width * depth, one.numel(), draws
        rows.append(Measurement(name, *size, angle, snr, limit, samples))
    return rows


def make_network(name: str, width: int, depth: int, seeds: int) -> Network:
    """Networks whose signals neither fade nor grow with depth, the same for every rule."""
    torch.manual_seed(0)
    sizes = [INPUTS, *[width] * depth, OUTPUTS]
    activations = ["tanh"] * depth + ["identity"]
    layers = [Dense(i, o, a, members=(seeds,)) for (i, o), a in zip(pairwise(sizes), activations, strict=True)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(math.sqrt(3))  # a variance of 1 / inputs
    return Network(layers, make_rule(name))


def with_rule(network: Network, name: str) -> Network:
    """The same weights under another rule."""
    return Network([copy.deepcopy(layer) for layer in network.layers], make_rule(name))


def random_teacher(network: Network) -> Tensor:
    return torch.randn(*network.members, INPUTS, OUTPUTS) / math.sqrt(INPUTS)


def task_error(network: Network, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """A fresh batch and its output error; the error's size is the surprise that a gated rule asks for."""
    x = torch.randn(*network.members, BATCH, INPUTS)
    output_error = (network.activities(x)[-1] - x @ teacher) / BATCH
    network.modulator = output_error.norm(dim=-1)
    return x, output_error


def learn(network: Network, updates: int) -> None:
    """Let the network and its feedback learn one teacher."""
    teacher = random_teacher(network)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(updates):
        x, output_error = task_error(network, teacher)
        optimizer.zero_grad()
        network(x).backward(output_error)
        optimizer.step()


def hidden_update(network: Network, x: Tensor, output_error: Tensor) -> Tensor:
    """What the rule assigns to all hidden layers, ``(seeds, parameters)``; 0 where it assigns nothing."""
    network.zero_grad()
    network(x).backward(output_error)
    parameters = [p for layer in network.layers[:-1] for p in layer.parameters()]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten(1) for p in parameters], -1)


def statistics(updates: Sequence[Tensor], exact: Tensor) -> tuple[float, float, float, float]:
    """Angle, signal-to-noise ratio, cosine without noise, and how many updates to average for a cosine of 0.9.

    The mean's squared length is estimated from products of *different* updates, which noise does not bias.

    Args:
        updates: at least two, ``(parameters,)`` each.
        exact: backprop's.
    """
    products = inner_products([*updates, exact])
    along = products[:-1, -1] / products[-1, -1].sqrt()
    squares = products.diagonal()[:-1]
    if not squares.any():
        return 90.0, math.nan, 0.0, math.inf
    angle = float((along / squares.sqrt()).clamp(-1, 1).arccos().rad2deg().mean())
    different = products[:-1, :-1][torch.ones(len(updates), len(updates)).triu(1) > 0]
    signal = float(along.mean()) ** 2
    variance = max(float(squares.mean() - different.mean()), 0.0)
    # What the mean has beside backprop's direction; 0 if it cannot be told from the noise.
    bias = float(different.mean()) - signal
    uncertainty = float(different.std()) / math.sqrt(len(different)) if len(different) > 1 else 0.0
    if bias < 3 * uncertainty:
        bias = 0.0
    limit = math.copysign(math.sqrt(signal / (signal + bias)), float(along.mean()))
    margin = signal / COSINE**2 - signal - bias
    needed = variance / margin if limit > COSINE else math.inf
    return angle, (signal + bias) / variance if variance else math.inf, limit, needed


def inner_products(vectors: Sequence[Tensor], chunk: int = 2**20) -> Tensor:
    """Of all pairs, in double precision, a chunk at a time: a wide network's updates are long."""
    pieces = zip(*(vector.split(chunk) for vector in vectors), strict=True)
    return sum(
        (piece @ piece.T for piece in (torch.stack(parts).double() for parts in pieces)),
        torch.zeros((), dtype=torch.float64),
    )


def exponent_table(rows: Sequence[Measurement]) -> Iterator[str]:
    """How the samples needed grow with the neurons and with the weights, over all sizes, beside theory's."""
    yield f"{'rule':28}{'of neurons':>18}{'of weights':>18}  theory"
    for name in dict.fromkeys(row.rule for row in rows):
        own = initial(rows, name)
        reached = sum(math.isfinite(row.samples) for row in own)
        if reached < len(own):
            yield f"{name:28}  reached at the initial weights in {reached} of {len(own)} networks"
            continue
        fits = ("{:.2f} (R² {:.2f})".format(*fit(own, size)) for size in ("neurons", "weights"))
        yield f"{name:28}{next(fits):>18}{next(fits):>18}  {THEORY.get(name, 'constant')}"


def initial(rows: Sequence[Measurement], name: str) -> list[Measurement]:
    return [row for row in rows if row.rule == name and not row.updates]


def fit(rows: Sequence[Measurement], size: str) -> tuple[float, float]:
    """Least squares on logarithms: the exponent of the samples in ``size``, and R²."""
    x, y = (torch.tensor([getattr(row, key) for row in rows], dtype=torch.float64).log() for key in (size, "samples"))
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    total = float(y @ y)
    return slope, 1 - float((y - slope * x).square().sum()) / total if total else 1.0


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(mean([math.log(value) for value in values]))


def line(rows: Sequence[Measurement]) -> str:
    row = rows[0]
    return (
        f"{row.rule:28} width {row.width:4} depth {row.depth} updates {row.updates:4}: "
        f"angle {mean([row.angle for row in rows]):5.1f}  limit {mean([row.limit_cosine for row in rows]):6.3f}  "
        f"snr {geometric_mean([row.snr for row in rows]):8.3g}  "
        f"samples {geometric_mean([row.samples for row in rows]):9.4g}"
    )


def write_csv(rows: Sequence[Measurement], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Measurement._fields)
        writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)


# Okabe & Ito's colours, which the colour-blind tell apart; a marker; and where the rule is named, in its panel's axes.
STYLES = {
    "node_perturbation": ("#0072B2", "o", (0.98, 0.34)),
    "forward_gradient": ("#E69F00", "s", (0.02, 0.98)),
    "weight_perturbation": ("#D55E00", "^", (0.02, 0.82)),
}
GREEN, INK = "#009E73", "0.25"


def draw(rows: Sequence[Measurement], path: Path) -> None:
    """On the left the samples that noise costs, by neurons and by weights; on the right every rule's angle."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    style: dict[Any, Any] = {
        "font.size": 13,
        "axes.titlesize": 14,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with rc_context(style):
        figure = Figure(figsize=(13.5, 9.5), dpi=100, layout="constrained")
        grid = figure.add_gridspec(2, 2)
        upper, lower = (figure.add_subplot(grid[index, 0]) for index in range(2))
        for axis, size in ((upper, "neurons"), (lower, "weights")):
            draw_samples(axis, rows, size)
        upper.set_title(f"Samples for a cosine of {COSINE} to backprop", loc="left")
        lower.set_xlabel("hidden weights\nfilled: widths 16 to 4096, 2 layers; open: 1 to 8 layers of 256")
        draw_angles(figure.add_subplot(grid[:, 1]), rows)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    # 128 colours are enough, and a third of the bytes.
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(128).save(path, optimize=True)


def draw_samples(axis: Any, rows: Sequence[Measurement], size: str) -> None:
    """Samples needed against neurons or weights, strong and with a fit where theory names this size."""
    for name, (colour, marker, place) in STYLES.items():
        own = initial(rows, name)
        named = THEORY[name] == size
        look = {"color": colour, "markersize": 7, "alpha": 1 if named else 0.3, "linestyle": "", "zorder": 3}
        for depth_varies in (False, True):
            shown = [row for row in own if (row.depth != DEPTH) == depth_varies]
            x, y = ([getattr(row, key) for row in shown] for key in (size, "samples"))
            axis.plot(x, y, marker=marker, mfc="white" if depth_varies else colour, **look)
        text = words(name)
        if own and named:
            text += f"\n∝ {size}$^{{{draw_fit(axis, own, size, colour):.2f}}}$ (theory: 1)"
        if own:
            side = {"ha": "left" if place[0] < 0.5 else "right", "va": "top"}
            axis.text(*place, text, transform=axis.transAxes, color=colour, **side)
    exact = [getattr(row, size) for row in initial(rows, "backprop")]
    if exact:
        axis.plot([min(exact), max(exact)], [BATCH, BATCH], color=GREEN, linewidth=2.5)
        text = f"errors carried back exactly: one batch of {BATCH}"
        axis.annotate(text, (min(exact), BATCH), xytext=(0, 7), textcoords="offset points", color=GREEN)
    axis.set(xscale="log", yscale="log", xlabel=f"hidden {size}", ylabel="draws × batch")
    axis.set_ylim(BATCH / 3, 4e10)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.minorticks_off()
    ratio = axis.secondary_yaxis("right", functions=(snr_of_one, snr_of_one))
    ratio.minorticks_off()
    ratio.set_ylabel("signal-to-noise ratio of one")


def draw_fit(axis: Any, rows: Sequence[Measurement], size: str, colour: str) -> float:
    """A power law through the measurements; returns its exponent."""
    exponent, _ = fit(rows, size)
    x = [getattr(row, size) for row in rows]
    middle = geometric_mean(x), geometric_mean([row.samples for row in rows])
    ends = [min(x), max(x)]
    axis.plot(ends, [middle[1] * (end / middle[0]) ** exponent for end in ends], color=colour, linewidth=2)
    return exponent


def snr_of_one(samples: Any) -> Any:
    """One sample's signal-to-noise ratio, where that many unbiased ones reach the cosine; also the way back."""
    return 1 / (np.maximum(samples, 1e-30) * (1 / COSINE**2 - 1))


def draw_angles(axis: Any, rows: Sequence[Measurement]) -> None:
    """A line for each rule: its angles at the start, open, and after learning, filled; wider networks are larger."""
    shown = [row for row in rows if row.depth == DEPTH]
    names = sorted(dict.fromkeys(row.rule for row in rows), key=lambda name: final_angle(shown, name))
    learnt = max(row.updates for row in rows)
    for height, name in enumerate(names):
        colour = STYLES[name][0] if name in STYLES else GREEN
        for row in mean_angles(shown, name):
            filled = row.updates or name in STYLES
            look = {"edgecolors": colour if filled else "0.6", "facecolors": colour if filled else "none"}
            axis.scatter(row.angle, height, s=14 * math.log2(row.width / 4), linewidths=1.2, clip_on=False, **look)
    draws = {row.rule: f", {row.draws} draws" if row.draws > 1 else "" for row in rows}
    axis.set_yticks(range(len(names)), [words(name) + draws[name] for name in names])
    axis.tick_params(axis="y", length=0)
    axis.set(xlim=(-2, 100), ylim=(len(names) - 0.5, -0.8))
    axis.set_xticks(range(0, 91, 15), [f"{angle}°" for angle in range(0, 91, 15)])
    axis.set_xlabel(f"grey: at the start, green: after {learnt} updates\nlarger: wider, 16 to 4096 neurons a layer")
    goal = math.degrees(math.acos(COSINE))
    axis.axvline(goal, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axis.text(goal + 1, -0.6, f"cosine {COSINE}", color=INK, va="center")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_title("Angle of one update to backprop's", loc="left")


def mean_angles(rows: Sequence[Measurement], name: str) -> list[Measurement]:
    """A rule's measurements, the mean over networks of each size, narrow ones last so that none is hidden."""
    groups: dict[tuple[int, int], list[Measurement]] = {}
    for row in rows:
        if row.rule == name:
            groups.setdefault((row.updates, -row.width), []).append(row)
    return [group[0]._replace(angle=mean([row.angle for row in group])) for _, group in sorted(groups.items())]


def final_angle(rows: Sequence[Measurement], name: str) -> float:
    last = max(row.updates for row in rows if row.rule == name)
    return mean([row.angle for row in rows if row.rule == name and row.updates == last])


def words(name: str) -> str:
    return name.replace("_", " ")


if __name__ == "__main__":
    main()
