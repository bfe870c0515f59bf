"""Runs roentgen's QLoRA step and bitsandbytes' in turns; writes the ratios as Markdown.

    python qlora_compare.py [--models 256m 2.2b] [--rounds 3] [--ours "COMMAND"] [--theirs "COMMAND"]

Both commands print one JSON line with `step_seconds` (median of its steps), `peak_rss_bytes` and
`load_rss_bytes`. In them {model} stands for the shape and {checkpointing} for `--checkpointing` or
nothing; what stands in the line as another {name} is refused. Every ratio is taken within a
round, roentgen over the rival (below 1: roentgen needs less), and the median over the rounds is
shown with the least and the greatest. The rise is the peak over what the loaded model takes.
"""

import argparse
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
OURS = "cargo bench --bench qlora -- --model {model} {checkpointing} --json"
THEIRS = "{python} {rivals}/torch_qlora.py --model {model} {checkpointing}"
NEEDED = ["step_seconds", "peak_rss_bytes", "load_rss_bytes"]
FIGURES = {
    "step": ("s", 1.0, lambda run: run["step_seconds"]),
    "peak memory": ("GB", 1e9, lambda run: run["peak_rss_bytes"]),
    "memory of the loaded model": ("GB", 1e9, lambda run: run["load_rss_bytes"]),
    "rise over the loaded model": ("GB", 1e9, lambda run: run["peak_rss_bytes"] - run["load_rss_bytes"]),
}


def words(template, model, checkpointing):
    """The command line of a template, split as a shell would, one template word at a time."""
    values = {
        "model": model,
        "checkpointing": "--checkpointing" if checkpointing else "",
        "python": sys.executable,
        "rivals": str(HERE),
    }
    try:
        found = [word.format(**values) for word in shlex.split(template)]
    except (KeyError, IndexError, ValueError) as error:
        sys.exit(f"{template!r}: {error}; the names are {sorted(values)}")
    return [word for word in found if word]


def run(command):
    """The last JSON line of a command that has all needed figures."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    found = []
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found.append(json.loads(line))
    if done.returncode or not found:
        sys.exit(f"failed (status {done.returncode}): {shlex.join(command)}\n{done.stderr[-2000:]}")
    missing = [name for name in NEEDED if not isinstance(found[-1].get(name), (int, float))]
    if missing:
        sys.exit(f"{shlex.join(command)}: no number for {missing} in {found[-1]}")
    return found[-1]


def row(name, figure, rounds):
    unit, scale, value = FIGURES[figure]
    ours, theirs = ([value(pair[side]) for pair in rounds] for side in (0, 1))
    cells = [name, figure, unit, *(f"{statistics.median(side) / scale:.3g}" for side in (ours, theirs))]
    if min(theirs) <= 0 or min(ours) <= 0:
        return "| " + " | ".join([*cells, "–", "–"]) + " |"
    ratios = [mine / other for mine, other in zip(ours, theirs)]
    cells += [f"**{statistics.median(ratios):.2f}**", f"{min(ratios):.2f}–{max(ratios):.2f}"]
    return "| " + " | ".join(cells) + " |"


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=["256m"])
    options.add_argument("--checkpointing", choices=["on", "off", "both"], default="both")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--ours", default=OURS, help="our command line")
    options.add_argument("--theirs", default=THEIRS, help="the rival's command line")
    options.add_argument("--rest", type=float, default=0.0, help="seconds of pause before each run")
    options.add_argument("--keep", type=pathlib.Path, help="file that every JSON line is added to")
    args = options.parse_args()
    if args.rounds < 1:
        options.error("--rounds: at least 1")
    ways = {"on": [True], "off": [False], "both": [False, True]}[args.checkpointing]
    measured = {}
    for index in range(args.rounds):
        for model in args.models:
            for way in ways:
                # Who goes first alternates, so that a drift of the machine favours neither.
                sides = [args.ours, args.theirs]
                order = [0, 1] if index % 2 == 0 else [1, 0]
                pair = [None, None]
                for side in order:
                    time.sleep(args.rest)
                    pair[side] = run(words(sides[side], model, way))
                    if args.keep:
                        with args.keep.open("a", encoding="utf-8") as file:
                            about = {"round": index, "side": ["roentgen", "rival"][side]}
                            file.write(json.dumps(about | pair[side]) + "\n")
                measured.setdefault((model, way), []).append(pair)
                print(f"round {index + 1}: {model}, checkpointing {way}", file=sys.stderr, flush=True)

    print("| shape | figure | unit | roentgen | bitsandbytes + PEFT | roentgen / rival | least–greatest |")
    print("|---|---|---|---|---|---|---|")
    for (model, way), rounds in measured.items():
        name = f"SmolVLM-{model.upper()}, checkpointing" if way else f"SmolVLM-{model.upper()}"
        for figure in FIGURES:
            print(row(name, figure, rounds))
    imports = [run["import_rss_bytes"] for rounds in measured.values() for _, run in rounds if "import_rss_bytes" in run]
    if imports:
        bare = statistics.median(imports) / 1e9
        print(f"\nThe rival's memory holds Python and its libraries: {bare:.2f} GB before a model is made.")
    crowded = [
        run["other_cpu_percent"] for rounds in measured.values() for _, run in rounds if run.get("other_cpu_percent", 0) > 4
    ]
    if crowded:
        print(f"\nOther processes took up to {max(crowded)} % of the machine during {len(crowded)} of the rival's runs.")


if __name__ == "__main__":
    main()
