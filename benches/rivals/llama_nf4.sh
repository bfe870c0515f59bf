#!/usr/bin/env bash
# llama.cpp's 4-bit formats on the CPU, to hold NF4 against: prefill of 181 and 512 and decode of 64
# tokens of SmolLM2-135M and of the shape of SmolLM2-1.7B (random weights), one JSON line each.
# usage: llama_nf4.sh LLAMA_BIN_FOLDER SMOLLM2_135M.gguf MODELS_FOLDER [extra llama-bench options]
# Quantised files, and the 1.7B shape, are made in MODELS_FOLDER where they are absent (about 6 GB).
# IQ4_NL looks a 4-bit code up in a table as NF4 does; both formats have one f16 scale for 32 weights
# (4.5 bits). llama-quantize puts the tied head in 6 or 8 bits, where bitsandbytes leaves 16: FORMATS
# ending in -head16, as IQ4_NL-head16, keep it in bf16. Quantising the larger shape to IQ4_NL takes
# minutes, as every scale is searched for.
# FORMATS ("IQ4_NL Q4_0"), SIZES ("135m 1.7b"), THREADS (2), REPEATS (5) and PYTHON
# (python3) can be set in the environment.
set -euo pipefail
if (($# < 3)); then
  echo "usage: $0 LLAMA_BIN_FOLDER SMOLLM2_135M.gguf MODELS_FOLDER [extra llama-bench options]" >&2
  exit 2
fi
bin=$1 small=$2 models=$3
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
threads=${THREADS:-2} python=${PYTHON:-python3}
mkdir -p "$models"

for size in ${SIZES:-135m 1.7b}; do
  case $size in
    135m) source=$small ;;
    1.7b)
      source=$models/smollm2-1.7b-random-bf16.gguf
      if [[ ! -f $source ]]; then
        "$python" "$here/write_llama_gguf.py" "$source.part" >&2
        mv "$source.part" "$source"
      fi
      ;;
    *)
      echo "$0: no size $size; there are 135m and 1.7b" >&2
      exit 2
      ;;
  esac
  for format in ${FORMATS:-IQ4_NL Q4_0}; do
    file=$models/smollm2-$size-${format,,}.gguf
    options=()
    [[ $format == *-head16 ]] && options=(--token-embedding-type bf16)
    if [[ ! -f $file ]]; then
      "$bin/llama-quantize" --allow-requantize "${options[@]}" "$source" "$file.part" "${format%-head16}" "$threads" >&2
      mv "$file.part" "$file"
    fi
    "$bin/llama-bench" -m "$file" -p 181,512 -n 64 -t "$threads" -r "${REPEATS:-5}" -ngl 0 -o json "$@" |
      "$python" -c '
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
    }), flush=True)
'
  done
done
