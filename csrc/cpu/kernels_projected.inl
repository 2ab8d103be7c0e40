// Bounds by projections: few numbers a vector, so that what surrounds the product costs as much as the product itself.
//
#pragma once

#include "cpu/kernels_vector.inl"

namespace fastspade::cpu {
namespace {

// The vectors of up to N rows copied together, so that all are read from one address and fixed distances from it.
template <int width>
struct ProjectedRows {
    alignas(64) float at[N][width];
};

template <int width>
FASTSPADE_INLINE void multiply(const float* lane_panel, const ProjectedRows<width>& rows, vec (&sum)[N][V]) {
    for (int j = 0; j < N; ++j)
        for (int v = 0; v < V; ++v) sum[j][v] = vec{};
    for (int c = 0; c < width; ++c) {
        vec lanes[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) lanes[v] = load(lane_panel + c * L + v * W);
#pragma GCC unroll 16
        for (int j = 0; j < N; ++j) {
            const vec row = splat(rows.at[j][c]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[j][v] += lanes[v] * row;
        }
    }
}

template <int width>
inline void refine_with(const float* lane_panel, const float* vectors, const float* lane_norm, const float* row_norm,
                        const float* base, float* tile) {
    ProjectedRows<width> rows;
    __builtin_memcpy(rows.at, vectors, sizeof(rows.at));
    vec sum[N][V];
    multiply<width>(lane_panel, rows, sum);
    for (int j = 0; j < N; ++j)
        for (int v = 0; v < V; ++v) {
            const int at = j * L + v * W;
            store(tile + at, load(base + at) + (load(lane_norm + v * W) + row_norm[j]) - 2.0f * sum[j][v]);
        }
}

template <int width>
inline int64_t refined_rows_with(const float* lane_panel, const float* vectors, const float* lane_norm, const float* row_norm,
                                 const float* base, const int32_t* list, int64_t count, const float* limit, Hit* hits) {
    ProjectedRows<width> rows;
    int32_t row[N];
    for (int j = 0; j < N; ++j) {
        row[j] = list[j < count ? j : 0];
        __builtin_memcpy(rows.at[j], vectors + int64_t{row[j]} * width, sizeof(rows.at[j]));
    }
    vec sum[N][V];
    multiply<width>(lane_panel, rows, sum);
    int64_t found = 0;
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) {
        if (j >= count) break;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            const vec value =
                load(base + int64_t{row[j]} * L + v * W) + (load(lane_norm + v * W) + row_norm[row[j]]) - 2.0f * sum[j][v];
            const uint32_t mask = not_above(value, load(limit + v * W));
            if (__builtin_expect(mask != 0, 0)) found = append(mask, row[j], v * W, value, hits, found);
        }
    }
    return found;
}

void refine(const float* lane_panel, const float* vectors, int64_t width, const float* lane_norm, const float* row_norm,
            const float* base, float* tile) {
    return width == 8 ? refine_with<8>(lane_panel, vectors, lane_norm, row_norm, base, tile)
                      : refine_with<16>(lane_panel, vectors, lane_norm, row_norm, base, tile);
}

int64_t refined_rows(const float* lane_panel, const float* vectors, int64_t width, const float* lane_norm, const float* row_norm,
                     const float* base, const int32_t* list, int64_t count, const float* limit, Hit* hits) {
    return width == 8 ? refined_rows_with<8>(lane_panel, vectors, lane_norm, row_norm, base, list, count, limit, hits)
                      : refined_rows_with<16>(lane_panel, vectors, lane_norm, row_norm, base, list, count, limit, hits);
}

}  // namespace
}  // namespace fastspade::cpu
