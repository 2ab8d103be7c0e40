// Products of panels, and the distances and bounds that they make.
#pragma once

#include "cpu/kernels_vector.inl"

namespace fastspade::cpu {
namespace {

// The heart: count x V accumulators stay in registers for a run of channels. row(c, j): channel c of the j-th vector.
template <int count, class Row>
FASTSPADE_INLINE void accumulate_run(const float* lane_panel, int64_t channels, Row&& row, vec (&sum)[count][V]) {
    for (int j = 0; j < count; ++j)
        for (int v = 0; v < V; ++v) sum[j][v] = vec{};
    for (int64_t c = 0; c < channels; ++c) {
        vec lanes[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) lanes[v] = load(lane_panel + v * W);
#pragma GCC unroll 16
        for (int j = 0; j < count; ++j) {
            const vec value = splat(row(c, j));
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[j][v] += lanes[v] * value;
        }
        lane_panel += L;
    }
}

// Any number of channels: each run joins the totals.
template <int count, class Row>
FASTSPADE_INLINE void accumulate(const float* lane_panel, int64_t channels, Row&& row, vec (&total)[count][V]) {
    for (int64_t start = 0; start < channels; start += run) {
        vec sum[count][V];
        accumulate_run(
            lane_panel + start * L, channels - start < run ? channels - start : run,
            [&](int64_t c, int j) FASTSPADE_INLINE_LAMBDA { return row(start + c, j); }, sum);
        for (int j = 0; j < count; ++j)
            for (int v = 0; v < V; ++v) total[j][v] += sum[j][v];
    }
}

void product(const float* lane_panel, const float* row_panel, int64_t channels, float* tile, int64_t stride) {
    vec total[N][V] = {};
    accumulate(lane_panel, channels, [&](int64_t c, int j) FASTSPADE_INLINE_LAMBDA { return row_panel[c * N + j]; }, total);
    for (int j = 0; j < N; ++j)
        for (int v = 0; v < V; ++v) store(tile + j * stride + v * W, total[j][v]);
}

template <int together, int panel>
FASTSPADE_INLINE void some_products(const float* lane_panel, const float* vectors, int64_t length, int64_t channels,
                                    int64_t first, const float* bias, float* out) {
    const float* vector[together];
    vec total[together][V];
    for (int j = 0; j < together; ++j) {
        vector[j] = vectors + (first + j) / panel * panel * length + (first + j) % panel;
        for (int v = 0; v < V; ++v) total[j][v] = load(bias + v * W);
    }
    accumulate(lane_panel, channels, [&](int64_t c, int j) FASTSPADE_INLINE_LAMBDA { return vector[j][c * panel]; }, total);
    for (int j = 0; j < together; ++j)
        for (int v = 0; v < V; ++v) store(out + (first + j) * L + v * W, total[j][v]);
}

template <int panel>
void vector_products(const float* lane_panel, const float* vectors, int64_t length, int64_t channels, int64_t first, int64_t last,
                     const float* bias, float* out) {
    for (; first + 4 <= last; first += 4) some_products<4, panel>(lane_panel, vectors, length, channels, first, bias, out);
    for (; first + 2 <= last; first += 2) some_products<2, panel>(lane_panel, vectors, length, channels, first, bias, out);
    if (first < last) some_products<1, panel>(lane_panel, vectors, length, channels, first, bias, out);
}

// The values base + lane_norm + row_norm - 2 * product that are not above their lane's limit, of `rows` rows that stand at
// at(j); base only where it is given.
template <bool based, class At>
FASTSPADE_INLINE int64_t hits_of(const vec (&total)[N][V], int64_t rows, At&& at, const float* lane_norm, const float* row_norm,
                                 const float* base, const float* limit, Hit* hits) {
    int64_t count = 0;
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) {
        if (j >= rows) break;
        const int32_t row = at(j);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            vec value = (load(lane_norm + v * W) + row_norm[row]) - 2.0f * total[j][v];
            if (based) value += load(base + int64_t{row} * L + v * W);
            const uint32_t mask = not_above(value, load(limit + v * W));
            if (__builtin_expect(mask != 0, 0)) count = append(mask, row, v * W, value, hits, count);
        }
    }
    return count;
}

int64_t panel_hits(const float* lane_panel, const float* row_panel, int64_t channels, const float* lane_norm,
                   const float* row_norm, const float* base, const float* limit, Hit* hits) {
    auto row = [&](int64_t c, int j) FASTSPADE_INLINE_LAMBDA { return row_panel[c * N + j]; };
    auto at = [](int j) FASTSPADE_INLINE_LAMBDA { return j; };
    auto found = [&](const vec(&total)[N][V]) FASTSPADE_INLINE_LAMBDA {
        return base ? hits_of<true>(total, N, at, lane_norm, row_norm, base, limit, hits)
                    : hits_of<false>(total, N, at, lane_norm, row_norm, nullptr, limit, hits);
    };
    vec total[N][V] = {};
    if (channels <= run) {  // the products never leave the registers
        accumulate_run(lane_panel, channels, row, total);
        return found(total);
    }
    accumulate(lane_panel, channels, row, total);
    return found(total);
}

// Bounds by projections: few numbers a vector, so that what surrounds the product costs as much as the product itself. The
// vectors of up to N rows are copied together, so that all are read from one address and fixed distances from it.
template <int width>
void refine(const float* lane_panel, const float* vectors, const float* lane_norm, const float* row_norm, const float* base,
            float* tile) {
    alignas(64) float rows[N][width];
    __builtin_memcpy(rows, vectors, sizeof(rows));
    vec sum[N][V];
    accumulate_run(lane_panel, width, [&](int64_t c, int j) FASTSPADE_INLINE_LAMBDA { return rows[j][c]; }, sum);
    for (int j = 0; j < N; ++j)
        for (int v = 0; v < V; ++v) {
            const int at = j * L + v * W;
            store(tile + at, load(base + at) + (load(lane_norm + v * W) + row_norm[j]) - 2.0f * sum[j][v]);
        }
}

template <int width>
int64_t refined_rows(const float* lane_panel, const float* vectors, const float* lane_norm, const float* row_norm,
                     const float* base, const int32_t* list, int64_t count, const float* limit, Hit* hits) {
    alignas(64) float rows[N][width];
    int32_t row[N];
    for (int j = 0; j < N; ++j) {
        row[j] = list[j < count ? j : 0];
        __builtin_memcpy(rows[j], vectors + int64_t{row[j]} * width, sizeof(rows[j]));
    }
    vec sum[N][V];
    accumulate_run(lane_panel, width, [&](int64_t c, int j) FASTSPADE_INLINE_LAMBDA { return rows[j][c]; }, sum);
    return hits_of<true>(
        sum, count, [&](int j) FASTSPADE_INLINE_LAMBDA { return row[j]; }, lane_norm, row_norm, base, limit, hits);
}

int64_t scan(const float* values, const int32_t* list, int64_t listed, const float* limit, Hit* hits) {
    vec bound[V];
    for (int v = 0; v < V; ++v) bound[v] = load(limit + v * W);
    int64_t count = 0;
    for (int64_t i = 0; i < listed; ++i)
        for (int v = 0; v < V; ++v) {
            const vec value = load(values + int64_t{list[i]} * L + v * W);
            const uint32_t mask = not_above(value, bound[v]);
            if (__builtin_expect(mask != 0, 0)) count = append(mask, list[i], v * W, value, hits, count);
        }
    return count;
}

void count_lanes(const float* values, int64_t rows, const float* limit, int32_t* counts) {
    vec bound[V];
    veci total[V] = {};
    for (int v = 0; v < V; ++v) bound[v] = load(limit + v * W);
    for (int64_t row = 0; row < rows; ++row)
        for (int v = 0; v < V; ++v) total[v] += (load(values + row * L + v * W) > bound[v]) + 1;  // a true comparison is -1
    for (int v = 0; v < V; ++v) *reinterpret_cast<veci_unaligned*>(counts + v * W) = total[v];
}

}  // namespace
}  // namespace fastspade::cpu
