#!/bin/sh
# What only hardware can tell, in two steps on two machines.
#
#   sh scripts/gpu-check.sh gather FOLDER    here: builds, and gathers all that the check needs
#   sh FOLDER/gpu-check.sh [OUT]             on the machine with the GPU: no network, no Rust; its driver, and its NVRTC if it has one
#
# No speed yet: the benches run on the processor alone. The second writes OUT/result.json, OUT/result.txt (a line for each step) and a log of each step, and ends with 1 if a step failed.
# Machine code for sm_80 and sm_90a goes along if NVRTC is here (ROENTGEN_NVRTC, as scripts/test.sh sets it).
set -eu
here=$(cd "$(dirname "$0")" && pwd)

gather() {
    folder=$1
    mkdir -p "$folder/bin" "$folder/fixtures"
    folder=$(cd "$folder" && pwd)
    cd "$here/.."
    # The executable of a test, by cargo's own account.
    built() {
        cargo test --release --no-run --message-format=json "$@" |
            sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
    }
    cargo build --release
    cp target/release/roentgen "$folder/bin/roentgen"
    cp "$(built -p roentgen-engine --test ops)" "$folder/bin/ops"
    cp "$(built -p roentgen-engine --test cuda)" "$folder/bin/runtime"
    cp "$(built -p roentgen-cuda-host --test emulated)" "$folder/bin/kernels"
    strip "$folder"/bin/roentgen "$folder"/bin/ops "$folder"/bin/runtime "$folder"/bin/kernels 2>/dev/null || true
    for program in roentgen ops runtime kernels; do
        if ldd "$folder/bin/$program" | grep -E 'not found|libcuda|libnvrtc|libstdc'; then
            echo "error: $program needs more than libc" >&2
            exit 1
        fi
    done
    if [ -n "${ROENTGEN_NVRTC:-}" ]; then
        cargo run --release -p roentgen-engine --example cuda_images -- "$folder/bin/cuda-images" sm_80 sm_90a compute_80
    else
        echo "no NVRTC here (ROENTGEN_NVRTC): the other machine's own compiles the kernels" >&2
    fi
    cp -r tests/fixtures/smolvlm-tiny tests/fixtures/optim "$folder/fixtures/"
    mkdir -p "$folder/cuda"
    cp -r cuda/*.cu cuda/common "$folder/cuda/"
    cp scripts/gpu-check.sh "$folder/"
    git rev-parse HEAD >"$folder/commit" 2>/dev/null || echo unknown >"$folder/commit"
    du -sh "$folder"
}

check() {
    out=${1:-$here/result}
    mkdir -p "$out"
    export ROENTGEN_CUDA=device REQUIRE_CUDA=1 ROENTGEN_TEST_DEVICE=cuda ROENTGEN_KERNELS="$here/cuda" ROENTGEN_FIXTURES="$here/fixtures"
    export RUST_BACKTRACE=0
    failed=0
    steps=
    : >"$out/result.txt"
    # step NAME COMMAND…: one line of the table, one entry of the JSON, one log.
    step() {
        name=$1
        shift
        begin=$(date +%s)
        if timeout 500 "$@" >"$out/$name.log" 2>&1; then ok=true; else ok=false failed=1; fi
        seconds=$(($(date +%s) - begin))
        summary=$(grep -hE '^test result:|^all .* stages|^first stage' "$out/$name.log" | tail -n 1 | tr -d '"\\')
        printf '%-22s %-6s %5d s  %s\n' "$name" "$ok" "$seconds" "$summary" | tee -a "$out/result.txt"
        steps="$steps${steps:+,}{\"name\":\"$name\",\"ok\":$ok,\"seconds\":$seconds,\"summary\":\"$summary\"}"
    }
    bin="$here/bin"
    tiny="$here/fixtures/smolvlm-tiny"
    step devices "$bin/roentgen" devices --json --device cuda
    step kernels "$bin/kernels" kernels:: --test-threads=1
    step runtime "$bin/runtime"
    step operations "$bin/ops" --skip paths
    step parity-f32 "$bin/roentgen" parity "$tiny" "$tiny/base.safetensors" --device cuda
    # The same once more with what NVRTC of this machine makes of the sources.
    mv "$bin/cuda-images" "$bin/cuda-images.aside" 2>/dev/null || true
    step operations-nvrtc "$bin/ops" --skip paths
    mv "$bin/cuda-images.aside" "$bin/cuda-images" 2>/dev/null || true
    if command -v compute-sanitizer >/dev/null; then
        export PROPTEST_CASES=4
        for tool in memcheck racecheck; do
            step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 "$bin/ops" --skip paths
        done
    else
        echo "no compute-sanitizer on this machine" | tee -a "$out/result.txt"
    fi
    gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '"\\')
    printf '{"commit":"%s","gpu":"%s","ok":%s,"steps":[%s]}\n' "$(cat "$here/commit")" "$gpu" \
        "$([ $failed -eq 0 ] && echo true || echo false)" "$steps" >"$out/result.json"
    exit $failed
}

case ${1:-} in
gather)
    [ $# -eq 2 ] || { sed -n '2,9p' "$0" >&2; exit 2; }
    gather "$2"
    ;;
*) check "$@" ;;
esac
