#!/usr/bin/env bash
# All there is to do on a machine with an NVIDIA GPU: build, test, test under compute-sanitizer, measure; benchmarks shortest
# first, each run's result kept even if a later one fails. One step a call, because a call may be limited in time:
#
#   benchmarks/gpu_session.sh build|test|sanitize|bench|profile|all [OUT]
#
# OUT (default benchmarks/results) receives gpu_<run>.log, the benchmarks' JSON, and gpu_runs.txt with every run's exit status
# and seconds. A step ends after BUILD_, TEST_, SANITIZE_, BENCH_ or PROFILE_SECONDS; what is left is shared by its runs to
# come, so that a slow one takes neither their time nor the next step's. By default a call takes at most ten minutes, except
# `all`, which does every step, in this order.
#
# The build lies in build/gpu-site and serves the following calls. What it needs must be there already, nothing is
# downloaded: nvcc, CMake, Ninja or Make, and in python3 torch, torchvision, pillow, safetensors, tqdm, pybind11,
# scikit-build-core and pytest; for two steps compute-sanitizer and ncu. Real features come from FEATURES (default
# build/features.pt), written beforehand by benchmarks/features.py, or are made there where its packages are.
set -uo pipefail
cd "$(dirname "$0")/.."
step=${1:-all}
out=${2:-benchmarks/results}
mkdir -p "$out"
failed=0
# Not a virtual environment: made from within another one, it would not see that one's torch.
site=$PWD/build/gpu-site
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
command -v nvcc >/dev/null || export PATH=/usr/local/cuda/bin:$PATH

# A step: its seconds, and how many runs it has.
begin() {
    step_end=$((SECONDS + $1))
    runs_left=$2
}

run() {  # name, most seconds, command...
    local name=$1 limit=$2 start=$SECONDS status share
    shift 2
    # What is left of the step for this run and each that follows; the first ones may not need theirs.
    share=$(((step_end - SECONDS) / runs_left))
    runs_left=$((runs_left - 1))
    [ "$share" -lt "$limit" ] && limit=$share
    echo "== $name, at most $limit s"
    if [ "$limit" -lt 1 ]; then
        echo "no time left" >"$out/gpu_$name.log"
        status=124
    else
        timeout -k 5 "$limit" "$@" >"$out/gpu_$name.log" 2>&1
        status=$?
    fi
    tail -n 25 "$out/gpu_$name.log"
    echo "== $name: exit $status after $((SECONDS - start)) s" | tee -a "$out/gpu_runs.txt"
    [ "$status" -eq 0 ] || failed=1
    return "$status"
}

capability() { python3 -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())'; }

# What a block can have.
shared_kibibytes() { python3 -c 'import torch; print(torch.cuda.get_device_properties(0).shared_memory_per_block_optin // 1024)'; }

build() {
    [ -n "$found" ] || { echo "torch sees no CUDA device" >&2; failed=1; return 1; }
    begin "${BUILD_SECONDS:-420}" 1
    # Only this machine's architecture: the full set is compiled by CI.
    local architectures="$found-real"
    [ "$found" = 90 ] && architectures="90-real;90a-real"
    run build 600 python3 -m pip install --target "$site" --upgrade --no-build-isolation --no-deps --no-index -v . \
        -C cmake.define.FASTSPADE_CUDA=ON -C "cmake.define.FASTSPADE_CUDA_ARCHITECTURES=$architectures" &&
        python3 -c 'from fastspade import build_info; print(build_info())'
}

# The search kernels to measure, the older first: whatever becomes of the sm_90a one, the other's results are there by then.
paths() {
    echo sm80
    [ "$found" = 90 ] && echo sm90a
    return 0
}
count_paths() { paths | wc -l; }

tests() {
    begin "${TEST_SECONDS:-580}" $((2 + $(count_paths)))
    run test_operators 100 python3 -m pytest -q -m gpu tests/search/test_operators.py -p no:cacheprovider
    local path
    for path in $(paths); do
        run "test_engines_$path" 200 env FASTSPADE_CUDA_PATH="$path" \
            python3 -m pytest -q -m gpu tests/search/test_engines.py tests/cuda/test_cuda_layouts.py -p no:cacheprovider
    done
    run test_cuda 200 python3 -m pytest -q tests/cuda/test_cuda.py -p no:cacheprovider
}

# As few cases as show every part of the kernels, since a sanitizer makes them a hundred times as slow; those of
# tests/support/layout_cases.py are named after the devices that need them.
sanitize() {
    local small="one_pixel or two_levels or paper_like or ring_wraps" path tool device
    begin "${SANITIZE_SECONDS:-480}" $((2 * $(count_paths)))
    for tool in memcheck racecheck; do
        for path in $(paths); do
            device=sm90a
            [ "$path" = sm90a ] || device=$(shared_kibibytes)k
            # Every tensor in an allocation of its own, so that memcheck sees its end.
            run "sanitize_${tool}_$path" 240 env FASTSPADE_CUDA_PATH="$path" PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
                compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 1 \
                python3 -m pytest -q -x -m gpu tests/search/test_engines.py tests/cuda/test_cuda_layouts.py -p no:cacheprovider \
                -k "test_matches_float64_brute_force and ($small) or test_layout_matches_float64_brute_force and $device"
        done
    done
}

bench() {
    local path features=${FEATURES:-build/features.pt} real=(--data aligned)
    [ -f "$features" ] && real=(--features "$features")
    begin "${BENCH_SECONDS:-580}" $((3 * $(count_paths)))
    for path in $(paths); do
        run "bench_short_$path" 100 env FASTSPADE_CUDA_PATH="$path" python3 benchmarks/search_cuda.py --cases short --out "$out/gpu_search_short_$path.json"
    done
    for path in $(paths); do
        run "bench_full_$path" 240 env FASTSPADE_CUDA_PATH="$path" python3 benchmarks/search_cuda.py --cases full --out "$out/gpu_search_full_$path.json"
    done
    for path in $(paths); do
        run "bench_real_$path" 150 env FASTSPADE_CUDA_PATH="$path" python3 benchmarks/search_cuda.py --cases real "${real[@]}" --out "$out/gpu_search_real_$path.json"
    done
}

profile() {
    local path
    begin "${PROFILE_SECONDS:-580}" "$(count_paths)"
    for path in $(paths); do
        run "profile_$path" 290 env FASTSPADE_CUDA_PATH="$path" ncu --set full --import-source no -k 'regex:search_(sm90_)?kernel' -c 2 \
            python3 benchmarks/search_cuda.py --cases profile
    done
}

found=$(capability) || found=
case $step in
    build) build ;;
    test) tests ;;
    sanitize) sanitize ;;
    bench) bench ;;
    profile) profile ;;
    all) build && { tests; sanitize; bench; profile; } ;;
    *) echo "usage: $0 build|test|sanitize|bench|profile|all [OUT]" >&2; exit 2 ;;
esac
[ "$failed" -eq 0 ]
