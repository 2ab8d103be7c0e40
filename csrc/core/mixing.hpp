// How a level's pixels lie between its native ones, which decides how exact distances mix native vectors.
#pragma once

#include <cmath>

#include "core/problem.hpp"

namespace fastspade {

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

}  // namespace fastspade
