// Products of vectors rounded to int8 or int16, four or two channels to a 32-bit word: processors with
// such instructions do two or four times as many a second as float32 products.
#pragma once

#include "cpu/kernels_vector.inl"

namespace fastspade::cpu {
namespace {

// Arm multiplies bytes that both have a sign. Lanes come with 128 added; there it is taken off again.
#if defined(__ARM_FEATURE_DOTPROD)
constexpr bool signed_lanes = true;
#else
constexpr bool signed_lanes = false;
#endif

// Each word's products join its sum. One byte: `lanes` are without sign, but for Arm's, `row` has one.
template <int bytes>
FASTSPADE_INLINE veci multiply_words(veci sum, veci lanes, veci row) {
#if defined(__AVX512VNNI__)
    const auto a = reinterpret_cast<__m512i>(lanes), b = reinterpret_cast<__m512i>(row), c = reinterpret_cast<__m512i>(sum);
    return reinterpret_cast<veci>(bytes == 1 ? _mm512_dpbusd_epi32(c, a, b) : _mm512_dpwssd_epi32(c, a, b));
#elif defined(__AVXVNNI__)
    const auto a = reinterpret_cast<__m256i>(lanes), b = reinterpret_cast<__m256i>(row), c = reinterpret_cast<__m256i>(sum);
    return reinterpret_cast<veci>(bytes == 1 ? _mm256_dpbusd_avx_epi32(c, a, b) : _mm256_dpwssd_avx_epi32(c, a, b));
#elif defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, reinterpret_cast<int8x16_t>(lanes), reinterpret_cast<int8x16_t>(row));
#else
    if (bytes == 2) return sum + ((lanes << 16) >> 16) * ((row << 16) >> 16) + (lanes >> 16) * (row >> 16);
    for (int k = 0; k < 4; ++k) sum += ((lanes >> (8 * k)) & 255) * ((row << (24 - 8 * k)) >> 24);
    return sum;
#endif
}

template <int bytes>
int64_t integer_hits(const IntegerLanes& lanes, const IntegerRows& rows, int64_t words, const float* base, const float* limit,
                     Hit* hits) {
    veci sum[N][V];
    for (int j = 0; j < N; ++j)
        for (int v = 0; v < V; ++v) sum[j][v] = veci{} + (signed_lanes ? 0 : rows.start[j]);
    const int32_t *lane_word = lanes.words, *row_word = rows.words;
    for (int64_t w = 0; w < words; ++w) {
        veci lane[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
            lane[v] = *reinterpret_cast<const veci_unaligned*>(lane_word + v * W) ^ (signed_lanes ? INT32_C(-0x7f7f7f80) : 0);
#pragma GCC unroll 16
        for (int j = 0; j < N; ++j) {
            const veci row = veci{} + row_word[j];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[j][v] = multiply_words<bytes>(sum[j][v], lane[v], row);
        }
        lane_word += L;
        row_word += N;
    }
    int64_t count = 0;
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            vec value = load(lanes.norm + v * W) + rows.norm[j];
            value -= load(lanes.error + v * W) * rows.length[j];
            value -= load(lanes.length + v * W) * rows.error[j];
            value -= (load(lanes.scale + v * W) * rows.scale[j]) * __builtin_convertvector(sum[j][v], vec);
            if (base) value += load(base + j * L + v * W);
            const uint32_t mask = not_above(value, load(limit + v * W));
            if (__builtin_expect(mask != 0, 0)) count = append(mask, j, v * W, value, hits, count);
        }
    return count;
}

// Rounds through a large float, whose last place is one.
template <int bytes>
Rounded round_row(const float* row, int64_t length, float norm, void* out) {
    typedef int8_t one __attribute__((vector_size(W), aligned(1), may_alias));
    typedef int16_t two __attribute__((vector_size(W * 2), aligned(1), may_alias));
    constexpr float most = bytes == 1 ? 127.0f : 32767.0f, large = 12582912.0f;
    vec high = {};
    for (int64_t i = 0; i < length; i += W) {
        const vec value = load(row + i), size = value < 0.0f ? -value : value;
        high = size > high ? size : high;
    }
    float largest = 0.0f;
    for (int i = 0; i < W; ++i) largest = high[i] > largest ? high[i] : largest;
    // Two bytes: by Cauchy and Schwarz no sum of products passes 2^31 where no norm passes 2^15.5.
    float scale = largest / most;
    if (bytes == 2 && norm / 45000.0f > scale) scale = norm / 45000.0f;
    if (!(scale > 1e-30f)) {
        __builtin_memset(out, 0, static_cast<unsigned long>(length) * bytes);
        return {0.0f, norm * 1.001f, 0};
    }
    const float inverse = 1.0f / scale;
    vec square = {};
    veci total = {};
    for (int64_t i = 0; i < length; i += W) {
        const vec value = load(row + i);
        vec whole = value * inverse;
        whole = whole > most ? vec{} + most : whole < -most ? vec{} - most : whole;
        whole += large;
        const veci number = reinterpret_cast<veci>(whole) - reinterpret_cast<veci>(vec{} + large);
        whole -= large;
        const vec off = value - whole * scale;
        square += off * off;
        if (bytes == 1) total += number;  // nobody asks for that of two bytes, which could leave 32 bits
        if (bytes == 1)
            *reinterpret_cast<one*>(static_cast<char*>(out) + i) = __builtin_convertvector(number, one);
        else
            *reinterpret_cast<two*>(static_cast<char*>(out) + 2 * i) = __builtin_convertvector(number, two);
    }
    int32_t sum = 0;
    for (int i = 0; i < W; ++i) sum += total[i];
    // What rounding may hide from the sum of squares, and each difference's own rounding.
    const float error = __builtin_sqrtf(sum_of(square)) * (1.0f + 1e-5f + 1e-7f * static_cast<float>(length)) + 4e-7f * norm;
    return {scale, error, sum};
}

}  // namespace
}  // namespace fastspade::cpu
