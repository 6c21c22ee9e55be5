#!/usr/bin/env bash
# All that needs a CUDA device, in one call of at most 9 minutes: the backend is built for the card that
# is here, its tests run on it, under compute-sanitizer too, and it is measured. Goes on after a
# failure; the summary is the last thing that is printed.
#
#   tools/gpu_check.sh [FOLDER]   logs, reports and tables go there (default: build/gpu_check)
#
# Needs nvcc, cmake, ninja and a Python with torch, NumPy, pytest and hypothesis; fetches nothing.
# What is not installed may be named:
#   WHEELS            a folder of wheels (pybind11, ml-dtypes, pytest, ...), put before all else
#   GTEST_SOURCE      the sources of GoogleTest; without GoogleTest the C++ tests are left out
#   FLASHINFER_PEER   a script that times FlashInfer, run beside our own benchmark where that imports
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-build/gpu_check}" && cd "${1:-build/gpu_check}" && pwd)
build=$out/build
last=530  # seconds after which nothing new begins
summary="" failed=0

# step NAME SECONDS COMMAND...: at most so many seconds, with a log of its own.
step() {
  local name=$1 limit=$2 left=$((last - SECONDS)) start=$SECONDS word=passed rc
  shift 2
  if [ "$left" -lt 10 ]; then
    summary+="    - s  no time  $name"$'\n'
    failed=$((failed + 1))
    return 1
  fi
  [ "$limit" -lt "$left" ] || limit=$left
  printf '\n=== %s\n' "$name"
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
  rc=$?
  if [ "$rc" -ne 0 ]; then
    word=FAILED
    [ "$rc" -ne 124 ] || word="out of time"
    failed=$((failed + 1))
  fi
  tail -n "${lines:-12}" "$out/$name.log"
  summary+=$(printf '%5d s  %s  %s' $((SECONDS - start)) "$word" "$name")$'\n'
  return "$rc"
}

skipped() { summary+="    - s  skipped  $1: $2"$'\n'; }

finish() {
  printf '\n=== Summary, %d s in all\n%s\n' "$SECONDS" "$summary"
  exit $((failed > 0))
}

nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader |
  tee "$out/device.txt" || { echo "no CUDA device"; exit 1; }
arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)

site=$out/site
mkdir -p "$site"
if [ -n "${WHEELS:-}" ]; then
  step wheels 60 python3 -m pip install --quiet --no-index --no-deps --upgrade --target "$site" "$WHEELS"/*.whl
fi
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1

if [ -n "${GTEST_SOURCE:-}" ]; then
  gtest() {
    cmake -S "$GTEST_SOURCE" -B "$out/gtest" -G Ninja -DCMAKE_BUILD_TYPE=Release \
      -DCMAKE_INSTALL_PREFIX="$out/gtest/prefix" -DBUILD_GMOCK=OFF &&
      cmake --build "$out/gtest" --target install
  }
  export -f gtest
  export GTEST_SOURCE out
  lines=2 step gtest 60 bash -c gtest
fi

configure() {
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DPAGEDKV_CUDA=ON \
    "-DPAGEDKV_CUDA_ARCHITECTURES=$arch" "-DCMAKE_CUDA_FLAGS=-lineinfo -Xptxas=-v" \
    "-DCMAKE_PREFIX_PATH=$out/gtest/prefix" -DPAGEDKV_ISAS=avx2 -DPAGEDKV_BUILD_EXAMPLES=OFF "$@"
}
export -f configure
export build arch out
tests=ON python=ON
configured() {
  rm -rf "$build"
  lines=4 step "configure-$1" 60 bash -c "configure -DPAGEDKV_BUILD_TESTS=$tests -DPAGEDKV_BUILD_PYTHON=$python \
    -Dpybind11_DIR=\$(python3 -m pybind11 --cmakedir 2>/dev/null) -DPython_EXECUTABLE=\$(command -v python3)"
}
if ! configured all; then
  tests=OFF
  if ! configured without-gtest; then
    tests=ON python=OFF
    configured without-python || { tests=OFF; configured alone || finish; }
  fi
fi

targets=(pagedkv_cuda_bench)
[ "$tests" = OFF ] || targets+=(pagedkv_cuda_device_tests)
[ "$python" = OFF ] || targets+=(_core _cuda)
lines=3 step build 270 cmake --build "$build" --target "${targets[@]}" || finish
python3 tools/cuda_resources.py --log "$out/build.log" >"$out/resources.md"

# The C++ tests, then the smallest of them under each tool of compute-sanitizer.
device_tests=$build/cpp/tests/cuda/pagedkv_cuda_device_tests
export CUDA_LAUNCH_BLOCKING=1  # they read results without waiting
if [ "$tests" = ON ]; then
  step cpp-tests 90 "$device_tests" --gtest_brief=1
  smallest='CudaWrite.*:CudaRope.*:CudaGather.*:CudaMerge.*/0:CudaCopies.CopiesBlocks*:CudaSwap.*'
  smallest+=':*AttentionOfDType.DecodeIsRightForEveryRatioOfHeads/*:*AttentionOfDType.AMixedBatch*'
  smallest+=':*AttentionOfDType.MultiHeadLatentAttention/bfloat16:CudaAttentionErrors.*'
  for tool in memcheck racecheck initcheck synccheck; do
    if command -v compute-sanitizer >/dev/null; then
      lines=3 step "sanitizer-$tool" 45 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$device_tests" --gtest_brief=1 "--gtest_filter=$smallest"
    else
      skipped "$tool" "no compute-sanitizer"
    fi
  done
else
  skipped cpp-tests "no GoogleTest"
fi
unset CUDA_LAUNCH_BLOCKING

# The suite of Python, on arrays of the device.
if [ "$python" = ON ]; then
  cp -r python/pagedkv "$site/" &&
    find "$build" -name '_core*.so' -o -name '_cuda*.so' | xargs -I{} cp {} "$site/pagedkv/"
  step python-tests 100 python3 -m pytest -q -p no:cacheprovider -k "cuda and not emulated" tests
else
  skipped python-tests "no pybind11, or no headers of Python"
fi

# Figures: ours, then FlashInfer's at the same points.
bench=$build/cuda/pagedkv_cuda_bench
lines=60 step bench 90 "$bench"
if command -v ncu >/dev/null; then
  lines=40 step ncu 60 ncu --clock-control none --set full --kernel-name regex:attend --launch-count 2 \
    --export "$out/decode" --force-overwrite "$bench" point
  ncu --import "$out/decode.ncu-rep" --page details >"$out/ncu-details.txt" 2>/dev/null
else
  skipped ncu "not installed"
fi
if [ -n "${FLASHINFER_PEER:-}" ] && python3 -c 'import flashinfer' 2>/dev/null; then
  peers() {
    for kv in bf16 fp8; do
      for point in "32 4096" "1 512" "1 131072" "8 4096" "128 4096" "128 32768"; do
        read -r batch context <<<"$point"
        python3 "$FLASHINFER_PEER" --kv "$kv" --batch "$batch" --ctx "$context"
      done
    done
  }
  export -f peers
  export FLASHINFER_PEER
  lines=12 step flashinfer 200 bash -c peers
else
  skipped flashinfer "FLASHINFER_PEER names no script, or it is not installed"
fi
finish
