"""llama.cpp on the CPU, or with --vulkan on a GPU: prefill and decode of a GGUF file, through its own llama-bench.

    llama_bench.py BIN_FOLDER MODEL.gguf [--format IQ4_NL-head16 --made FOLDER]

BIN_FOLDER holds llama-bench, and llama-quantize where a --format is asked for; llama_build.sh builds both. A file
of another format is made in FOLDER where it is absent. IQ4_NL looks a 4-bit code up in a table as NF4 does; Q4_0
subtracts; both have one f16 scale for 32 weights (4.5 bits). llama-quantize puts a tied head in 6 or 8 bits, where
bitsandbytes and roentgen leave 16: formats ending in -head16 keep it in bf16.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

from rival_bench import emit, parser

HEAD16 = "-head16"


def run(command, **environment):
    command = [str(word) for word in command]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{command[0]}: exit status {done.returncode}")
    return done.stdout


def quantised(args):
    """The file in the format asked for, made if it isn't there."""
    file = args.made / f"{args.model.stem}-{args.format.lower()}.gguf"
    if not file.exists():
        args.made.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        keep = ["--token-embedding-type", "bf16"] if args.format.endswith(HEAD16) else []
        command = [args.bin / "llama-quantize", "--allow-requantize", *keep, args.model, part]
        print(run([*command, args.format.removesuffix(HEAD16), args.threads]), file=sys.stderr)
        part.rename(file)
    return file


def main():
    options = parser(__doc__, repeats=5)
    options.formatter_class = argparse.RawDescriptionHelpFormatter
    options.add_argument("bin", type=pathlib.Path, help="folder of llama.cpp's programs")
    options.add_argument("model", type=pathlib.Path)
    options.add_argument("--format", help="quantise to this one before, as IQ4_NL, Q4_0 or IQ4_NL-head16")
    options.add_argument("--made", type=pathlib.Path, help="where quantised files are made [beside the model]")
    options.add_argument("--prefill", type=int, nargs="+", default=[512])
    options.add_argument("--decode", type=int, default=64)
    options.add_argument("--vulkan", metavar="N", help="the N-th device of its Vulkan backend, software ones counted")
    args = options.parse_args()
    args.made = args.made or args.model.parent
    file = quantised(args) if args.format else args.model
    command = [args.bin / "llama-bench", "-m", file, "-p", ",".join(map(str, args.prefill)), "-n", args.decode]
    # It warms up by itself.
    command += ["-t", args.threads, "-r", args.repeats, "-o", "json"]
    if args.vulkan is None:
        tests = json.loads(run([*command, "-ngl", 0]))
    else:
        # It takes no software device unless it is named.
        tests = json.loads(run([*command, "-ngl", 99], GGML_VK_VISIBLE_DEVICES=args.vulkan))
    for test in tests:
        figure = f"prefill {test['n_prompt']}" if test["n_prompt"] else f"decode {test['n_gen']}"
        emit(
            system="llama.cpp" if args.vulkan is None else "llama.cpp Vulkan",
            version=test["build_commit"],
            figure=figure,
            model=args.model.stem,
            weights=args.format or test["model_type"].split()[-1].lower(),
            unit="tokens/s",
            values=test["samples_ts"],
            threads=test["n_threads"],
            file_bytes=test["model_size"],
            device=test["gpu_info"] if args.vulkan is not None else test["cpu_info"],
        )


if __name__ == "__main__":
    main()
