// Bounds on what float32 rounding can do to a screened distance.
//
// Every screened distance is n(q) + n(r) - 2 <q, r>, each term a sum over one level's C channels in runs of `run_length`.
// With s the interpolated norms of the native vectors (an upper bound on the norm of the interpolated vector, by the
// triangle inequality), each level's error is at most u * (run_length + C / run_length + slack) * (s(q) + s(r))^2, the
// standard bound for blocked summation (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). `slack`
// covers the centring, the interpolation weights, and the handful of additions at the end, and that distances which round
// to the same float32 are ties.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastspade {

constexpr int run_length = 128;

inline double rounding_factor(int64_t channels) {
    constexpr double unit = 0x1p-24;
    constexpr double slack = 42.0;
    const double run = static_cast<double>(std::min<int64_t>(channels, run_length));
    const double runs = static_cast<double>((channels + run_length - 1) / run_length);
    return unit * (run + runs + slack);
}

}  // namespace fastspade
