// Reading a pyramid as the caller holds it, at any pixel of a grid, by one warp.
#pragma once

#include "cuda/device.cuh"
#include "cuda/parameters.hpp"

namespace fastspade::cuda {

FASTSPADE_DEVICE float load_element(const LevelView& level, int64_t offset) {
    switch (level.dtype) {
        case DType::float16: return half_to_float(static_cast<const uint16_t*>(level.data)[offset]);
        case DType::bfloat16: return bfloat16_to_float(static_cast<const uint16_t*>(level.data)[offset]);
        default: return static_cast<const float*>(level.data)[offset];
    }
}

// Where one pixel of a (height x width) grid reads a level: up to four native positions and their weights.
struct Sample {
    int64_t offset[4];  // into the level, of channel 0
    double weight[4];
    int count;  // one where the pixel falls on a native position
};

FASTSPADE_DEVICE Sample sample_level(const LevelView& level, int64_t image, int pixel, int height, int width, Upsample mode) {
    const int row = pixel / width;
    const Tap y = axis_tap(row, level.height, height, mode);
    const Tap x = axis_tap(pixel - row * width, level.width, width, mode);
    const int64_t base = image * level.stride[0];
    Sample sample;
    sample.offset[0] = base + y.low * level.stride[2] + x.low * level.stride[3];
    sample.offset[1] = base + y.low * level.stride[2] + x.high * level.stride[3];
    sample.offset[2] = base + y.high * level.stride[2] + x.low * level.stride[3];
    sample.offset[3] = base + y.high * level.stride[2] + x.high * level.stride[3];
    sample.weight[0] = y.low_weight * x.low_weight;
    sample.weight[1] = y.low_weight * x.high_weight;
    sample.weight[2] = y.high_weight * x.low_weight;
    sample.weight[3] = y.high_weight * x.high_weight;
    sample.count = y.high_weight == 0.0 && x.high_weight == 0.0 ? 1 : 4;
    return sample;
}

FASTSPADE_DEVICE double sample_channel(const LevelView& level, const Sample& sample, int channel) {
    const int64_t offset = channel * level.stride[1];
    double value = sample.weight[0] * load_element(level, sample.offset[0] + offset);
    if (sample.count == 1) return value;
    for (int i = 1; i < 4; ++i) value += sample.weight[i] * load_element(level, sample.offset[i] + offset);
    return value;
}

FASTSPADE_DEVICE double warp_sum(double value) {
    for (int mask = 16; mask > 0; mask >>= 1) value += warp_shuffle_xor(value, mask);
    return value;
}

// The squared distance between a query pixel and a gallery pixel (SPADE, eq. 3): interpolated in float64, summed in
// float64, in one fixed order. Every value the engine returns comes from here. Called by a whole warp.
FASTSPADE_DEVICE double exact_distance(const PyramidView& query, int64_t query_image, int query_pixel,
                                       const PyramidView& gallery, int64_t image, int pixel, int lane) {
    double sum = 0.0;
    for (int l = 0; l < query.level_count; ++l) {
        const LevelView &a = query.levels[l], &b = gallery.levels[l];
        const Sample from = sample_level(a, query_image, query_pixel, query.height, query.width, query.upsample);
        const Sample to = sample_level(b, image, pixel, gallery.height, gallery.width, gallery.upsample);
        for (int c = lane; c < a.channels; c += 32) {
            const double difference = sample_channel(a, from, c) - sample_channel(b, to, c);
            sum += difference * difference;
        }
    }
    return warp_sum(sum);
}

}  // namespace fastspade::cuda
