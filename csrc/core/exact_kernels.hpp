// The sums behind an exact distance, in float64 over eight fixed lanes and without fused multiply-adds that would round: every
// instruction set gives the same bits.
#pragma once

#include <cstdint>

#include "core/mixing.hpp"

namespace fastspade {

// Four native vectors (top left, top right, bottom left, bottom right) and how far to go down and to the right.
struct Mixture {
    const float* tap[4];
    double down, right;
};

constexpr int exact_lanes = 8;

// out = the mixture; where nothing is mixed, its first vector.
void mix(const Mixture& mixture, Mixing mixing, int64_t channels, double* out);
// The squared distance of the query from it.
double squared_distance(const Mixture& mixture, Mixing mixing, const double* query, int64_t channels);
// out[i * out_step + c] = from[c * step + i], i < count, c < channels.
void transpose(const float* from, int64_t step, int64_t channels, int64_t count, float* out, int64_t out_step);

}  // namespace fastspade
