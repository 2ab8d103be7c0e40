// Where each output position of an upsampled axis reads from: at most two taps an axis, weights summing to one.
// Positions are those of torch.nn.functional.interpolate (align_corners=False).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace fastspade {

enum class Upsample : int { nearest = 0, bilinear = 1 };

struct Tap {
    int32_t low = 0;   // first source position
    int32_t high = 0;  // second source position; equals low where one tap carries all the weight
    double low_weight = 1.0;
    double high_weight = 0.0;
};

inline std::vector<Tap> axis_taps(int64_t source, int64_t target, Upsample mode) {
    std::vector<Tap> taps(static_cast<size_t>(target));
    for (int64_t i = 0; i < target; ++i) {
        Tap& tap = taps[static_cast<size_t>(i)];
        if (source == target) {
            tap.low = tap.high = static_cast<int32_t>(i);
        } else if (mode == Upsample::nearest) {
            // torch computes nearest positions in float32, whatever the tensor's type; so must we, to sample the same.
            const float scale = static_cast<float>(source) / static_cast<float>(target);
            int64_t place = static_cast<int64_t>(std::floor(static_cast<float>(i) * scale));
            if (target == 2 * source) place = i >> 1;
            tap.low = tap.high = static_cast<int32_t>(std::min(place, source - 1));
        } else {
            const double scale = static_cast<double>(source) / static_cast<double>(target);
            const double place = std::max(0.0, scale * (static_cast<double>(i) + 0.5) - 0.5);
            const int64_t low = std::min(static_cast<int64_t>(place), source - 1);
            tap.low = static_cast<int32_t>(low);
            if (low + 1 < source) {
                tap.high = static_cast<int32_t>(low + 1);
                tap.high_weight = place - static_cast<double>(low);
                tap.low_weight = 1.0 - tap.high_weight;
            } else {
                tap.high = tap.low;
            }
        }
    }
    return taps;
}

}  // namespace fastspade
