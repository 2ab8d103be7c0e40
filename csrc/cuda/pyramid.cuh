// Reading a pyramid as the caller holds it, at any pixel of a grid. Values of several channels are loaded as bits first and
// converted afterwards: so many loads are on their way at once, whatever the element type.
#pragma once

#include "core/exact_kernels.hpp"
#include "cuda/device.cuh"
#include "cuda/parameters.hpp"

namespace fastspade::cuda {

// Where one pixel of a grid reads a level, and how it mixes what it reads: by weights, or by steps down and to the right.
struct Sample {
    const char* tap[4];  // channel 0 of native pixels: top left, top right, bottom left, bottom right
    double factor[4];    // their weights; or how far to go down and to the right
};

FASTSPADE_DEVICE int64_t element_bytes(const LevelView& level) { return level.dtype == DType::float32 ? 4 : 2; }

FASTSPADE_DEVICE Sample sample_native(const LevelView& level, int64_t image, int y, int x) {
    Sample sample{};
    sample.tap[0] = static_cast<const char*>(level.data) +
                    (image * level.stride[0] + y * level.stride[2] + x * level.stride[3]) * element_bytes(level);
    for (int i = 1; i < 4; ++i) sample.tap[i] = sample.tap[0];
    sample.factor[0] = 1.0;
    return sample;
}

// Of pixel (y, x) of a (height x width) grid.
FASTSPADE_DEVICE Sample sample_level(const LevelView& level, int64_t image, int pixel, int height, int width, Upsample mode) {
    const int row = pixel / width;
    const Tap y = axis_tap(row, level.height, height, mode), x = axis_tap(pixel - row * width, level.width, width, mode);
    Sample sample = sample_native(level, image, y.low, x.low);
    if (level.mixing == Mixing::none) return sample;
    // A tap without weight is not read: it could hold a value that is not finite.
    const int64_t right = x.high_weight > 0.0 ? (x.high - x.low) * level.stride[3] * element_bytes(level) : 0;
    const int64_t down = y.high_weight > 0.0 ? (y.high - y.low) * level.stride[2] * element_bytes(level) : 0;
    sample.tap[1] = sample.tap[0] + right;
    sample.tap[2] = sample.tap[0] + down;
    sample.tap[3] = sample.tap[2] + right;
    const bool weights = level.mixing == Mixing::weights;
    sample.factor[0] = weights ? (1.0 - y.high_weight) * (1.0 - x.high_weight) : y.high_weight;
    sample.factor[1] = weights ? (1.0 - y.high_weight) * x.high_weight : x.high_weight;
    sample.factor[2] = y.high_weight * (1.0 - x.high_weight);
    sample.factor[3] = y.high_weight * x.high_weight;
    return sample;
}

// The same level, read where it has native pixels alone.
FASTSPADE_DEVICE LevelView as_native(LevelView level) {
    level.mixing = Mixing::none;
    return level;
}

FASTSPADE_DEVICE double tap_weight(const LevelView& level, const Sample& sample, int i) {
    if (level.mixing != Mixing::steps) return sample.factor[i];
    return (i < 2 ? 1.0 - sample.factor[0] : sample.factor[0]) * (i % 2 == 0 ? 1.0 - sample.factor[1] : sample.factor[1]);
}

// Some channels of one pixel: `first`, `first + step` and so on. Taps is 1 where the level is not mixed, or 4.
template <int Batch, int Taps>
struct Channels {
    uint32_t bits[Batch][Taps];

    // Channels beyond the level's are zeros.
    FASTSPADE_DEVICE void load(const LevelView& level, const Sample& sample, int first, int step) {
        const int64_t stride = level.stride[1] * element_bytes(level);
        const bool wide = level.dtype == DType::float32;
#pragma unroll
        for (int i = 0; i < Batch; ++i)
#pragma unroll
            for (int k = 0; k < Taps; ++k) {
                const int channel = first + i * step;
                const bool real = channel < level.channels;
                bits[i][k] = load_bits(sample.tap[k] + channel * stride, real && wide, real && !wide);
            }
    }

    // As core/exact_kernels.cpp mixes, rounding by rounding.
    FASTSPADE_DEVICE double value(const LevelView& level, const Sample& sample, int i) const {
        double native[Taps];
#pragma unroll
        for (int k = 0; k < Taps; ++k) native[k] = element(level, bits[i][k]);
        if constexpr (Taps == 1) {
            return native[0];
        } else {
            const double* const f = sample.factor;
            if (level.mixing == Mixing::steps) {
                const double top = stepped(native[0], native[1], f[1]), bottom = stepped(native[2], native[3], f[1]);
                return stepped(top, bottom, f[0]);
            }
            const double upper = rounded_sum(rounded_product(f[0], native[0]), rounded_product(f[1], native[1]));
            return rounded_sum(rounded_sum(upper, rounded_product(f[2], native[2])), rounded_product(f[3], native[3]));
        }
    }

  private:
    static FASTSPADE_DEVICE double element(const LevelView& level, uint32_t bits) {
        const float wide = bits_float(level.dtype == DType::bfloat16 ? bits << 16 : bits);
        return static_cast<double>(level.dtype == DType::float16 ? half_to_float(static_cast<uint16_t>(bits)) : wide);
    }
    static FASTSPADE_DEVICE double stepped(double from, double to, double far) {
        return rounded_sum(from, rounded_product(far, rounded_sum(to, -from)));
    }
};

// body(channel, value) for the channels from `first` on, `step` apart, of one pixel.
template <class Body>
FASTSPADE_DEVICE void each_channel(const LevelView& level, const Sample& sample, int first, int step, Body&& body) {
    const auto walk = [&](auto channels) {
        constexpr int batch = sizeof(channels.bits) / sizeof(channels.bits[0]);
        for (int c = first; c < level.channels; c += batch * step) {
            channels.load(level, sample, c, step);
#pragma unroll
            for (int i = 0; i < batch; ++i)
                if (c + i * step < level.channels) body(c + i * step, channels.value(level, sample, i));
        }
    };
    if (level.mixing == Mixing::none)
        walk(Channels<8, 1>{});
    else
        walk(Channels<2, 4>{});
}

// body(channel, value of a, value of b) for the channels from `first` on, `step` apart; a few beyond the last, of zeros, may
// follow.
template <class Body>
FASTSPADE_DEVICE void each_channel_of_both(const LevelView& a, const Sample& from, const LevelView& b, const Sample& to,
                                           int first, int step, Body&& body) {
    const auto walk = [&](auto left, auto right) {
        constexpr int batch = sizeof(left.bits) / sizeof(left.bits[0]);
        for (int c = first; c < a.channels; c += batch * step) {
            left.load(a, from, c, step);
            right.load(b, to, c, step);
#pragma unroll
            for (int i = 0; i < batch; ++i) body(c + i * step, left.value(a, from, i), right.value(b, to, i));
        }
    };
    if (a.mixing == Mixing::none && b.mixing == Mixing::none)
        walk(Channels<8, 1>{}, Channels<8, 1>{});
    else
        walk(Channels<2, 4>{}, Channels<2, 4>{});
}

FASTSPADE_DEVICE double warp_sum(double value) {
    for (int mask = 16; mask > 0; mask >>= 1) value += warp_shuffle_xor(value, mask);
    return value;
}

// The squared distance between a query pixel and a gallery pixel (SPADE, eq. 3), rounded as core/exact.hpp's, operation by
// operation: channel i of a resolution is summed by lane i modulo eight. Called by a whole warp, for a pair every eight lanes.
FASTSPADE_DEVICE double exact_distance(const PyramidView& query, int64_t query_image, int query_pixel, const PyramidView& gallery,
                                       int64_t image, int pixel, int lane) {
    double distance = 0.0, sum = 0.0;
    for (int l = 0; l < query.level_count; ++l) {
        const LevelView &a = query.levels[l], &b = gallery.levels[l];
        const Sample from = sample_level(a, query_image, query_pixel, query.height, query.width, query.upsample);
        const Sample to = sample_level(b, image, pixel, gallery.height, gallery.width, gallery.upsample);
        each_channel_of_both(a, from, b, to, (lane - a.before) & 7, 8, [&](int, double left, double right) {
            const double difference = rounded_sum(left, -right);
            sum = rounded_sum(sum, rounded_product(difference, difference));
        });
        if (l + 1 < query.level_count && query.levels[l + 1].before > 0) continue;  // of the same resolution
        for (int mask = 1; mask < exact_lanes; mask <<= 1) sum = rounded_sum(sum, warp_shuffle_xor(sum, mask));
        distance = rounded_sum(distance, sum);
        sum = 0.0;
    }
    // Squares of finite features do not leave float64; what does is NaN, which sorts first, so that no answer hides it.
    return distance - distance == 0.0 ? distance : bits_float(0x7fc00000u);
}

}  // namespace fastspade::cuda
