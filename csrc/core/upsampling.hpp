// Where each output position of an upsampled axis reads from: at most two taps an axis, weights summing to one.
// Positions are those of torch.nn.functional.interpolate (align_corners=False).
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FASTSPADE_HOST_DEVICE __host__ __device__
#else
#define FASTSPADE_HOST_DEVICE
#endif

namespace fastspade {

enum class Upsample : int { nearest = 0, bilinear = 1 };

struct Tap {
    int32_t low = 0;   // first source position
    int32_t high = 0;  // second source position; equals low where one tap carries all the weight
    double low_weight = 1.0;
    double high_weight = 0.0;
};

// a * b + c, rounded twice, on the device too: where it rounds decides which rows are read, and with what weights.
FASTSPADE_HOST_DEVICE inline double product_and_sum(double a, double b, double c) {
#ifdef __CUDA_ARCH__
    return __dadd_rn(__dmul_rn(a, b), c);
#else
    return a * b + c;
#endif
}

FASTSPADE_HOST_DEVICE inline Tap axis_tap(int64_t i, int64_t source, int64_t target, Upsample mode) {
    Tap tap;
    if (source == target) {
        tap.low = tap.high = static_cast<int32_t>(i);
    } else if (mode == Upsample::nearest) {
        // torch computes nearest positions in float32, whatever the tensor's type; so must we, to sample the same.
        const float scale = static_cast<float>(source) / static_cast<float>(target);
        int64_t nearest = static_cast<int64_t>(static_cast<float>(i) * scale);
        if (target == 2 * source) nearest = i >> 1;
        tap.low = tap.high = static_cast<int32_t>(nearest < source ? nearest : source - 1);
    } else {
        const double scale = static_cast<double>(source) / static_cast<double>(target);
        const double unclamped = product_and_sum(scale, static_cast<double>(i) + 0.5, -0.5);
        const double position = unclamped > 0.0 ? unclamped : 0.0;
        const int64_t whole = static_cast<int64_t>(position), low = whole < source ? whole : source - 1;
        tap.low = tap.high = static_cast<int32_t>(low);
        if (low + 1 < source) {
            tap.high = static_cast<int32_t>(low + 1);
            tap.high_weight = position - static_cast<double>(low);
            tap.low_weight = 1.0 - tap.high_weight;
        }
    }
    return tap;
}

}  // namespace fastspade
