// The sums behind an exact distance, in float64 over eight fixed lanes and without fused multiply-adds that would round: every
// instruction set gives the same bits.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/problem.hpp"

namespace fastspade {

// How a level's pixels lie between its native ones, which decides how native vectors are mixed.
// Where every weight is a multiple of 2^-14, as for ratios that are powers of two, products of weights and float32 are exact
// in float64: then it does not matter who fuses them with an addition.
enum class Mixing : int { none, steps, weights };
constexpr double weight_step = 0x1p-14;

inline Mixing mixing(const AxisTaps& y, const AxisTaps& x) {
    auto between = [](const Tap& tap) { return tap.high_weight != 0.0; };
    auto too_fine = [](const Tap& tap) { return std::fmod(tap.high_weight, weight_step) != 0.0; };
    if (!y.any(between) && !x.any(between)) return Mixing::none;
    return y.any(too_fine) || x.any(too_fine) ? Mixing::steps : Mixing::weights;
}

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
