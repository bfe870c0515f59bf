"""Runs roentgen and the rivals in turns on the same shapes and writes the ratios as Markdown.

    python compare.py --bench PATH_OF_THE_MODEL_BENCH [--llama-bench PATH --gguf FILE] [--rounds 3]

The model bench is what `cargo bench --bench model --no-run` prints. A rival that is not given, or whose
Python packages are absent, is reported as absent. Every figure of a round is the median of its repeats;
a ratio is taken within a round, and the median over the rounds is shown with the least and the greatest.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent

# Name of our figure: (unit, {rival: its `what`})
FIGURES = {
    "SmolLM2-135M prefill 512": {"llama.cpp": "prefill", "PyTorch": "SmolLM2-135M shape/prefill"},
    "SmolLM2-135M decode 64": {"llama.cpp": "decode", "PyTorch": "SmolLM2-135M shape/decode"},
    "SmolVLM-256M forward, one tile + 100 tokens": {"PyTorch": "SmolVLM-256M shape/whole forward"},
    "SmolVLM-256M vision": {"PyTorch": "SmolVLM-256M shape/vision and connector"},
    "SmolVLM-256M text prefill 164": {"PyTorch": "SmolVLM-256M shape/text prefill"},
    "SmolVLM-256M decode 32": {"PyTorch": "SmolVLM-256M shape/decode"},
}


def lines(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=HERE)
    if done.returncode:
        print(f"absent or failed: {' '.join(map(str, command))}", file=sys.stderr)
        return []
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def ours(args):
    command = [args.bench, "--bench", "--dtype", args.dtype, "--threads", args.threads, "--repeats", args.repeats]
    return {line["what"]: line["median"] for line in lines(list(map(str, command)))}


def torch(args):
    found = {}
    for script in ["torch_smollm2.py", "torch_smolvlm.py"]:
        command = [sys.executable, script, "--dtype", args.dtype, "--threads", args.threads, "--repeats", args.repeats]
        for line in lines(list(map(str, command))):
            found[f"{line['model']}/{line['what']}"] = line["median"]
    return found


def llama(args):
    if not (args.llama_bench and args.gguf):
        return {}
    command = ["bash", "llama_bench.sh", args.llama_bench, args.gguf]
    return {line["what"]: line["median"] for line in lines(list(map(str, command)))}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bench", required=True, type=pathlib.Path)
    options.add_argument("--llama-bench", type=pathlib.Path)
    options.add_argument("--gguf", type=pathlib.Path)
    options.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--repeats", type=int, default=5)
    args = options.parse_args()
    args.bench = args.bench.resolve()
    args.llama_bench = args.llama_bench and args.llama_bench.resolve()
    args.gguf = args.gguf and args.gguf.resolve()

    rounds = [{"roentgen": ours(args), "llama.cpp": llama(args), "PyTorch": torch(args)} for _ in range(args.rounds)]
    print("| figure | unit | roentgen | rival | its figure | roentgen / rival | least–greatest |")
    print("|---|---|---|---|---|---|---|")
    for figure, rivals in FIGURES.items():
        # Seconds: less is better, so the ratio of times is shown as it is.
        unit = "s" if "forward" in figure or figure.endswith("vision") else "tokens/s"
        for rival, what in rivals.items():
            pairs = [(r["roentgen"][figure], r[rival][what]) for r in rounds if figure in r["roentgen"] and what in r[rival]]
            if not pairs:
                print(f"| {figure} | {unit} | – | {rival} | absent | – | – |")
                continue
            ratios = [a / b for a, b in pairs]
            mine, theirs = (statistics.median(values) for values in zip(*pairs))
            print(
                f"| {figure} | {unit} | {mine:.4g} | {rival} | {theirs:.4g} "
                f"| **{statistics.median(ratios):.2f}** | {min(ratios):.2f}–{max(ratios):.2f} |"
            )


if __name__ == "__main__":
    main()
