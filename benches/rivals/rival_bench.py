"""What the rival benchmarks share: options, timing, and one JSON line per figure.

Python is only used to compare with rivals; the engine never needs it.
"""

import argparse
import json
import os
import platform
import statistics
import time


def parser(description, repeats=7):
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--repeats", type=int, default=repeats)
    options.add_argument("--warmup", type=int, default=1, help="untimed runs before")
    options.add_argument("--dtype", choices=["f32", "bf16"], nargs="+", default=["f32", "bf16"])
    return options


def setup(args):
    """Sets PyTorch's threads and seed; returns {name: torch dtype} for the names asked for."""
    import torch

    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    known = {"f32": torch.float32, "bf16": torch.bfloat16}
    return {name: known[name] for name in args.dtype}


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
    """Prints one figure; `amount` is the work of one repeat, or None to report seconds."""
    import torch

    seconds, load = measured
    values = seconds if amount is None else [amount / second for second in seconds]
    line = {
        "tool": "pytorch",
        "version": torch.__version__,
        **what,
        "threads": torch.get_num_threads(),
        "unit": unit,
        "median": float(f"{statistics.median(values):.4g}"),
        "min": float(f"{min(values):.4g}"),
        "max": float(f"{max(values):.4g}"),
        "repeats": len(values),
        **load,
        "machine": platform.machine(),
    }
    print(json.dumps(line), flush=True)
