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
    run build 420 pip install --no-build-isolation --no-deps --no-index -v . -C cmake.define.FASTSPADE_CUDA=ON \
        -C "cmake.define.FASTSPADE_CUDA_ARCHITECTURES=${capability}-real" &&
        python -c 'from fastspade import build_info; print(build_info())'
}

tests() {
    activate
    run test_operators 120 python -m pytest -q -m gpu tests/test_operators.py -p no:cacheprovider
    run test_engines 300 python -m pytest -q -m gpu tests/test_engines.py -p no:cacheprovider
    run test_cuda 150 python -m pytest -q tests/test_cuda.py -p no:cacheprovider
}

sanitize() {
    activate
    local small="one_pixel or two_levels or paper_like or ring_wraps"
    for tool in memcheck racecheck; do
        run "sanitize_$tool" 280 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            python -m pytest -q -x -m gpu tests/test_engines.py -k "test_matches_float64_brute_force and ($small)" -p no:cacheprovider
    done
}

bench() {
    activate
    run bench_short 120 python benchmarks/search_cuda.py --cases short --out "$out/gpu_search_short.json"
    run bench_full 420 python benchmarks/search_cuda.py --cases full --out "$out/gpu_search_full.json"
}

profile() {
    activate
    run profile 240 ncu --set full --import-source no -k regex:search_kernel -c 2 \
        python benchmarks/search_cuda.py --cases profile
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
