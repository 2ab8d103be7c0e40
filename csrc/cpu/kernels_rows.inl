// Products and differences of vectors that lie as rows, one after the other.
#pragma once

#include "cpu/kernels_vector.inl"

namespace fastspade::cpu {
namespace {

// Four sums in flight hide the latency of the additions; W divides 16, and every length is a multiple of 16.
float dot(const float* a, const float* b, int64_t length) {
    vec sum[4] = {};
    int64_t i = 0;
    for (; i + 4 * W <= length; i += 4 * W)
        for (int k = 0; k < 4; ++k) sum[k] += load(a + i + k * W) * load(b + i + k * W);
    for (; i + W <= length; i += W) sum[0] += load(a + i) * load(b + i);
    return sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// Two rows by four queries: every load is used several times, and eight sums hide the latency of the additions.
int64_t near_rows(const float* rows, int64_t step, int64_t count, int64_t length, const float* queries, int64_t query_count,
                  int64_t query_stride, const float* limit, Hit* hits) {
    constexpr float largest = 3.402823466e38f;
    constexpr int64_t ahead = 2048;
    const int64_t whole = length / W * W;
    int64_t found = 0;
    for (int64_t r = 0; r < count; r += 2) {
        const float *upper = rows + r * step, *lower = r + 1 < count ? upper + step : upper;
        // Coming rows are asked for early: with few queries, memory is what this waits for. Long rows the processor's own
        // prefetching follows well.
        if (2 * length <= ahead)
            for (int64_t i = 0; i < 2 * length; i += 16) __builtin_prefetch(upper + ahead + i);
        float upper_end[W] = {}, lower_end[W] = {};
        for (int64_t i = whole; i < length; ++i) upper_end[i - whole] = upper[i], lower_end[i - whole] = lower[i];
        for (int64_t q = 0; q < query_count; q += 4) {
            const float* query = queries + q * query_stride;
            vec above[4], below[4];
            for (int k = 0; k < 4; ++k) above[k] = below[k] = vec{};
            auto add = [&](vec a, vec b, int64_t i) __attribute__((always_inline)) {
                for (int k = 0; k < 4; ++k) {
                    const vec value = load(query + k * query_stride + i), da = a - value, db = b - value;
                    above[k] += da * da, below[k] += db * db;
                }
            };
            for (int64_t i = 0; i < whole; i += W) add(load(upper + i), load(lower + i), i);
            if (whole != length) add(load(upper_end), load(lower_end), whole);
            const quad bound = *reinterpret_cast<const quad_unaligned*>(limit + q);
            const quad sums[2] = {sums_of(above[0], above[1], above[2], above[3]),
                                  sums_of(below[0], below[1], below[2], below[3])};
            for (int j = 0; j < 2; ++j) {
                const quadi far = (sums[j] > bound) & (sums[j] <= largest);
                if (__builtin_expect((far[0] & far[1] & far[2] & far[3]) != 0, 1) || r + j >= count) continue;
                for (int k = 0; k < 4; ++k)
                    if (!far[k]) hits[found++] = Hit{static_cast<int32_t>(r + j), static_cast<int32_t>(q + k), sums[j][k]};
            }
        }
    }
    return found;
}

}  // namespace
}  // namespace fastspade::cpu
