#!/usr/bin/env bash
# llama.cpp on the CPU: prefill of 512 and decode of 128 tokens, one JSON line each.
# usage: llama_bench.sh LLAMA_BENCH_BINARY MODEL.gguf [extra llama-bench options]
# THREADS (2), REPEATS (7) and PYTHON (python3) can be set in the environment.
set -euo pipefail
if (($# < 2)); then
  echo "usage: $0 LLAMA_BENCH_BINARY MODEL.gguf [extra llama-bench options]" >&2
  exit 2
fi
binary=$1 model=$2
shift 2
"$binary" -m "$model" -p 512 -n 128 -t "${THREADS:-2}" -r "${REPEATS:-7}" -ngl 0 -o json "$@" |
  "${PYTHON:-python3}" -c '
import json, os, statistics, sys

for test in json.load(sys.stdin):
    rates = test["samples_ts"]
    print(json.dumps({
        "tool": "llama.cpp",
        "version": test["build_commit"],
        "what": "prefill" if test["n_prompt"] else "decode",
        "model": os.path.basename(test["model_filename"]),
        "weights": test["model_type"],
        "bytes": test["model_size"],
        "tokens": test["n_prompt"] or test["n_gen"],
        "threads": test["n_threads"],
        "unit": "tok/s",
        "median": round(statistics.median(rates), 2),
        "min": round(min(rates), 2),
        "max": round(max(rates), 2),
        "repeats": len(rates),
    }))
'
