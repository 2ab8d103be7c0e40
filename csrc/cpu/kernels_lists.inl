// Which of a tile's values are not above their lane's limit.
#pragma once

#include "cpu/kernels_vector.inl"

namespace fastspade::cpu {
namespace {

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

int64_t rows_left(const float* values, const int32_t* rows, int64_t listed, const float* limit, int32_t* list) {
    vec bound[V];
    for (int v = 0; v < V; ++v) bound[v] = load(limit + v * W);
    int64_t count = 0;
    for (int64_t i = 0; i < listed; ++i) {
        const int32_t row = rows[i];
        uint32_t mask = 0;
        for (int v = 0; v < V; ++v) mask |= not_above(load(values + int64_t{row} * L + v * W), bound[v]);
        list[count] = row;
        count += mask != 0;
    }
    return count;
}

int64_t count(const float* values, int64_t rows, const float* limit) {
    vec bound[V];
    for (int v = 0; v < V; ++v) bound[v] = load(limit + v * W);
    int64_t total = 0;
    for (int64_t row = 0; row < rows; ++row)
        for (int v = 0; v < V; ++v) total += __builtin_popcount(not_above(load(values + row * L + v * W), bound[v]));
    return total;
}

void count_lanes(const float* values, int64_t rows, const float* limit, int32_t* counts) {
    vec bound[V];
    veci total[V];
    for (int v = 0; v < V; ++v) bound[v] = load(limit + v * W), total[v] = veci{};
    for (int64_t row = 0; row < rows; ++row)
        for (int v = 0; v < V; ++v) total[v] += (load(values + row * L + v * W) > bound[v]) + 1;  // a true comparison is -1
    for (int v = 0; v < V; ++v) *reinterpret_cast<veci_unaligned*>(counts + v * W) = total[v];
}

}  // namespace
}  // namespace fastspade::cpu
