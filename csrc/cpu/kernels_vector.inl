// What the kernels are written in: vectors of GCC and Clang. Whoever compiles them gives FASTSPADE_FLOATS (floats a vector),
// FASTSPADE_LANE_VECTORS (vectors a lane panel) and FASTSPADE_ROWS (vectors a row panel). All of the kernels has internal linkage
// and uses no library templates: code compiled for a newer processor must never be merged into the common parts.
#pragma once

#include "cpu/kernels.hpp"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#define FASTSPADE_INLINE_LAMBDA __attribute__((always_inline))
#define FASTSPADE_INLINE inline FASTSPADE_INLINE_LAMBDA

namespace fastspade::cpu {
namespace {

constexpr int W = FASTSPADE_FLOATS, V = FASTSPADE_LANE_VECTORS, N = FASTSPADE_ROWS, L = W * V;
constexpr int64_t run = 128;  // equals core/candidates.hpp's run_length: the error bound counts on it

// A number that the compiler knows, for functions that are compiled once for each; 0 where it is known at run time alone.
template <int number>
struct Known {
    static constexpr int value = number;
};
// body(Known<n>), n being 1 or 2, for which loops are unrolled, or 0.
template <class Body>
FASTSPADE_INLINE auto with_known(int n, Body&& body) {
    return n == 2 ? body(Known<2>{}) : n == 1 ? body(Known<1>{}) : body(Known<0>{});
}

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

inline int64_t append(uint32_t mask, int row, int first_lane, vec value, Hit* hits, int64_t count) {
    while (mask) {
        const int bit = __builtin_ctz(mask);
        mask &= mask - 1;
        hits[count++] = Hit{row, first_lane + bit, value[bit]};
    }
    return count;
}

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

}  // namespace
}  // namespace fastspade::cpu
