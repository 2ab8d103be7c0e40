#!/usr/bin/env bash
# All there is to do on a machine with an NVIDIA GPU: build, test, measure; shortest first, each step's result kept even if a
# later one fails. One step a call, because a call may be limited in time:
#
#   benchmarks/gpu_session.sh build|test|sanitize|bench|profile|all [OUT]
#
# OUT (default benchmarks/results) receives gpu_<step>.log and the benchmarks' JSON. The build lies in build/gpu-venv and
# serves the following calls. torch, pybind11 and scikit-build-core must be there already: nothing is downloaded.
set -uo pipefail
cd "$(dirname "$0")/.."
step=${1:-all}
out=${2:-benchmarks/results}
mkdir -p "$out"
failed=0

run() {  # name, seconds, command...
    local name=$1 limit=$2 start=$SECONDS status
    shift 2
    echo "== $name"
    timeout "$limit" "$@" >"$out/gpu_$name.log" 2>&1
    status=$?
    tail -n 25 "$out/gpu_$name.log"
    echo "== $name: exit $status after $((SECONDS - start)) s"
    [ "$status" -eq 0 ] || failed=1
    return "$status"
}

activate() {
    # shellcheck disable=SC1091
    [ -d build/gpu-venv ] && source build/gpu-venv/bin/activate
    return 0
}

build() {
    [ -d build/gpu-venv ] || python3 -m venv --system-site-packages build/gpu-venv || return 1
    activate
    local capability
    capability=$(python -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || return 1
    # Only this machine's architecture: the full set is compiled by CI.
    local architectures="${capability}-real"
    [ "$capability" = 90 ] && architectures="90-real;90a-real"
    run build 420 pip install --no-build-isolation --no-deps --no-index -v . -C cmake.define.FASTSPADE_CUDA=ON \
        -C "cmake.define.FASTSPADE_CUDA_ARCHITECTURES=$architectures" &&
        python -c 'from fastspade import build_info; print(build_info())'
}

# The search kernels to measure, the older first: whatever becomes of the sm_90a one, the other's results are there by then.
paths() {
    echo sm80
    [ "$(python -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')" = 90 ] && echo sm90a
    return 0
}

tests() {
    activate
    run test_operators 120 python -m pytest -q -m gpu tests/test_operators.py -p no:cacheprovider
    local path
    for path in $(paths); do
        run "test_engines_$path" 200 env FASTSPADE_CUDA_PATH="$path" python -m pytest -q -m gpu tests/test_engines.py -p no:cacheprovider
    done
    run test_cuda 150 python -m pytest -q tests/test_cuda.py -p no:cacheprovider
}

sanitize() {
    activate
    local small="one_pixel or two_levels or paper_like or ring_wraps" path tool
    for path in $(paths); do
        for tool in memcheck racecheck; do
            run "sanitize_${tool}_$path" 140 env FASTSPADE_CUDA_PATH="$path" compute-sanitizer --tool "$tool" --error-exitcode 1 \
                python -m pytest -q -x -m gpu tests/test_engines.py -k "test_matches_float64_brute_force and ($small)" -p no:cacheprovider
        done
    done
}

bench() {
    activate
    local path
    for path in $(paths); do
        run "bench_short_$path" 90 env FASTSPADE_CUDA_PATH="$path" python benchmarks/search_cuda.py --cases short --out "$out/gpu_search_short_$path.json"
    done
    for path in $(paths); do
        run "bench_full_$path" 200 env FASTSPADE_CUDA_PATH="$path" python benchmarks/search_cuda.py --cases full --out "$out/gpu_search_full_$path.json"
    done
}

profile() {
    activate
    local path
    for path in $(paths); do
        run "profile_$path" 200 env FASTSPADE_CUDA_PATH="$path" ncu --set full --import-source no -k 'regex:search_(sm90_)?kernel' -c 2 \
            python benchmarks/search_cuda.py --cases profile
    done
}

case $step in
    build) build ;;
    test) tests ;;
    sanitize) sanitize ;;
    bench) bench ;;
    profile) profile ;;
    all) build && { tests; bench; sanitize; profile; } ;;
    *) echo "usage: $0 build|test|sanitize|bench|profile|all [OUT]" >&2; exit 2 ;;
esac
[ "$failed" -eq 0 ]
