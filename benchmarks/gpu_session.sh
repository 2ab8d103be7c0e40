#!/usr/bin/env bash
# All there is to do on a borrowed machine with an NVIDIA GPU, in calls of at most ten minutes of which nothing but OUT is kept:
#
#   benchmarks/gpu_session.sh smoke|first|second|third|all [OUT]
#
#   smoke   a dozen small searches on each path against float64: PASS or the first wrong value, in under a minute
#   first   the operators' and engines' tests on each path, the short benchmarks
#   second  the full and real benchmarks, what benchmarks/cuda_model.py calculates beside what it measures, torch.profiler's
#           tables, ncu
#   third   compute-sanitizer on each path, tests/cuda/test_cuda.py
#
# Each builds first, unless build/gpu-site is there. A step ends after STEP_SECONDS (540): what is left is shared by its runs to
# come, by weight, so that a slow one does not take their time. Everything written goes into OUT/gpu_session_<step>.tar.gz (OUT: default
# benchmarks/results), renewed after every run, so that a call cut off leaves it whole: logs, JSON, and runs.txt with every
# run's exit status and seconds, or why it was skipped.
#
# What it needs must be there already, nothing is downloaded: nvcc, CMake, Ninja or Make, and in python3 torch, torchvision,
# pillow, safetensors, tqdm, numpy, pybind11, scikit-build-core and pytest. compute-sanitizer, ncu and Triton are used where
# they work.
set -uo pipefail
cd "$(dirname "$0")/.."
step=${1:-all}
out=${2:-benchmarks/results}
case $step in
    smoke | first | second | third | all) ;;
    *) echo "usage: $0 smoke|first|second|third|all [OUT]" >&2; exit 2 ;;
esac
seconds=${STEP_SECONDS:-540}
mkdir -p "$out"
archive=$(cd "$out" && pwd)/gpu_session_$step.tar.gz
kept=$(mktemp -d)
trap 'rm -rf "$kept"' EXIT
failed=0
# Not a virtual environment: made from within another one, it would not see that one's torch.
site=$PWD/build/gpu-site
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
command -v nvcc >/dev/null || export PATH=/usr/local/cuda/bin:$PATH

note() { echo "== $*" | tee -a "$kept/runs.txt"; }

# Whole at any moment: a rename replaces the one before.
renew_archive() { tar -czf "$archive.part" --exclude=".ten_lines*" -C "$kept" . && mv "$archive.part" "$archive"; }

run() {  # name, weight, command...
    local name=$1 weight=$2 limit start=$SECONDS status
    shift 2
    # What is left of the step, shared by weight with the runs that follow; what the first ones do not need is theirs.
    limit=$(((step_end - SECONDS) * weight / weight_left))
    weight_left=$((weight_left - weight))
    echo "== $name, at most $limit s"
    if [ "$limit" -lt 1 ]; then
        echo "no time left" >"$kept/$name.log"
        status=124
    else
        timeout -k 5 "$limit" "$@" >"$kept/$name.log" 2>&1
        status=$?
    fi
    tail -n 25 "$kept/$name.log"
    note "$name: exit $status after $((SECONDS - start)) s"
    [ "$status" -eq 0 ] || failed=1
    renew_archive
    return "$status"
}

skip() {  # name, weight, why
    weight_left=$((weight_left - $2))
    note "$1: skipped, $3"
    renew_archive
}

capability() { python3 -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())'; }

# What a block can have.
shared_kibibytes() { python3 -c 'import torch; print(torch.cuda.get_device_properties(0).shared_memory_per_block_optin // 1024)'; }

build() {
    if [ -e "$site/fastspade" ]; then
        skip build 300 "build/gpu-site is there"
        return 0
    fi
    # Only this machine's architecture: the others are compiled by CI.
    run build 300 python3 -m pip install --target "$site" --upgrade --no-build-isolation --no-deps --no-index -v . \
        -C cmake.define.FASTSPADE_CUDA=ON -C "cmake.define.FASTSPADE_CUDA_ARCHITECTURES=$found-real"
}

# The search kernels to try, the older first: if the sm_90a one fails, the other's results are there by then.
paths() {
    echo sm80
    [ "$found" = 90 ] && echo sm90a
    return 0
}

# Why a tool cannot work here, or nothing: tried on a ten-line program, because virtual machines often lack the counters, and
# containers the right to trace.
obstacle() {  # command...
    command -v "$1" >/dev/null || { echo "$1 is not installed"; return; }
    if [ ! -x "$kept/.ten_lines" ]; then
        cat >"$kept/.ten_lines.cu" <<'CUDA'
#include <cstdio>
__global__ void add(int* value) { atomicAdd(value, 1); }
int main() {
    int *device = nullptr, host = 0;
    cudaMalloc(&device, sizeof(int));
    cudaMemset(device, 0, sizeof(int));
    add<<<1, 32>>>(device);
    cudaMemcpy(&host, device, sizeof(int), cudaMemcpyDeviceToHost);
    cudaFree(device);
    return host == 32 ? 0 : 1;
}
CUDA
        nvcc -arch="sm_$found" -o "$kept/.ten_lines" "$kept/.ten_lines.cu" >"$kept/ten_lines.log" 2>&1 ||
            { echo "nvcc does not compile a ten-line program: $(tail -n 1 "$kept/ten_lines.log")"; return; }
    fi
    timeout -k 5 60 "$@" "$kept/.ten_lines" >"$kept/ten_lines_$1.log" 2>&1 && ! grep -q "==ERROR==" "$kept/ten_lines_$1.log" ||
        echo "$1 fails on a ten-line program: $(grep -m 1 ERR "$kept/ten_lines_$1.log" || tail -n 1 "$kept/ten_lines_$1.log")"
}

smoke() {
    local path
    for path in $(paths); do
        run "smoke_$path" 30 timeout -k 5 "${SMOKE_SECONDS:-28}" env FASTSPADE_CUDA_PATH="$path" python3 benchmarks/gpu_smoke.py
    done
}

first() {
    local path
    run test_operators 90 python3 -m pytest -q -m gpu tests/search/test_operators.py -p no:cacheprovider
    for path in $(paths); do
        run "test_engines_$path" 120 env FASTSPADE_CUDA_PATH="$path" \
            python3 -m pytest -q -m gpu tests/search/test_engines.py tests/cuda/test_cuda_layouts.py \
            tests/cuda/test_cuda_same_bits.py -p no:cacheprovider
    done
    run test_projections 60 python3 -m pytest -q -m gpu tests/cuda/test_cuda_projections.py -p no:cacheprovider
    for path in $(paths); do
        run "bench_short_$path" 120 env FASTSPADE_CUDA_PATH="$path" python3 benchmarks/search_cuda.py --cases short --out "$kept/search_short_$path.json"
    done
}

second() {
    local path why
    # Both paths side by side with the rivals; `first` has shown that they answer.
    run bench_full 240 python3 benchmarks/search_cuda.py --cases full --paths $(paths) --out "$kept/search_full.json"
    run bench_real 90 python3 benchmarks/search_cuda.py --cases real --paths $(paths) --out "$kept/search_real.json"
    run model 60 python3 benchmarks/cuda_model.py --here --output "$kept/cuda_model.json"
    for path in $(paths); do
        run "profile_$path" 45 env FASTSPADE_CUDA_PATH="$path" python3 benchmarks/profile_cuda.py
    done
    why=$(obstacle ncu --clock-control none)
    for path in $(paths); do
        if [ -n "$why" ]; then skip "ncu_$path" 90 "$why"; continue; fi
        run "ncu_$path" 90 env FASTSPADE_CUDA_PATH="$path" ncu --clock-control none --set full --import-source no \
            -k 'regex:search_(sm90_)?kernel' -c 1 python3 benchmarks/profile_cuda.py --once
    done
}

# As few cases as show every part of the kernels, since a sanitizer makes them a hundred times as slow; those of
# tests/support/layout_cases.py are named after the devices that need them.
third() {
    local small="one_pixel or two_levels or paper_like or ring_wraps" path tool device why
    why=$(obstacle compute-sanitizer --tool memcheck --error-exitcode 1)
    for tool in memcheck racecheck; do
        for path in $(paths); do
            if [ -n "$why" ]; then skip "sanitize_${tool}_$path" 150 "$why"; continue; fi
            device=sm90a
            [ "$path" = sm90a ] || device=$(shared_kibibytes)k
            # Every tensor in an allocation of its own, so that memcheck sees its end.
            run "sanitize_${tool}_$path" 150 env FASTSPADE_CUDA_PATH="$path" PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
                compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 1 \
                python3 -m pytest -q -x -m gpu tests/search/test_engines.py tests/cuda/test_cuda_projections.py \
                tests/cuda/test_cuda_layouts.py -p no:cacheprovider \
                -k "test_matches_float64_brute_force and ($small) or test_on_a_gpu and one_level and $path or test_layout_matches_float64_brute_force and $device"
        done
    done
    run test_cuda 150 python3 -m pytest -q tests/cuda/test_cuda.py -m "slow or not slow" -p no:cacheprovider
}

found=$(capability) || { echo "torch sees no CUDA device" >&2; exit 1; }
count=$(paths | wc -l)
step_end=$seconds
for name in $([ "$step" = all ] && echo smoke first second third || echo "$step"); do
    case $name in
        smoke) weight_left=$((300 + 30 * count)) ;;
        first) weight_left=$((300 + 60 + 90 + 240 * count)) ;;
        second) weight_left=$((300 + 240 + 90 + 60 + 135 * count)) ;;
        third) weight_left=$((300 + 300 * count + 150)) ;;
    esac
    build || break
    "$name"
    step_end=$((SECONDS + seconds))
done
cat "$kept/runs.txt"
[ "$failed" -eq 0 ]
