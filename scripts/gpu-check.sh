#!/bin/sh
# What only hardware can tell, in two steps on two machines.
#
#   sh scripts/gpu-check.sh gather FOLDER    here: builds, gathers all that the check needs, and packs it into FOLDER.tar.gz
#   sh FOLDER/gpu-check.sh [OUT]             on the machine with the GPU: no network, no Rust; its driver, and its NVRTC if it has one
#
# The second writes OUT/result.json, OUT/result.txt (a line for each step, then the tables of what was timed) and a log of each step, and ends
# with 1 if a step failed. Where Python has PyTorch with CUDA, the same products and attentions are timed in it, beside ours.
# Machine code for sm_80 and sm_90a goes along if NVRTC is here (ROENTGEN_NVRTC, as scripts/test.sh sets it).
# GPU_CHECK_DRY=1 takes the second step with small shapes and few cases: to try it on the stand-in driver (cuda/host/README.md).
set -eu
here=$(cd "$(dirname "$0")" && pwd)

gather() {
    folder=$1
    mkdir -p "$folder/bin" "$folder/fixtures"
    folder=$(cd "$folder" && pwd)
    cd "$here/.."
    # Images lie beside the programs, once, and can be set aside there.
    unset ROENTGEN_EMBED_CUDA_IMAGES
    cargo build --release
    cp target/release/roentgen "$folder/bin/roentgen"
    artifacts=$(cargo test --release --workspace --no-run --message-format=json --test ops --test cuda --test emulated)
    # The executable of a package's target, by cargo's own account.
    built() {
        echo "$artifacts" | grep "\"package_id\":\"[^\"]*$1[#@]" | grep "\"name\":\"$2\"" |
            sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
    }
    cp "$(built /engine ops)" "$folder/bin/ops"
    cp "$(built /engine cuda)" "$folder/bin/runtime"
    cp "$(built /cuda/host emulated)" "$folder/bin/kernels"
    strip "$folder"/bin/roentgen "$folder"/bin/ops "$folder"/bin/runtime "$folder"/bin/kernels 2>/dev/null || true
    for program in roentgen ops runtime kernels; do
        if ldd "$folder/bin/$program" | grep -E 'not found|libcuda|libnvrtc|libstdc'; then
            echo "error: $program needs more than libc" >&2
            exit 1
        fi
    done
    if [ -n "${ROENTGEN_NVRTC:-}" ]; then
        # Not by `cargo test`, which makes a test program of it.
        cargo build --release --workspace --example cuda_images
        target/release/examples/cuda_images "$folder/bin/cuda-images" sm_80 sm_90a compute_80
    else
        echo "no NVRTC here (ROENTGEN_NVRTC): the other machine's own compiles the kernels" >&2
    fi
    cp -r tests/fixtures/smolvlm-tiny tests/fixtures/optim "$folder/fixtures/"
    mkdir -p "$folder/cuda"
    cp -r cuda/*.cu cuda/common "$folder/cuda/"
    cp scripts/gpu-check.sh scripts/gpu_torch.py "$folder/"
    mkdir -p "$folder/rivals"
    cp benches/rivals/rival_*.py benches/rivals/torch_smolvlm.py benches/rivals/torch_qlora.py "$folder/rivals/"
    git rev-parse HEAD >"$folder/commit" 2>/dev/null || echo unknown >"$folder/commit"
    tar -C "$(dirname "$folder")" -czf "$folder.tar.gz" "$(basename "$folder")"
    size=$(($(wc -c <"$folder.tar.gz") / 1000000))
    echo "$folder.tar.gz: $size MB; $folder: $(du -sm "$folder" | cut -f 1) MB"
    if [ "$size" -ge 60 ]; then
        echo "error: 60 MB or more" >&2
        exit 1
    fi
}

check() {
    out=${1:-$here/result}
    mkdir -p "$out"
    out=$(cd "$out" && pwd)
    export ROENTGEN_CUDA=device REQUIRE_CUDA=1 ROENTGEN_TEST_DEVICE=cuda ROENTGEN_KERNELS="$here/cuda" ROENTGEN_FIXTURES="$here/fixtures"
    export RUST_BACKTRACE=0
    failed=0
    steps=
    : >"$out/result.txt"
    # note NAME OK SECONDS SUMMARY [FILE]: a line of the table and an entry of the JSON, with the JSON in FILE as its `run`.
    note() {
        printf '%-24s %-6s %5d s  %s\n' "$1" "$2" "$3" "$4" | tee -a "$out/result.txt"
        run=
        if [ -n "${5:-}" ] && [ -s "$5" ]; then run=",\"run\":$(cat "$5")"; fi
        steps="$steps${steps:+,}{\"name\":\"$1\",\"ok\":$2,\"seconds\":$3,\"summary\":\"$4\"$run}"
    }
    # step NAME COMMAND…: a check, with a log.
    step() {
        name=$1
        shift
        begin=$(date +%s)
        if timeout "${limit:-500}" "$@" >"$out/$name.log" 2>&1; then ok=true; else ok=false failed=1; fi
        summary=$(grep -hE '^test result:|^all .* stages|^first stage' "$out/$name.log" | tail -n 1 | tr -d '"\\')
        note "$name" $ok $(($(date +%s) - begin)) "$summary"
    }
    # timed NAME COMMAND…: `bench …` of the program, which prints a table and writes a run. Operations are measured by the device's clock (events).
    timed() {
        name=$1
        shift
        begin=$(date +%s)
        rm -f "$out/$name.json"
        if timeout "${limit:-500}" "$bin/roentgen" bench "$@" --device cuda --out "$out/$name.json" >"$out/$name.log" 2>"$out/$name.err"; then
            ok=true
        else
            ok=false failed=1
        fi
        note "$name" $ok $(($(date +%s) - begin)) "$(grep -h '^error' "$out/$name.err" | head -n 1 | tr -d '"\\')" "$out/$name.json"
        tables="$tables $name"
    }
    bin="$here/bin"
    # Where this machine has no NVRTC.
    export ROENTGEN_CUDA_IMAGES="$bin/cuda-images"
    tiny="$here/fixtures/smolvlm-tiny"
    tables=
    if [ "${GPU_CHECK_DRY:-0}" = 1 ]; then
        export PROPTEST_CASES=1
        # One test asks whether this is hardware.
        kernels=kernels::elementwise::affine operations=affine runtime="--skip an_emulated_device"
        large="$tiny/config.json" small="$tiny/config.json"
        few="--seconds 0.01 --tokens 24 --warm" length="--prefill 8 --decode 8 --tokens 4 --repeats 1" text="--text-tokens 8 --repeats 1"
    else
        kernels=kernels:: operations= runtime=
        large=vicuna-7b small=smolvlm
        few="--seconds 0.3" length="--prefill 512 --decode 0,512 --tokens 128 --repeats 5" text="--text-tokens 1699 --repeats 5"
    fi

    step devices "$bin/roentgen" devices --json --device cuda
    # shellcheck disable=SC2086 # empty, or words
    {
        limit=1500 step kernels "$bin/kernels" $kernels --test-threads=1
        step runtime "$bin/runtime" $runtime
        limit=1500 step operations "$bin/ops" $operations --skip paths
    }
    step parity-f32 "$bin/roentgen" parity "$tiny" "$tiny/base.safetensors" --device cuda
    # The same once more with what NVRTC of this machine makes of the sources, if it has one.
    if [ -d "$bin/cuda-images" ]; then
        mv "$bin/cuda-images" "$bin/cuda-images.aside"
        if "$bin/roentgen" devices --json --device cuda 2>/dev/null | grep -qE '"kernels_from": "(NVRTC|the emulator)"'; then
            # shellcheck disable=SC2086
            limit=1500 step operations-nvrtc "$bin/ops" $operations --skip paths
        else
            echo "no NVRTC on this machine" | tee -a "$out/result.txt"
        fi
        mv "$bin/cuda-images.aside" "$bin/cuda-images"
    fi
    # Hopper's warpgroups, whose rules the emulator has from the documentation alone: nothing else is in doubt if they fail.
    right=$failed failed=0
    for rung in wide wgmma; do
        export ROENTGEN_CUDA_WGMMA=$rung
        limit=1500 step "operations-$rung" "$bin/ops" matmul::tile
        unset ROENTGEN_CUDA_WGMMA
    done
    wgmma=$failed failed=$right
    if command -v compute-sanitizer >/dev/null; then
        export PROPTEST_CASES=4
        for tool in memcheck racecheck; do
            # shellcheck disable=SC2086
            step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 "$bin/ops" $operations --skip paths
        done
    else
        echo "no compute-sanitizer on this machine" | tee -a "$out/result.txt"
    fi

    right=$failed failed=$((failed | wgmma))

    # Only what is right is worth timing. Each case of `bench op` is held against the oracle first.
    # shellcheck disable=SC2086
    if [ $right -eq 0 ]; then
        for model in "$large" "$small"; do
            which=$([ "$model" = "$large" ] && echo large || echo small)
            limit=1500 timed "matmul-$which" op matmul --model "$model" $few
            if [ $wgmma -eq 0 ]; then
                export ROENTGEN_CUDA_WGMMA=1
                limit=1500 timed "matmul-wgmma-$which" op matmul --model "$model" $few
                unset ROENTGEN_CUDA_WGMMA
            fi
            limit=1500 timed "linear_nf4-$which" op linear_nf4 --model "$model" --nf4 $few
            limit=1500 timed "attention-$which" op attention --model "$model" $few
            limit=1500 timed "attention_grad-$which" op attention_grad --model "$model" --nf4 --train $few
            limit=1500 timed "decode-$which" model "$model" --nf4 $length
            export ROENTGEN_CUDA_GRAPHS=0
            limit=1500 timed "decode-$which-no-graphs" model "$model" --nf4 $length
            unset ROENTGEN_CUDA_GRAPHS
            [ "$large" != "$small" ] || break
        done
        limit=1500 timed qlora-small model "$small" --nf4 --train --checkpointing $text
        if command -v python3 >/dev/null && python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
            begin=$(date +%s)
            if timeout 900 python3 "$here/gpu_torch.py" "$out/torch.json" >"$out/torch.log" 2>"$out/torch.err"; then ok=true; else ok=false failed=1; fi
            note torch $ok $(($(date +%s) - begin)) "$(tail -n 1 "$out/torch.err" | tr -d '"\\')" "$out/torch.json"
            tables="$tables torch"
            # The same step in PEFT and bitsandbytes, where they are there.
            if python3 -c 'import accelerate, bitsandbytes, peft, transformers' 2>/dev/null; then
                begin=$(date +%s)
                if timeout 900 python3 "$here/rivals/torch_qlora.py" --device cuda --model 2.2b --text 1699 --checkpointing --repeats 5 >"$out/torch-qlora.log" 2>"$out/torch-qlora.err"; then ok=true; else ok=false failed=1; fi
                note torch-qlora $ok $(($(date +%s) - begin)) "$(tail -n 1 "$out/torch-qlora.err" | tr -d '"\\')"
                tables="$tables torch-qlora"
            else
                echo "no PEFT with bitsandbytes on this machine" | tee -a "$out/result.txt"
            fi
        else
            echo "no PyTorch with CUDA on this machine" | tee -a "$out/result.txt"
        fi
    else
        echo "nothing was timed: a check failed" | tee -a "$out/result.txt"
    fi
    for name in $tables; do
        printf '\n== %s\n' "$name"
        cat "$out/$name.log"
        grep -v '^error' "$out/$name.err" || true
    done >>"$out/result.txt"
    gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '"\\' || true)
    printf '{"commit":"%s","gpu":"%s","ok":%s,"steps":[%s]}\n' "$(cat "$here/commit")" "$gpu" \
        "$([ $failed -eq 0 ] && echo true || echo false)" "$steps" >"$out/result.json"
    exit $failed
}

case ${1:-} in
gather)
    [ $# -eq 2 ] || { sed -n '2,11p' "$0" >&2; exit 2; }
    gather "$2"
    ;;
*) check "$@" ;;
esac
