// Vectors that lie one after the other: products, differences, and laying them out as the other kernels read them.
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

// `width` vectors of one panel, W channels at a time through a transpose in registers. Missing vectors repeat the last one.
template <int width>
void pack_columns(const float* source, int64_t stride, int64_t count, int64_t channels, const float* mean, float scale,
                  float* out, int64_t out_stride, double* norm) {
    double total[W] = {};
    for (int64_t c = 0; c < channels; c += W) {
        const int64_t left = channels - c;
        vec block[W] = {};
        if (left >= W) {
            const vec centre = load(mean + c);
            for (int i = 0; i < width; ++i) block[i] = (load(source + (i < count ? i : count - 1) * stride + c) - centre) * scale;
        } else {
            for (int i = 0; i < width; ++i) {
                const float* from = source + (i < count ? i : count - 1) * stride + c;
                for (int k = 0; k < left; ++k) block[i][k] = (from[k] - mean[c + k]) * scale;
            }
        }
        transpose(block);
        vec sum = {};
        for (int k = 0; k < W; ++k) {
            sum += block[k] * block[k];
            if (k < left) __builtin_memcpy(out + (c + k) * out_stride, &block[k], width * sizeof(float));
        }
        for (int i = 0; i < width; ++i) total[i] += static_cast<double>(sum[i]);
    }
    for (int i = 0; i < width && i < count; ++i) norm[i] = total[i];
}

template <int P>
void pack(const float* source, int64_t stride, int64_t count, int64_t channels, const float* mean, float scale, float* panel,
          double* norm) {
    auto columns = [&](auto width, int first) {
        // A block that starts past the last vector repeats that one, as the rest of a started block does.
        const int64_t begin = first < count ? first : count - 1;
        double unused[W];
        pack_columns<width.value>(source + begin * stride, stride, count - begin, channels, mean, scale, panel + first, P,
                                  first < count ? norm + first : unused);
    };
    for (int first = 0; first + W <= P; first += W) columns(Known<W>{}, first);
    if constexpr (P % W != 0) columns(Known<P % W>{}, P - P % W);
}

double centre_row(const float* source, int64_t channels, const float* mean, float scale, float* row) {
    double norm = 0.0;
    int64_t c = 0;
    for (; c + 16 <= channels; c += 16) {
        vec sum = {};
        for (int64_t i = c; i < c + 16; i += W) {
            const vec value = (load(source + i) - load(mean + i)) * scale;
            store(row + i, value);
            sum += value * value;
        }
        norm += static_cast<double>(sum_of(sum));
    }
    float sum = 0.0f;
    for (; c < channels; ++c) {
        row[c] = (source[c] - mean[c]) * scale;
        sum += row[c] * row[c];
    }
    for (; c % 16; ++c) row[c] = 0.0f;
    return norm + static_cast<double>(sum);
}

void rows_of(const float* channels, int64_t stride, int64_t count, float* rows, int64_t row_step) {
    for (int64_t first = 0; first < count; first += W)
        for (int part = 0; part < 16; part += W) {
            vec block[W];
            for (int i = 0; i < W; ++i) block[i] = load(channels + (part + i) * stride + first);
            transpose(block);
            for (int i = 0; i < W && first + i < count; ++i) store(rows + (first + i) * row_step + part, block[i]);
        }
}

void neighbour_products(const float* stage, int64_t stride, int64_t channels, int64_t count, int64_t down, float* sums) {
    for (int64_t i = 0; i < count; i += W) {
        vec own = {}, right = {}, below = {}, diagonal = {}, antidiagonal = {};
        for (int64_t c = 0; c < channels; ++c) {
            const float* const at = stage + c * stride + i;
            const vec here = load(at);
            own += here * here;
            if (!down) continue;
            const vec next = load(at + 1), under = load(at + down);
            right += here * next;
            below += here * under;
            diagonal += here * load(at + down + 1);
            antidiagonal += next * under;
        }
        store(sums + i, own);
        store(sums + stride + i, right);
        store(sums + 2 * stride + i, below);
        store(sums + 3 * stride + i, diagonal);
        store(sums + 4 * stride + i, antidiagonal);
    }
}

}  // namespace
}  // namespace fastspade::cpu
