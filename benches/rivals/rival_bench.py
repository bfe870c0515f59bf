"""What the rival benchmarks share: options, timing, and the one line that they print for a figure.

A figure is one JSON object on a line of its own on stdout; `roentgen bench rivals` reads them and ignores
every line that does not begin with a brace:

    system   who was measured ("PyTorch")                version  of it, as it says itself
    figure   what ("prefill 512", "decode 64", "step")   model    of which shape or file
    weights  how they are stored ("bf16", "NF4")         unit     "tokens/s", "s", "B" or "GFLOP/s"
    values   one number for each repeat                  threads  that it was given

Any other key is kept as it is. Python is only used to compare with rivals; the engine never needs it.
"""

import argparse
import json
import os
import time


def emit(system, version, figure, model, weights, unit, values, threads, **about):
    """Prints one figure."""
    line = {
        "system": system,
        "version": version,
        "figure": figure,
        "model": model,
        "weights": weights,
        "unit": unit,
        "values": [float(f"{value:.6g}") for value in values],
        "threads": threads,
        **about,
    }
    print(json.dumps(line), flush=True)


def parser(description, repeats=5):
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--repeats", type=int, default=repeats)
    options.add_argument("--warmup", type=int, default=1, help="untimed runs before")
    return options


def setup(args):
    """Sets PyTorch's threads and seed."""
    import torch

    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)


def _machine_busy():
    """CPU seconds that all processes of the machine have used, or None where it isn't told."""
    try:
        with open("/proc/stat", encoding="ascii") as stat:
            user, nice, system, _, _, irq, softirq = map(int, stat.readline().split()[1:8])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own_busy():
    own = os.times()
    return own.user + own.system


def measure(run, args, prepare=None):
    """Times `run(state)`, with `state = prepare()` outside the clock.

    Returns the seconds of each repeat and what is known of the load meanwhile: the cores that
    this process kept busy (near --threads, or the figure is of a crowded machine) and the share
    of the machine's CPU time (percent) that other processes took.
    """
    prepare = prepare or (lambda: None)
    for _ in range(args.warmup):
        run(prepare())
    seconds = []
    busy, own, began = _machine_busy(), _own_busy(), time.perf_counter()
    for _ in range(args.repeats):
        state = prepare()
        start = time.perf_counter()
        run(state)
        seconds.append(time.perf_counter() - start)
    wall, own = time.perf_counter() - began, _own_busy() - own
    load = {"own_cores": round(own / wall, 2)}
    if busy is not None:
        others = max(0.0, _machine_busy() - busy - own)
        load["other_cpu_percent"] = round(100.0 * others / (wall * (os.cpu_count() or 1)), 1)
    return seconds, load


def report(measured, amount, unit, **what):
    """Prints one figure of `measure`; `amount` is the work of one repeat, or None to report seconds."""
    seconds, load = measured
    values = seconds if amount is None else [amount / second for second in seconds]
    emit(unit=unit, values=values, **what, **load)
