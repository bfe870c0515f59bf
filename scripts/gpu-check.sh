#!/bin/sh
# What only hardware can tell, in two steps on two machines.
#
#   sh scripts/gpu-check.sh gather FOLDER      here: builds, gathers all that the check needs, and packs it into FOLDER.tar.gz
#   sh FOLDER/gpu-check.sh [OUT [STEP…]]       on the machine with the GPU: no network, no Rust; its driver, and its NVRTC if it has one
#
# The second writes, after each step anew, OUT/result.json and OUT/result.txt (a line for each step, then the tables of what was timed), and a log of
# each step; it ends with 1 if a step failed or was left out because what it needs has not passed. Called again it goes on: what has passed is not
# done again, and `ok` is that of all steps so far. With names of steps (patterns of the shell, quoted) it does those, passed or not. An operation is
# timed if its own checks have passed, a model if all have. Where Python has PyTorch with CUDA, the same products and attentions are timed in it.
# Machine code for sm_80 and sm_90a goes along if NVRTC is here (ROENTGEN_NVRTC, as scripts/test.sh sets it).
# GPU_CHECK_DRY=1 takes the second step with small shapes and few cases: to try it on the stand-in driver (cuda/host/README.md).
set -eu
here=$(cd "$(dirname "$0")" && pwd)

gather() {
    folder=$1
    mkdir -p "$folder/bin" "$folder/fixtures"
    folder=$(cd "$folder" && pwd)
    cd "$here/.."
    # Images go along, once, and one step does without them.
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
        target/release/examples/cuda_images "$folder/cuda-images" sm_80 sm_90a compute_80
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
    [ $# -eq 0 ] || shift
    # No pattern of this script is one of files.
    set -f
    names=$*
    mkdir -p "$out/steps"
    out=$(cd "$out" && pwd)
    commit=$(cat "$here/commit")
    if [ -f "$out/commit" ] && [ "$(cat "$out/commit")" != "$commit" ]; then
        echo "error: $out holds results of another commit; name another folder" >&2
        exit 2
    fi
    echo "$commit" >"$out/commit"
    bin="$here/bin"
    # Images for machines without NVRTC; one step does without them.
    images="$here/cuda-images"
    export ROENTGEN_CUDA=device REQUIRE_CUDA=1 ROENTGEN_TEST_DEVICE=cuda ROENTGEN_KERNELS="$here/cuda" ROENTGEN_FIXTURES="$here/fixtures"
    export ROENTGEN_CUDA_IMAGES="$images" RUST_BACKTRACE=0
    gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '"\\' || true)
    failed=0
    asked=0

    passed() { grep -q '^{"name":"[^"]*","ok":true' "$out/steps/$1.json" 2>/dev/null; }
    # Whether a step is to be done now.
    wanted() {
        for pattern in $names; do
            # shellcheck disable=SC2254 # a pattern
            case $1 in $pattern) asked=1 && return 0 ;; esac
        done
        [ -z "$names" ] && ! passed "$1"
    }
    # The results so far, in the order in which they came.
    results() {
        all=$(ls -tr "$out/steps" | sed -n 's/[.]json$//p')
        ok=true list=
        for one in $all; do
            passed "$one" || ok=false
            list="$list${list:+,}$(cat "$out/steps/$one.json")"
        done
        printf '{"commit":"%s","gpu":"%s","ok":%s,"steps":[%s]}\n' "$commit" "$gpu" $ok "$list" >"$out/result.json.new"
        mv "$out/result.json.new" "$out/result.json"
        {
            for one in $all; do cat "$out/steps/$one.txt"; done
            for one in $all; do
                [ -f "$out/$one.err" ] || continue
                printf '\n== %s\n' "$one"
                cat "$out/$one.log"
                grep -v '^error' "$out/$one.err" || true
            done
        } >"$out/result.txt"
    }
    # note NAME OK SECONDS SUMMARY [FILE]: a line of the table and an entry of the JSON, with the JSON in FILE as its `run`. OK is null for a step that
    # was left out.
    note() {
        [ "$2" = true ] || failed=1
        summary=$(printf %s "$4" | tr -d '"\\\000-\037')
        printf '%-24s %-6s %5d s  %s\n' "$1" "$2" "$3" "$summary" | tee "$out/steps/$1.txt"
        run=
        if [ -n "${5:-}" ] && [ -s "$5" ]; then run=",\"run\":$(cat "$5")"; fi
        printf '{"name":"%s","ok":%s,"seconds":%d,"summary":"%s"%s}' "$1" "$2" "$3" "$summary" "$run" >"$out/steps/$1.json"
        results
    }
    # needs NAME STEP…: whether the steps that NAME needs have passed; else it is left out, with the first that has not.
    needs() {
        of=$1
        shift
        for one in "$@"; do
            if ! passed "$one"; then
                rm -f "$out/$of.err" "$out/$of.log"
                note "$of" null 0 "left out: $one has not passed"
                return 1
            fi
        done
    }
    # step NAME COMMAND…: a check, with a log.
    step() {
        name=$1
        shift
        wanted "$name" || return 0
        begin=$(date +%s)
        if timeout "${limit:-500}" "$@" >"$out/$name.log" 2>&1; then ok=true; else ok=false; fi
        note "$name" $ok $(($(date +%s) - begin)) "$(grep -hE '^test result:|^all .* stages|^first stage' "$out/$name.log" | tail -n 1)"
    }
    # timed NAME NEEDS COMMAND…: a program that prints a table, and writes its run to OUT/NAME.json if it writes one.
    timed() {
        name=$1 before=$2
        shift 2
        wanted "$name" || return 0
        # shellcheck disable=SC2086 # words
        needs "$name" $before || return 0
        begin=$(date +%s)
        rm -f "$out/$name.json"
        if timeout "${limit:-500}" "$@" >"$out/$name.log" 2>"$out/$name.err"; then ok=true; else ok=false; fi
        summary=
        $ok || summary=$(grep -h '^error' "$out/$name.err" | head -n 1 || true)
        [ -n "$summary" ] || $ok || summary=$(tail -n 1 "$out/$name.err")
        note "$name" $ok $(($(date +%s) - begin)) "$summary" "$out/$name.json"
    }
    # `bench …` of the program. Operations are measured by the device's clock (events), and each case is held against the oracle first.
    bench() {
        name=$1 before=$2
        shift 2
        limit=1500 timed "$name" "$before" "$bin/roentgen" bench "$@" --device cuda --out "$out/$name.json"
    }
    tiny="$here/fixtures/smolvlm-tiny"
    # Operations whose kernels are timed by themselves are checked by themselves.
    families="matmul linear_nf4 attention"
    if [ "${GPU_CHECK_DRY:-0}" = 1 ]; then
        export PROPTEST_CASES=1
        # One test asks whether this is hardware; one of each family, and of the rest, is enough.
        kernels=kernels::elementwise::affine runtime="--skip an_emulated_device" rest=affine
        large="$tiny/config.json" small="$tiny/config.json"
        few="--seconds 0.01 --tokens 24 --warm" length="--prefill 8 --decode 8 --tokens 4 --repeats 1" text="--text-tokens 8 --repeats 1"
    else
        kernels=kernels:: runtime='' rest=
        large=vicuna-7b small=smolvlm
        few="--seconds 0.3" length="--prefill 512 --decode 0,512 --tokens 128 --repeats 5" text="--text-tokens 1699 --repeats 5"
    fi
    # tests FAMILY: arguments of `ops` for a family, or for the rest.
    tests() {
        case $1 in
        rest) echo "$rest --skip paths:: --skip matmul:: --skip linear_nf4 --skip attention::" ;;
        *) [ "${GPU_CHECK_DRY:-0}" = 1 ] && echo "$1::gradient" || echo "$1 --skip paths::" ;;
        esac
    }

    # Without a device nothing else is worth trying.
    if ! "$bin/roentgen" devices --json --device cuda >"$out/devices.log" 2>&1 || ! grep -q '"device": "cuda:' "$out/devices.log"; then
        note devices false 0 "$( (grep 'no_cuda_because' "$out/devices.log" || grep '^error' "$out/devices.log") | head -n 1)"
        exit 1
    fi
    wanted devices || true
    note devices true 0 ""
    operations=
    # shellcheck disable=SC2086,SC2046 # empty, or words
    {
        limit=1500 step kernels "$bin/kernels" $kernels --test-threads=1
        step runtime "$bin/runtime" $runtime
        for family in $families rest; do
            limit=1500 step "operations-$family" "$bin/ops" $(tests $family)
            operations="$operations operations-$family"
        done
    }
    step parity-f32 "$bin/roentgen" parity "$tiny" "$tiny/base.safetensors" --device cuda
    # The same once more with what NVRTC of this machine makes of the sources, if it has one.
    if [ -d "$images" ] && env -u ROENTGEN_CUDA_IMAGES "$bin/roentgen" devices --json --device cuda 2>/dev/null |
        grep -qE '"kernels_from": "(NVRTC|the emulator)"'; then
        for family in $families rest; do
            # shellcheck disable=SC2046
            limit=1500 step "nvrtc-$family" env -u ROENTGEN_CUDA_IMAGES "$bin/ops" $(tests $family)
        done
    fi
    # Hopper's warpgroups, whose rules the emulator has from the documentation alone: nothing else is in doubt if they fail.
    for rung in wide wgmma; do
        limit=1500 step "operations-$rung" env ROENTGEN_CUDA_WGMMA=$rung "$bin/ops" matmul::tile
    done
    # The end of a kernel's parameters is found by asking beyond it, an error of the driver's that is no one's: memcheck is not to count it.
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do
            more=$([ $tool = memcheck ] && echo "--report-api-errors no" || true)
            for family in $families rest; do
                # shellcheck disable=SC2046,SC2086
                limit=3000 step "$tool-$family" env PROPTEST_CASES=4 \
                    compute-sanitizer --tool $tool $more --error-exitcode 1 "$bin/ops" $(tests $family)
            done
        done
    else
        echo "no compute-sanitizer on this machine"
    fi

    # shellcheck disable=SC2086
    for model in "$large" "$small"; do
        which=$([ "$model" = "$large" ] && echo large || echo small)
        bench "matmul-$which" operations-matmul op matmul --model "$model" $few
        export ROENTGEN_CUDA_WGMMA=1
        bench "matmul-wgmma-$which" "operations-matmul operations-wide operations-wgmma" op matmul --model "$model" $few
        unset ROENTGEN_CUDA_WGMMA
        bench "linear_nf4-$which" operations-linear_nf4 op linear_nf4 --model "$model" --nf4 $few
        bench "attention-$which" operations-attention op attention --model "$model" $few
        bench "attention_grad-$which" operations-attention op attention_grad --model "$model" --nf4 --train $few
        bench "decode-$which" "$operations parity-f32" model "$model" --nf4 $length
        export ROENTGEN_CUDA_GRAPHS=0
        bench "decode-$which-no-graphs" "$operations parity-f32" model "$model" --nf4 $length
        unset ROENTGEN_CUDA_GRAPHS
        [ "$large" != "$small" ] || break
    done
    # shellcheck disable=SC2086
    bench qlora-small "$operations parity-f32" model "$small" --nf4 --train --checkpointing $text
    if command -v python3 >/dev/null && python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        limit=900 timed torch "" python3 "$here/gpu_torch.py" "$out/torch.json"
        # The same step in PEFT and bitsandbytes, where they are there.
        if python3 -c 'import accelerate, bitsandbytes, peft, transformers' 2>/dev/null; then
            limit=900 timed torch-qlora "" python3 "$here/rivals/torch_qlora.py" --device cuda --model 2.2b --text 1699 --checkpointing --repeats 5
        else
            echo "no PEFT with bitsandbytes on this machine"
        fi
    else
        echo "no PyTorch with CUDA on this machine"
    fi
    if [ -n "$names" ] && [ $asked -eq 0 ]; then
        echo "error: no step is called $names" >&2
        exit 2
    fi
    exit $failed
}

case ${1:-} in
gather)
    [ $# -eq 2 ] || { sed -n '2,13p' "$0" >&2; exit 2; }
    gather "$2"
    ;;
*) check "$@" ;;
esac
