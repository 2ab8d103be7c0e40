// What products of 16-bit operands say of their vectors', and products of single pairs of pixels, where few are left: a pair
// every eight lanes.
#pragma once

#include "cuda/device.cuh"
#include "cuda/parameters.hpp"

namespace fastspade::cuda {

// The most that <q, r> can be where <q^, r^> is `product`. The terms are a query pixel's and a gallery pixel's.
template <class Query, class Gallery>
FASTSPADE_DEVICE float largest_product(float product, const Query& q, const Gallery& r) {
    return product + q.operand * r.error + q.error * r.operand;  // in this order two fused additions
}

// Where a pixel reads a group's grid.
template <int Count>
struct Taps {
    int pixel[Count];
    float weight[Count];
};

// Of one group: a query pixel, and a gallery pixel as its taps mix it.
template <int Count>
FASTSPADE_DEVICE float group_product(const SearchParameters& s, int g, int64_t query_row, int64_t image, const Taps<Count>& taps,
                                     int lane) {
    struct alignas(16) Piece {
        uint32_t word[4];
    };
    const auto unpack = [&](uint32_t pair, float& low, float& high) {
        unpack_halves(pair, low, high);
        if (s.bfloat16) {
            low = bits_float(pair << 16);
            high = bits_float(pair & 0xffff0000u);
        }
    };
    const SearchGroup& group = s.groups[g];
    const uint16_t* const query = group.query + query_row * group.channels;
    const uint16_t* const gallery = group.gallery + image * group.height * group.width * group.channels;
    float sum = 0.0f;
#pragma unroll 1
    for (int c = lane % 8 * 8; c < group.channels; c += 64) {
        const Piece q = *reinterpret_cast<const Piece*>(query + c);
        Piece r[Count];
#pragma unroll
        for (int k = 0; k < Count; ++k)
            r[k] = *reinterpret_cast<const Piece*>(gallery + static_cast<int64_t>(taps.pixel[k]) * group.channels + c);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float low = 0.0f, high = 0.0f, q_low, q_high;
            unpack(q.word[i], q_low, q_high);
#pragma unroll
            for (int k = 0; k < Count; ++k) {
                float r_low, r_high;
                unpack(r[k].word[i], r_low, r_high);
                low = taps.weight[k] == 0.0f ? low : low + taps.weight[k] * r_low;
                high = taps.weight[k] == 0.0f ? high : high + taps.weight[k] * r_high;
            }
            sum += q_low * low + q_high * high;
        }
    }
    for (int mask = 1; mask < 8; mask <<= 1) sum += warp_shuffle_xor(sum, mask);
    return sum;
}

}  // namespace fastspade::cuda
