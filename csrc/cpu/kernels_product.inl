// Products of whole panels, and the distances that they make.
#pragma once

#include "cpu/kernels_vector.inl"

namespace fastspade::cpu {
namespace {

// The heart: N x V accumulators stay in registers for a run of channels.
FASTSPADE_INLINE void accumulate_run(const float* lane_panel, const float* row_panel, int64_t channels, vec (&sum)[N][V]) {
    for (int j = 0; j < N; ++j)
        for (int v = 0; v < V; ++v) sum[j][v] = vec{};
    for (int64_t c = 0; c < channels; ++c) {
        vec lanes[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) lanes[v] = load(lane_panel + v * W);
#pragma GCC unroll 16
        for (int j = 0; j < N; ++j) {
            const vec row = splat(row_panel[j]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[j][v] += lanes[v] * row;
        }
        lane_panel += L;
        row_panel += N;
    }
}

// Any number of channels: each run joins the totals.
inline void accumulate(const float* lane_panel, const float* row_panel, int64_t channels, vec (&total)[N][V]) {
    for (int j = 0; j < N; ++j)
        for (int v = 0; v < V; ++v) total[j][v] = vec{};
    for (int64_t start = 0; start < channels; start += run) {
        const int64_t length = channels - start < run ? channels - start : run;
        vec sum[N][V];
        accumulate_run(lane_panel + start * L, row_panel + start * N, length, sum);
        for (int j = 0; j < N; ++j)
            for (int v = 0; v < V; ++v) total[j][v] += sum[j][v];
    }
}

void product(const float* lane_panel, const float* row_panel, int64_t channels, float* tile, int64_t stride) {
    vec total[N][V];
    accumulate(lane_panel, row_panel, channels, total);
    for (int j = 0; j < N; ++j)
        for (int v = 0; v < V; ++v) store(tile + j * stride + v * W, total[j][v]);
}

template <int together>
FASTSPADE_INLINE void some_products(const float* lane_panel, const float* panels, int64_t channels, int64_t first,
                                    const float* bias, float* out) {
    const float* vector[together];
    vec total[together][V];
    for (int j = 0; j < together; ++j) {
        vector[j] = panels + (first + j) / L * L * channels + (first + j) % L;
        for (int v = 0; v < V; ++v) total[j][v] = load(bias + v * W);
    }
    for (int64_t start = 0; start < channels; start += run) {
        const int64_t end = channels - start < run ? channels : start + run;
        vec sum[together][V] = {};
        for (int64_t c = start; c < end; ++c) {
            vec lanes[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) lanes[v] = load(lane_panel + c * L + v * W);
#pragma GCC unroll 4
            for (int j = 0; j < together; ++j) {
                const vec value = splat(vector[j][c * L]);
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) sum[j][v] += lanes[v] * value;
            }
        }
        for (int j = 0; j < together; ++j)
            for (int v = 0; v < V; ++v) total[j][v] += sum[j][v];
    }
    for (int j = 0; j < together; ++j)
        for (int v = 0; v < V; ++v) store(out + (first + j) * L + v * W, total[j][v]);
}

void vector_products(const float* lane_panel, const float* panels, int64_t channels, int64_t first, int64_t last,
                     const float* bias, float* out) {
    for (; first + 4 <= last; first += 4) some_products<4>(lane_panel, panels, channels, first, bias, out);
    for (; first + 2 <= last; first += 2) some_products<2>(lane_panel, panels, channels, first, bias, out);
    if (first < last) some_products<1>(lane_panel, panels, channels, first, bias, out);
}

// The values base + lane_norm + row_norm - 2 * product that are not above their lane's limit; base only where it is given.
template <bool based>
FASTSPADE_INLINE int64_t hits_of(const vec (&total)[N][V], const float* lane_norm, const float* row_norm, const float* base,
                                 const float* limit, Hit* hits) {
    int64_t count = 0;
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            vec value = (load(lane_norm + v * W) + row_norm[j]) - 2.0f * total[j][v];
            if (based) value += load(base + j * L + v * W);
            const uint32_t mask = not_above(value, load(limit + v * W));
            if (__builtin_expect(mask != 0, 0)) count = append(mask, j, v * W, value, hits, count);
        }
    return count;
}

// With one run of channels the products never leave the registers.
template <bool based>
FASTSPADE_INLINE int64_t panel_hits_with(const float* lane_panel, const float* row_panel, int64_t channels,
                                         const float* lane_norm, const float* row_norm, const float* base, const float* limit,
                                         Hit* hits) {
    vec total[N][V];
    if (channels <= run) {
        accumulate_run(lane_panel, row_panel, channels, total);
        return hits_of<based>(total, lane_norm, row_norm, base, limit, hits);
    }
    accumulate(lane_panel, row_panel, channels, total);
    return hits_of<based>(total, lane_norm, row_norm, base, limit, hits);
}

int64_t panel_hits(const float* lane_panel, const float* row_panel, int64_t channels, const float* lane_norm,
                   const float* row_norm, const float* base, const float* limit, Hit* hits) {
    return base ? panel_hits_with<true>(lane_panel, row_panel, channels, lane_norm, row_norm, base, limit, hits)
                : panel_hits_with<false>(lane_panel, row_panel, channels, lane_norm, row_norm, nullptr, limit, hits);
}

}  // namespace
}  // namespace fastspade::cpu
