// What share of the processor's multiply-add peak does the dense part of the search reach?
//
// The peak is measured: independent multiply-adds on registers alone. Beside it, panel_hits, the kernel of the dense
// search, over a gallery block as large as the search's own (4 MiB, which lives in the last-level cache).
//
//     cmake --build build/<tag> --target kernel_peak && build/<tag>/kernel_peak [threads]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <thread>
#include <vector>

#include "core/buffer.hpp"
#include "cpu/kernels.hpp"

using namespace fastspade;
using namespace fastspade::cpu;

namespace {

constexpr int chains = 12;  // enough independent sums to hide the latency of a multiply-add

// One round is `chains` multiply-adds of a whole vector. The result is returned so that nothing is left out.
#define FASTSPADE_BUSY(name, floats, ...)                                                              \
    __VA_ARGS__ float name(int64_t rounds) {                                                           \
        typedef float vec __attribute__((vector_size(4 * floats)));                                    \
        vec sum[chains];                                                                               \
        for (int i = 0; i < chains; ++i) sum[i] = vec{} + static_cast<float>(i);                       \
        const vec factor = vec{} + 0.999f, step = vec{} + 0.001f;                                      \
        for (int64_t r = 0; r < rounds; ++r) {                                                         \
            _Pragma("GCC unroll 12") for (int i = 0; i < chains; ++i) sum[i] = sum[i] * factor + step; \
        }                                                                                              \
        float total = 0.0f;                                                                            \
        for (int i = 0; i < chains; ++i) total += sum[i][0];                                           \
        return total;                                                                                  \
    }

#if defined(FASTSPADE_X86)
FASTSPADE_BUSY(busy_avx512, 16, __attribute__((target("avx512f"))))
FASTSPADE_BUSY(busy_avx2, 8, __attribute__((target("avx2,fma"))))
#elif defined(FASTSPADE_NEON)
FASTSPADE_BUSY(busy_neon, 4)
#endif

// Processor time of the slowest thread, best of several: other programs' turns do not count.
template <class Work>
double seconds(int threads, Work&& work) {
    double best = std::numeric_limits<double>::infinity();
    for (int repeat = 0; repeat < 7; ++repeat) {
        std::vector<double> taken(static_cast<size_t>(threads));
        std::vector<std::thread> team;
        for (int t = 0; t < threads; ++t)
            team.emplace_back([&, t] {
                timespec start, end;
                clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
                work(t);
                clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
                taken[static_cast<size_t>(t)] =
                    static_cast<double>(end.tv_sec - start.tv_sec) + 1e-9 * static_cast<double>(end.tv_nsec - start.tv_nsec);
            });
        for (std::thread& thread : team) thread.join();
        best = std::min(best, *std::max_element(taken.begin(), taken.end()));
    }
    return best;
}

void measure(const char* name, int floats, float (*busy)(int64_t), int threads) {
    const Kernels* table = kernels_named(name);
    if (!table) return;
    constexpr int64_t rounds = 1'500'000;
    std::vector<float> sink(static_cast<size_t>(threads));
    const double peak = 2.0 * chains * floats * rounds * threads /
                        seconds(threads, [&](int t) { sink[static_cast<size_t>(t)] = busy(rounds); }) / 1e9;
    std::printf("%s, %d threads: peak %.0f GFLOP/s\n", name, threads, peak);
    for (int64_t channels : {64, 128, 256, 512, 2048}) {
        const int64_t panels = (int64_t{4} << 20) / 4 / channels / table->rows;
        const int64_t repeats = std::max<int64_t>(1, 300'000'000 / (2 * table->lanes * table->rows * panels * channels));
        struct Panels {
            Buffer<float> query, gallery;
        };
        std::vector<Panels> panels_of(static_cast<size_t>(threads));
        for (Panels& own : panels_of) {  // laid out beforehand: the kernel alone is timed
            std::fill_n(own.query.reserve(table->lanes * channels), table->lanes * channels, 1.0f);
            std::fill_n(own.gallery.reserve(panels * table->rows * channels), panels * table->rows * channels, 1.0f);
        }
        const double time = seconds(threads, [&](int t) {
            const Buffer<float>&query = panels_of[static_cast<size_t>(t)].query,
                  &gallery = panels_of[static_cast<size_t>(t)].gallery;
            const std::vector<float> norms(static_cast<size_t>(std::max<int64_t>(table->lanes, table->rows)), 0.0f);
            const std::vector<float> limits(static_cast<size_t>(table->lanes), -std::numeric_limits<float>::infinity());
            std::vector<Hit> hits(static_cast<size_t>(table->lanes * table->rows));
            for (int64_t r = 0; r < repeats; ++r)
                for (int64_t p = 0; p < panels; ++p)
                    table->panel_hits(query.data(), gallery.data() + p * table->rows * channels, channels, norms.data(),
                                      norms.data(), nullptr, limits.data(), hits.data());
        });
        const double rate =
            2.0 * table->lanes * table->rows * static_cast<double>(panels * channels * repeats) * threads / time / 1e9;
        std::printf("  panel_hits, %4d channels: %4.0f GFLOP/s, %3.0f %% of the peak\n", static_cast<int>(channels), rate,
                    100.0 * rate / peak);
    }
}

}  // namespace

int main(int argc, char** argv) {
    const int threads = argc > 1 ? std::atoi(argv[1]) : static_cast<int>(std::thread::hardware_concurrency());
#if defined(FASTSPADE_X86)
    measure("avx512", 16, busy_avx512, threads);
    measure("avx2", 8, busy_avx2, threads);
#elif defined(FASTSPADE_NEON)
    measure("neon", 4, busy_neon, threads);
#endif
    return 0;
}
