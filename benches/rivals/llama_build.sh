#!/usr/bin/env bash
# Builds the programs of llama.cpp that llama_bench.py runs, for this machine's processor.
# usage: llama_build.sh CHECKOUT BUILD_FOLDER
# The programs come to lie in BUILD_FOLDER/bin, which `roentgen bench rivals --llama` takes. Needs cmake and a C++
# compiler. JOBS (all cores) can be set in the environment; VULKAN=ON builds the Vulkan backend as well, for which
# glslc and the headers of Vulkan (1.3.261 or newer) and SPIR-V must be there.
set -euo pipefail
if (($# != 2)); then
  echo "usage: $0 CHECKOUT BUILD_FOLDER" >&2
  exit 2
fi
checkout=$1 build=$2
if [[ ! -f $checkout/CMakeLists.txt || ! -d $checkout/ggml ]]; then
  echo "$0: $checkout is no checkout of llama.cpp: it has no CMakeLists.txt and ggml folder" >&2
  exit 1
fi
command -v cmake >/dev/null || { echo "$0: there is no cmake (apt install cmake, or pip install cmake)" >&2; exit 1; }
cmake -S "$checkout" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON \
  -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
  -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_MTMD=OFF -DLLAMA_OPENSSL=OFF -DGGML_VULKAN="${VULKAN:-OFF}"
cmake --build "$build" --config Release --target llama-bench llama-quantize -j "${JOBS:-$(nproc)}"
"$build/bin/llama-bench" --version
