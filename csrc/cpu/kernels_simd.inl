// The kernels, written once over GCC/Clang vector types and compiled once for each instruction set. The including file
// gives the constants W (floats a vector), V (vectors a lane panel) and N (vectors a row panel), and says by FASTSPADE_INTEGERS
// whether int8 and int16 pay. Everything here has internal linkage and uses no library templates: code compiled for a newer
// processor must never be merged into the common parts.

#include "cpu/kernels.hpp"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define FASTSPADE_INLINE inline __attribute__((always_inline))

namespace fastspade::cpu {
namespace {

constexpr int L = W * V;
constexpr int64_t run = 128;  // equals core/rounding.hpp's run_length: the error bound counts on it

typedef float vec __attribute__((vector_size(W * 4)));
typedef int32_t veci __attribute__((vector_size(W * 4)));
typedef float vec_unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t veci_unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));

typedef float quad __attribute__((vector_size(16)));
typedef int32_t quadi __attribute__((vector_size(16)));
typedef float quad_unaligned __attribute__((vector_size(16), aligned(4), may_alias));

inline vec load(const float* p) { return *reinterpret_cast<const vec_unaligned*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<vec_unaligned*>(p) = v; }
// Subtracting zero is exact for every value, so the compiler turns this into a plain broadcast.
inline vec splat(float x) { return x - vec{}; }

// Bit i is set where a[i] is not above b[i]; a NaN counts as "not above", so that overflow can never hide a pair.
inline uint32_t not_above(vec a, vec b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_NGT_UQ);
#elif defined(__AVX2__)
    return static_cast<uint32_t>(
        _mm256_movemask_ps(_mm256_cmp_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), _CMP_NGT_UQ)));
#else
    uint32_t mask = 0;
    for (int i = 0; i < W; ++i) mask |= static_cast<uint32_t>(!(a[i] > b[i])) << i;
    return mask;
#endif
}

// Sums by halves, down to four lanes, then one.
inline quad fold(vec v) {
#if defined(__AVX512F__)
    const __m512 all = reinterpret_cast<__m512>(v);
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return reinterpret_cast<quad>(_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif defined(__AVX2__)
    const __m256 all = reinterpret_cast<__m256>(v);
    return reinterpret_cast<quad>(_mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
    return v;
#endif
}
inline float sum_of(vec v) {
    const quad q = fold(v);
    return (q[0] + q[2]) + (q[1] + q[3]);
}
inline quad shuffled_sum(quad a, quad b) {  // a0 + a2, b0 + b2, a1 + a3, b1 + b3
#if defined(__clang__)
    return __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
    return __builtin_shuffle(a, b, quadi{0, 4, 1, 5}) + __builtin_shuffle(a, b, quadi{2, 6, 3, 7});
#endif
}
inline quad sums_of(vec a, vec b, vec c, vec d) {
    const quad ab = shuffled_sum(fold(a), fold(b)), cd = shuffled_sum(fold(c), fold(d));
#if defined(__clang__)
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
#else
    return __builtin_shuffle(ab, cd, quadi{0, 1, 4, 5}) + __builtin_shuffle(ab, cd, quadi{2, 3, 6, 7});
#endif
}

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

inline int64_t append(uint32_t mask, int row, int first_lane, vec value, Hit* hits, int64_t count) {
    while (mask) {
        const int bit = __builtin_ctz(mask);
        mask &= mask - 1;
        hits[count++] = Hit{row, first_lane + bit, value[bit]};
    }
    return count;
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
FASTSPADE_INLINE int64_t panel_hits(const float* lane_panel, const float* row_panel, int64_t channels, const float* lane_norm,
                                    const float* row_norm, const float* base, const float* limit, Hit* hits) {
    vec total[N][V];
    if (channels <= run) {
        accumulate_run(lane_panel, row_panel, channels, total);
        return hits_of<based>(total, lane_norm, row_norm, base, limit, hits);
    }
    accumulate(lane_panel, row_panel, channels, total);
    return hits_of<based>(total, lane_norm, row_norm, base, limit, hits);
}

int64_t distance_hits(const float* lane_panel, const float* row_panel, int64_t channels, const float* lane_norm,
                      const float* row_norm, const float* limit, Hit* hits) {
    return panel_hits<false>(lane_panel, row_panel, channels, lane_norm, row_norm, nullptr, limit, hits);
}

int64_t refined_hits(const float* lane_panel, const float* row_panel, int64_t channels, const float* lane_norm,
                     const float* row_norm, const float* base, const float* limit, Hit* hits) {
    return panel_hits<true>(lane_panel, row_panel, channels, lane_norm, row_norm, base, limit, hits);
}

#include "cpu/kernels_projected.inl"

#if FASTSPADE_INTEGERS
#include "cpu/kernels_integer.inl"
#endif

// W x W transpose by log2(W) rounds of interleaving rows half a matrix apart.
struct Interleaving {
    alignas(W * 4) int32_t even[W], odd[W];
    constexpr Interleaving() : even(), odd() {
        for (int i = 0; i < W / 2; ++i) {
            even[2 * i] = i, even[2 * i + 1] = W + i;
            odd[2 * i] = W / 2 + i, odd[2 * i + 1] = W + W / 2 + i;
        }
    }
};
constexpr Interleaving interleaving;

inline void transpose(vec (&m)[W]) {
    const veci even = *reinterpret_cast<const veci_unaligned*>(interleaving.even);
    const veci odd = *reinterpret_cast<const veci_unaligned*>(interleaving.odd);
    for (int round = 1; round < W; round *= 2) {
        vec next[W];
        for (int i = 0; i < W / 2; ++i) {
#if defined(__clang__)
            for (int k = 0; k < W / 2; ++k) {
                next[2 * i][2 * k] = m[i][k], next[2 * i][2 * k + 1] = m[i + W / 2][k];
                next[2 * i + 1][2 * k] = m[i][W / 2 + k], next[2 * i + 1][2 * k + 1] = m[i + W / 2][W / 2 + k];
            }
#else
            next[2 * i] = __builtin_shuffle(m[i], m[i + W / 2], even);
            next[2 * i + 1] = __builtin_shuffle(m[i], m[i + W / 2], odd);
#endif
        }
        for (int i = 0; i < W; ++i) m[i] = next[i];
    }
}

#include "cpu/kernels_interpolation.inl"

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

#include "cpu/kernels_rows.inl"
#include "cpu/kernels_pack.inl"

constexpr Kernels table(const char* name) {
    return Kernels{name,
                   L,
                   N,
                   product,
                   refine,
                   refined_rows,
                   distance_hits,
                   refined_hits,
                   interpolate_lanes,
                   patches_left,
                   least_of_cells,
                   cells_left,
                   {values_left<false>, values_left<true>},
                   scan,
                   rows_left,
                   count,
                   count_lanes,
                   dot,
                   project,
                   near_rows,
                   pack<L>,
                   pack<N>,
                   centre_row,
#if FASTSPADE_INTEGERS
                   {integer_hits<1>, integer_hits<2>},
                   {round_row<1>, round_row<2>}};
#else
                   {},
                   {}};
#endif
}

}  // namespace
}  // namespace fastspade::cpu
