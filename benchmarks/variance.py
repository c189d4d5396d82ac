"""How many noisy samples is a gradient worth? Every rule's angle to backprop and its noise, by network size.

For networks at their initial weights (tanh, one regression batch), the update of the hidden
layers is drawn several times. From the draws come

* the angle of one update to backprop's,
* its signal-to-noise ratio, |mean|^2 / variance,
* how many samples, draws x batch, must be averaged until the cosine to backprop is 0.9: the
  variance falls as one over their number, the bias stays, so a biased rule may never get there.

The read-out layer is left out: it is exact under nearly every rule and would flatter narrow networks.
Feedback that has to be learnt is measured before it has learnt anything.

    python benchmarks/variance.py --quick
    python benchmarks/variance.py --output results/variance
"""

import argparse
import csv
import math
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bio_rl import Dense, Network, make_rule
from bio_rl.rules import rule_names

INPUTS, OUTPUTS, BATCH = 16, 4, 16
COSINE = 0.9
# By how much the samples needed grow with what is perturbed (Werfel, Xie & Seung 2005; Cauwenberghs 1993).
THEORY = {"node_perturbation": "neurons^1", "weight_perturbation": "weights^1", "forward_gradient": "weights^1"}


class Measurement(NamedTuple):
    """One rule on one network."""

    rule: str
    width: int
    depth: int
    neurons: int
    weights: int
    draws: int
    batch: int
    repeats: int
    angle: float
    snr: float
    limit_cosine: float
    samples: float
    seconds: float


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    widths, depths = ([16, 64, 256], [1, 2, 4]) if arguments.quick else ([16, 64, 256, 1024, 4096], [1, 2, 4, 8])
    sizes = sorted({(width, arguments.depth) for width in widths} | {(arguments.width, depth) for depth in depths})
    rows: list[Measurement] = []
    for width, depth in sizes:
        for name in arguments.rules:
            rows.append(measure(name, width, depth, arguments.repeats, arguments.seconds, arguments.seed))
            print(line(rows[-1]), flush=True)
    print()
    for text in exponents(rows, arguments.depth):
        print(text)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_csv(rows, arguments.output.with_suffix(".csv"))
    draw(rows, arguments.width, arguments.depth, arguments.output.with_suffix(".png"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="narrow and shallow networks only")
    parser.add_argument("--rules", nargs="+", default=rule_names(), help="default: all")
    parser.add_argument("--width", type=int, default=256, help="hidden neurons a layer while the depth varies")
    parser.add_argument("--depth", type=int, default=2, help="hidden layers while the width varies")
    parser.add_argument("--repeats", type=int, default=8, help="updates drawn of each rule and network")
    parser.add_argument("--seconds", type=float, default=5.0, help="after these, three repeats are enough")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("variance"), help="a path without extension")
    arguments = parser.parse_args()
    if arguments.repeats < 3:
        parser.error("--repeats must be at least 3")
    return arguments


def measure(name: str, width: int, depth: int, repeats: int, seconds: float, seed: int) -> Measurement:
    """Draw a rule's update of the hidden layers several times and hold it against backprop's."""
    start = time.perf_counter()
    network, x, output_error = problem(name, width, depth, seed)
    exact = hidden_update(*problem("backprop", width, depth, seed))
    updates = [hidden_update(network, x, output_error)]
    while len(updates) < 3 or (len(updates) < repeats and time.perf_counter() - start < seconds):
        updates.append(hidden_update(network, x, output_error))
    draws = getattr(network.rule, "draws", 1)
    angle, snr, limit, batches = statistics(torch.stack(updates), exact)
    return Measurement(
        rule=name,
        width=width,
        depth=depth,
        neurons=width * depth,
        weights=exact.numel(),
        draws=draws,
        batch=BATCH,
        repeats=len(updates),
        angle=angle,
        snr=snr,
        limit_cosine=limit,
        samples=max(batches * draws, 1.0) * BATCH,
        seconds=time.perf_counter() - start,
    )


def problem(name: str, width: int, depth: int, seed: int) -> tuple[Network, Tensor, Tensor]:
    """A network, and the inputs and output errors of regression on a random linear teacher; the same for every rule."""
    torch.manual_seed(seed)
    sizes = [INPUTS, *[width] * depth, OUTPUTS]
    layers = [Dense(i, o, "tanh" if index < depth else "identity") for index, (i, o) in enumerate(pairwise(sizes))]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(math.sqrt(3))  # unit gain, so that signals neither fade nor grow with depth
    x, teacher = torch.randn(BATCH, INPUTS), torch.randn(INPUTS, OUTPUTS) / math.sqrt(INPUTS)
    network = Network(layers, make_rule(name))
    network.modulator = torch.ones(BATCH)
    return network, x, (network.activities(x)[-1] - x @ teacher) / BATCH


def hidden_update(network: Network, x: Tensor, output_error: Tensor) -> Tensor:
    """What the rule assigns to all hidden layers, as one vector; 0 where it assigns nothing."""
    network.zero_grad()
    network(x).backward(output_error)
    parameters = [p for layer in network.layers[:-1] for p in layer.parameters()]
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])


def statistics(updates: Tensor, exact: Tensor) -> tuple[float, float, float, float]:
    """Angle, signal-to-noise ratio, cosine without noise, and updates to average for a cosine of 0.9.

    The squared length of the mean is estimated from products of *different* draws, which the noise
    does not bias.

    Args:
        updates: ``(repeats, parameters)``.
        exact: backprop's, ``(parameters,)``.
    """
    unit = exact / exact.norm()
    along = (updates @ unit).double()
    products = (updates @ updates.T).double()
    lengths = products.diagonal().sqrt()
    if not lengths.any():
        return 90.0, math.nan, 0.0, math.inf
    angle = float((along / lengths).clamp(-1, 1).arccos().rad2deg().mean())
    different = products[torch.ones_like(products).triu(1) > 0]
    signal = float(along.mean()) ** 2
    variance = max(float(lengths.square().mean() - different.mean()), 0.0)
    if variance < 1e-6 * float(lengths.square().mean()):
        variance = 0.0
    # What the mean has beside backprop's direction; none if it cannot be told from the noise.
    bias = float(different.mean()) - signal
    if bias < 3 * float(different.std()) / math.sqrt(len(different)) + 1e-6 * signal:
        bias = 0.0
    limit = math.copysign(math.sqrt(signal / (signal + bias)), float(along.mean())) if signal else 0.0
    margin = signal / COSINE**2 - signal - bias
    needed = variance / margin if limit > COSINE else math.inf
    return angle, (signal + bias) / variance if variance else math.inf, limit, needed


def exponents(rows: Sequence[Measurement], depth: int) -> Iterable[str]:
    """The fitted growth of the samples needed with the width, beside theory's."""
    yield f"samples for a cosine of {COSINE}, {depth} hidden layers: fitted exponents"
    yield f"{'rule':28}{'of neurons':>12}{'of weights':>12}  theory"
    for name in dict.fromkeys(row.rule for row in rows):
        own = [row for row in rows if row.rule == name and row.depth == depth and math.isfinite(row.samples)]
        if len(own) < 3:
            yield f"{name:28}{'never':>12}{'never':>12}"
            continue
        fits = [
            slope([getattr(row, size) for row in own], [row.samples for row in own]) for size in ("neurons", "weights")
        ]
        yield f"{name:28}{fits[0]:12.2f}{fits[1]:12.2f}  {THEORY.get(name, '')}"


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least squares on logarithms."""
    log_x, log_y = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    centred = log_x - log_x.mean()
    return float((centred * log_y).sum() / centred.square().sum())


def line(row: Measurement) -> str:
    return (
        f"width {row.width:5} depth {row.depth}  {row.rule:28} angle {row.angle:5.1f}  snr {row.snr:9.3g}"
        f"  limit {row.limit_cosine:6.3f}  samples {row.samples:10.4g}  {row.seconds:6.2f} s"
    )


def write_csv(rows: Sequence[Measurement], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Measurement._fields)
        writer.writerows(rows)


FAMILIES: dict[str, tuple[str, list[str]]] = {
    "perturbation": ("YlOrRd", ["node_perturbation", "forward_gradient", "weight_perturbation"]),
    "feedback pathways": (
        "Blues",
        [
            "feedback_alignment",
            "direct_feedback_alignment",
            "sign_symmetry",
            "kolen_pollack",
            "weight_mirror",
            "pepita",
        ],
    ),
    "differences": (
        "Greens",
        ["predictive_coding", "equilibrium_propagation", "target_propagation", "deep_feedback_control"],
    ),
    "dendrites, bursts, gates": ("Purples", ["dendritic_microcircuit", "segregated_dendrites", "burst", "gated"]),
    "references": ("Greys", ["readout", "backprop"]),
}

LEGEND: dict[str, Any] = {"bbox_to_anchor": (0.81, 0.47), "frameon": False, "fontsize": 10, "labelspacing": 0.45}
CAPTION = (
    "The hidden layers' update against backprop's, at the initial weights. Rules without noise have no\n"
    f"signal-to-noise ratio; rules whose bias keeps them from a cosine of {COSINE} are not in the right-hand panels."
)


def draw(rows: Sequence[Measurement], width: int, depth: int, path: Path) -> None:
    """Angle, signal-to-noise ratio and samples needed, against the width above and the depth below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, 3, figsize=(16, 9), sharey="col")
    views = [
        ([row for row in rows if row.depth == depth], "width", f"neurons per hidden layer ({depth} layers)"),
        ([row for row in rows if row.width == width], "depth", f"hidden layers ({width} neurons each)"),
    ]
    quantities = [
        ("angle", "angle of one update to backprop's", "degrees"),
        ("snr", "signal-to-noise ratio of one update", "|mean|² / variance"),
        ("samples", f"samples for a cosine of {COSINE}", "draws × batch"),
    ]
    styles = line_styles(dict.fromkeys(row.rule for row in rows))
    draws = {row.rule: row.draws for row in rows}
    for (chosen, size, size_label), panels in zip(views, axes, strict=True):
        for (quantity, _, unit), axis in zip(quantities, panels, strict=True):
            for name, style in styles.items():
                own = [row for row in chosen if row.rule == name and math.isfinite(getattr(row, quantity))]
                x, y = ([getattr(row, key) for row in own] for key in (size, quantity))
                label = name if draws[name] == 1 else f"{name} ({draws[name]} draws)"
                axis.plot(x, y, label=label, **style)
            axis.set_xscale("log", base=2)
            ticks = sorted({getattr(row, size) for row in chosen})
            axis.set_xticks(ticks, [f"{tick}" for tick in ticks])
            axis.minorticks_off()
            axis.set(xlabel=size_label, ylabel=unit)
            axis.grid(alpha=0.25, linewidth=0.6)
    for axis, (_, title, _) in zip(axes[0], quantities, strict=True):
        axis.set_title(title, fontsize=13)
    for panels in axes:
        panels[0].set(ylim=(-3, 100), yticks=range(0, 91, 15))
        panels[1].set_yscale("log")
        panels[2].set_yscale("log")
    guides(axes[0][2], [row for row in rows if row.depth == depth])
    figure.legend(*by_family(*axes[0][0].get_legend_handles_labels()), loc="center left", **LEGEND)
    figure.suptitle("What a gradient costs without feedback", fontsize=17, x=0.012, ha="left")
    figure.text(0.012, 0.935, CAPTION, fontsize=11, color="0.35", va="top")
    figure.tight_layout(rect=(0, 0, 0.81, 0.91))
    figure.savefig(path, dpi=130)


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour family for each family of rules, and a marker for each rule in it."""
    from matplotlib import colormaps

    present = list(names)
    families = {family: (shade, [n for n in members if n in present]) for family, (shade, members) in FAMILIES.items()}
    known = {name for _, members in families.values() for name in members}
    families["others"] = ("copper", [name for name in present if name not in known])
    styles: dict[str, dict[str, Any]] = {}
    for family, (shade, members) in families.items():
        bold = family == "perturbation"
        for index, name in enumerate(members):
            colour = colormaps[shade](0.45 + 0.5 * index / max(len(members) - 1, 1))
            styles[name] = {
                "color": colour,
                "marker": "os^DvPX*"[index % 8],
                "markersize": 7 if bold else 5,
                "linewidth": 2.6 if bold else 1.3,
                "zorder": 3 if bold else 2,
            }
    return styles


def by_family(handles: Sequence[Any], labels: Sequence[str]) -> tuple[list[Any], list[str]]:
    """A legend with the families' names as headings."""
    from matplotlib.lines import Line2D

    family_of = {name: family for family, (_, members) in FAMILIES.items() for name in members}
    grouped: dict[str, list[tuple[Any, str]]] = {}
    for handle, label in zip(handles, labels, strict=True):
        grouped.setdefault(family_of.get(label.split()[0], "others"), []).append((handle, label))
    lines: list[tuple[Any, str]] = []
    for family, members in grouped.items():
        lines += [(Line2D([], [], linestyle=""), f"$\\bf{{{family.replace(' ', chr(92) + ' ')}}}$"), *members]
    return [handle for handle, _ in lines], [label for _, label in lines]


def guides(axis: Any, rows: Sequence[Measurement]) -> None:
    """Theory's slopes through the first point of what they are about."""
    for name, size, text in (
        ("node_perturbation", "neurons", "∝ neurons"),
        ("weight_perturbation", "weights", "∝ weights"),
    ):
        own = [row for row in rows if row.rule == name]
        if not own:
            continue
        x = [row.width for row in own]
        y = [own[0].samples * getattr(row, size) / getattr(own[0], size) for row in own]
        axis.plot(x, y, color="0.35", linestyle=(0, (4, 3)), linewidth=1.2, zorder=4)
        axis.annotate(text, (x[-1], y[-1]), xytext=(-10, 8), textcoords="offset points", ha="right", color="0.25")


if __name__ == "__main__":
    main()
