"""What one update costs under each rule: time, memory and arithmetic, as ratios to torch's autograd.

    python benchmarks/update_cost.py --quick
    python benchmarks/update_cost.py --rules backprop feedback_alignment --widths 64 1024 --csv cost.csv

Each rule learns in a network of ``depth`` layers of ``width`` neurons (tanh, linear read-out);
autograd learns in an ``nn.Sequential`` of the same layers. What is measured is one forward sweep
and one ``backward`` from a given output error, the rule with its default settings.

Time: the two take turns, which of them begins included, and the figure is the median of the
ratios of neighbours: what slows the machine down slows both. The quartiles show how much noise
was left. With one thread it is the processor's time for this process, so that other programs'
turns do not count; with several, the clock's.

Memory: the most bytes that tensors held at once during the update, beyond what they held before
it: activities, updates, and everything temporary. Every tensor that an operation of torch returns
counts until its storage is freed; what a kernel allocates for itself does not.

Arithmetic: the floating-point operations of the matrix products, counted as by
``bio_rl.diagnostics.cost``; element-wise operations are not counted. A rule that relaxes for T
steps does about T sweeps of arithmetic; time over arithmetic says how well it does them, and 1 is
as well as autograd.

Draws: a rule that draws K perturbations is also compared with autograd's arithmetic and that of K
whole forward sweeps together, in its arithmetic and in its time.

``bare`` is not a rule but the least that one in Python can cost: backprop's kernels, written out for
this one network, between the two calls that autograd makes. Where that takes longer than autograd,
every rule does.
"""

import argparse
import copy
import csv
import itertools
import math
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bio_rl.activations import tanh_backward_out
from bio_rl.diagnostics.cost import Operations
from bio_rl.network import Network
from bio_rl.rules import make_rule, rule_names

Update = Callable[[], None]
Row = dict[str, Any]
BARE = "bare"
SIZES = ("width", "depth", "batch")
RATIOS = ("time_ratio", "memory_ratio", "arithmetic_ratio", "time_over_arithmetic")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    console = Console(highlight=False, soft_wrap=True, width=100)
    rows = []
    for name, width, depth, batch in itertools.product(options.rules, options.widths, options.depths, options.batches):
        torch.manual_seed(0)
        row = cost(name, width, depth, batch, options.seconds)
        console.print(
            f"{name} {width}x{depth}x{batch}: time {row['time_ratio']:.2f} "
            f"[{row['time_ratio_q1']:.2f}, {row['time_ratio_q3']:.2f}], memory {row['memory_ratio']:.2f}, "
            f"arithmetic {row['arithmetic_ratio']:.2f}",
        )
        rows.append(row)
        write_csv(options.csv, rows)
    console.print(summary(rows))
    for line in against_draws(rows):
        console.print(line)
    console.print(f"{len(rows)} rows in {options.csv}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [BARE, *rule_names()]
    parser.add_argument("--rules", nargs="+", default=choices, choices=choices, metavar="RULE")
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--depths", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256, 2048])
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on one cell, at least five pairs")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--csv", type=Path, default=Path("update_cost.csv"), help="where the rows go")
    parser.add_argument("--quick", action="store_true", help="small sizes, a quarter of a second each")
    options = parser.parse_args(arguments)
    if options.quick:
        options.widths, options.depths, options.batches, options.seconds = [64, 256], [2, 4], [64, 256], 0.25
    return options


def cost(name: str, width: int, depth: int, batch: int, seconds: float) -> Row:
    """One row: what one update costs under a rule, and under autograd, in a network of this size."""
    plain = plain_network(width, depth)
    learner = Bare(plain) if name == BARE else network_with(name, plain, batch)
    x, output_error = torch.randn(batch, width), torch.randn(batch, width) / batch
    updates = one_update(learner, x, output_error), one_update(plain, x, output_error)
    times, autograd_times = alternating_times(*updates, seconds)
    first, median, third = statistics.quantiles([a / b for a, b in zip(times, autograd_times, strict=True)], n=4)
    memory, autograd_memory = map(peak_bytes, updates)
    flops, autograd_flops = map(matrix_flops, updates)
    draws = getattr(learner.rule, "draws", 0) if isinstance(learner, Network) else 0
    flops_of_draws = autograd_flops + draws * matrix_flops(lambda: plain(x))
    return {
        "rule": name,
        "width": width,
        "depth": depth,
        "batch": batch,
        "pairs": len(times),
        "seconds": statistics.median(times),
        "autograd_seconds": statistics.median(autograd_times),
        "time_ratio": median,
        "time_ratio_q1": first,
        "time_ratio_q3": third,
        "memory_bytes": memory,
        "memory_ratio": memory / autograd_memory,
        "flops": flops,
        "arithmetic_ratio": flops / autograd_flops,
        "time_over_arithmetic": median * autograd_flops / flops,
        "draws": draws,
        "arithmetic_over_draws": flops / flops_of_draws,
        "time_over_draws": median * autograd_flops / flops_of_draws,
    }


def plain_network(width: int, depth: int) -> nn.Sequential:
    hidden = [module for _ in range(depth - 1) for module in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(width, width))


def network_with(rule: str, plain: nn.Sequential, batch: int) -> Network:
    network = Network.from_sequential(plain, make_rule(rule))
    network.modulator = torch.randn(batch)  # what a gated rule asks its agent for
    return network


class Bare(nn.Module):
    """What autograd calls on the way up and on the way down, with nothing but backprop's kernels in between.

    It knows its layers in advance (tanh, biases, no members), asks no rule and checks nothing.
    """

    def __init__(self, plain: nn.Sequential):
        super().__init__()
        self.plain = copy.deepcopy(plain)  # weights of its own, as a Network has
        self.learnable = tuple(self.plain.parameters())

    def forward(self, x: Tensor) -> Tensor:
        return BareFunction.apply(x, *self.learnable)  # type: ignore[no-untyped-call]


class BareFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        activities = [x]
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            activities.append(F.linear(activities[-1], weight, bias).tanh_())
        ctx.save_for_backward(*activities)
        ctx.weights = parameters[::2]
        return F.linear(activities[-1], *parameters[-2:])

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        (*activities,) = ctx.saved_tensors
        ctx.maybe_clear_saved_tensors()  # each activity is freed once it has served
        updates = [delta.sum(0), torch.mm(delta.t(), activities[-1])]
        for weight in ctx.weights[:0:-1]:
            signal = torch.mm(delta, weight)
            delta = tanh_backward_out(signal, activities.pop(), grad_input=signal)
            updates += (delta.sum(0), torch.mm(delta.t(), activities[-1]))
        return None, *reversed(updates)


def one_update(model: nn.Module, x: Tensor, output_error: Tensor) -> Update:
    parameters = list(model.parameters())

    def update() -> None:
        for parameter in parameters:
            parameter.grad = None
        model(x).backward(output_error)

    return update


def alternating_times(ours: Update, theirs: Update, seconds: float, least: int = 5) -> tuple[list[float], list[float]]:
    """The seconds of each of two updates that take turns, as often as fits, at least ``least`` times."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[Update, list[float]] = {ours: [], theirs: []}
    turns = (ours, theirs)
    for update in turns:  # warm-up: first allocations are slow
        update()
    end = time.perf_counter() + seconds
    while len(times[ours]) < least or time.perf_counter() < end:
        for update in turns:
            start = clock()
            update()
            times[update].append(clock() - start)
        turns = turns[::-1]
    return times[ours], times[theirs]


def peak_bytes(update: Update) -> int:
    """The most bytes held at once during an update, beyond those held before it."""
    with LiveBytes() as live:
        update()
    return live.most


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that are made while it is on, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: set[int] = set()
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A result may be a view of an argument: whatever comes in from outside is there already.
        for tensor in filter(torch.is_tensor, tree_leaves((args, kwargs))):
            self.track(tensor.untyped_storage(), size=0)
        result = function(*args, **(kwargs or {}))
        for tensor in filter(torch.is_tensor, tree_leaves(result)):
            storage = tensor.untyped_storage()
            self.track(storage, storage.nbytes())
        return result

    def track(self, storage: torch.UntypedStorage, size: int) -> None:
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.forget, storage._cdata, size).atexit = False

    def forget(self, storage: int, size: int) -> None:
        self.known.remove(storage)
        self.now -= size


def matrix_flops(update: Update) -> int:
    """The floating-point operations of an update's matrix products."""
    with Operations() as counted:
        update()
    return 2 * counted.multiply_accumulates


def exponents(rows: Sequence[Row]) -> list[float]:
    """How time grows with width, depth and batch: the slopes of one fit of all their logarithms.

    A size of which there is one value only has no slope: not a number.
    """
    sizes = np.log([[row[size] for size in SIZES] for row in rows])
    varied = np.ptp(sizes, axis=0) > 0
    design = np.column_stack([np.ones(len(rows)), sizes[:, varied]])
    fit = np.linalg.lstsq(design, np.log([row["seconds"] for row in rows]), rcond=None)[0]
    slopes = np.full(len(SIZES), math.nan)
    slopes[varied] = fit[1:]
    return slopes.tolist()


def summary(rows: Sequence[Row]) -> Table:
    table = Table(
        title="One update as a multiple of autograd's: median over the sizes, and from least to most",
        caption="under a size: the exponent with which time grows in it",
        box=None,
        pad_edge=False,
    )
    table.add_column("rule", no_wrap=True)
    for column in (*RATIOS, *SIZES):
        table.add_column(column.removesuffix("_ratio").replace("_over_", " /\n"), justify="right", no_wrap=True)
    for name, group in itertools.groupby(rows, key=lambda row: row["rule"]):
        own = list(group)
        ratios = [spread([row[column] for row in own], "\n") for column in RATIOS]
        table.add_row(name, *ratios, *(f"{slope:.2f}" for slope in exponents(own)))
    return table


def against_draws(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each rule that draws: what it costs beside an update of autograd's and a whole sweep a draw."""
    for name, group in itertools.groupby((row for row in rows if row["draws"]), key=lambda row: row["rule"]):
        own = list(group)
        arithmetic, time_taken = (
            spread([row[column] for row in own], ", ") for column in ("arithmetic_over_draws", "time_over_draws")
        )
        yield (
            f"{name}, as a multiple of the arithmetic of autograd and {own[0]['draws']} whole sweeps: "
            f"arithmetic {arithmetic}; time {time_taken}"
        )


def spread(values: Sequence[float], between: str) -> str:
    return f"{statistics.median(values):.2f}{between}{min(values):.2f}–{max(values):.2f}"


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
