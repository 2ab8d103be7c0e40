// From a pyramid as the caller holds it to what the search multiplies: centred, scaled 16-bit operands, and per pixel the
// norm and the bounds on what rounding to 16 bits did to it.
//
// Distances do not change when one vector per channel is subtracted from both sides, because interpolation weights sum to
// one: centring removes most of the cancellation in |q|^2 + |r|^2 - 2 <q, r>. Each image is scaled by a power of two of its
// own, which is exact, so that 16-bit floats neither overflow nor lose small images beside large ones.
#pragma once

#include "cuda/candidates.cuh"
#include "cuda/pyramid.cuh"

namespace fastspade::cuda {

constexpr int prepare_threads = 256;

constexpr int64_t centre_samples = 8192;

// A channel's share of a descriptor's hash. Zero and minus zero are equal as features.
FASTSPADE_DEVICE uint64_t mixed_bits(double value, int channel) {
    uint64_t hash = (double_bits(value + 0.0) ^ static_cast<uint64_t>(channel) * 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
    return (hash ^ (hash >> 29)) * 0x94d049bb133111ebull;
}

// The mean of each channel over all images and native pixels: one block per channel, summed in a fixed order. Where they are
// many a sample does, because any centre is right: neighbouring channels share a sector, so one channel of a gallery with
// channels last costs eight times its bytes. Steps of the golden section spread the sample evenly whatever the width.
FASTSPADE_KERNEL(prepare_threads, 1) centre_kernel(const PrepareParameters p) {
    auto* const partial = reinterpret_cast<double*>(shared_memory());
    int level = 0, channel = block_index();
    while (channel >= p.pyramid.levels[level].channels) channel -= p.pyramid.levels[level++].channels;
    const LevelView& view = p.pyramid.levels[level];
    const int64_t pixels = static_cast<int64_t>(view.height) * view.width, count = p.images * pixels;
    const int64_t samples = count < centre_samples ? count : centre_samples;
    const int64_t hop = samples == count ? 1 : static_cast<int64_t>(0.6180339887498949 * static_cast<double>(count)) | 1;
    constexpr int batch = 8;
    double sum = 0.0;
    for (int64_t first = thread_index(); first < samples; first += batch * prepare_threads) {
        Channels<1, 1> values[batch];
#pragma unroll
        for (int k = 0; k < batch; ++k) {
            const int64_t i = first + k * prepare_threads, at = i * hop % count, image = at / pixels, pixel = at - image * pixels;
            values[k].load(view,
                           sample_native(view, image, static_cast<int>(pixel / view.width), static_cast<int>(pixel % view.width)),
                           i < samples ? channel : view.channels, 1);
        }
#pragma unroll
        for (int k = 0; k < batch; ++k) sum += values[k].value(view, Sample{}, 0);
    }
    partial[thread_index()] = sum;
    block_barrier();
    for (int half = prepare_threads / 2; half > 0; half /= 2) {
        if (thread_index() < half) partial[thread_index()] += partial[thread_index() + half];
        block_barrier();
    }
    if (thread_index() == 0) {
        const float mean = static_cast<float>(partial[0] / static_cast<double>(samples));
        // Any centre is right; one that is not finite would spoil every image for one bad value.
        p.centre[p.centre_offset[level] + channel] = mean - mean == 0.0f ? mean : 0.0f;
    }
}

// The largest squared norm of a centred native vector of each image and level: one warp per native pixel.
FASTSPADE_KERNEL(prepare_threads, 1) largest_kernel(const PrepareParameters p) {
    const int lane = thread_index() & 31;
    int64_t item = static_cast<int64_t>(block_index()) * (prepare_threads / 32) + thread_index() / 32;
    for (int l = 0; l < p.pyramid.level_count; ++l) {
        const LevelView native = as_native(p.pyramid.levels[l]);
        const int64_t pixels = static_cast<int64_t>(native.height) * native.width;
        if (item >= p.images * pixels) {
            item -= p.images * pixels;
            continue;
        }
        const int64_t image = item / pixels, pixel = item - image * pixels;
        const Sample sample =
            sample_native(native, image, static_cast<int>(pixel / native.width), static_cast<int>(pixel % native.width));
        double sum = 0.0;
        each_channel(native, sample, lane, 32, [&](int c, double feature) {
            const double value = feature - p.centre[p.centre_offset[l] + c];
            sum += value * value;
        });
        sum = warp_sum(sum);
        // Non-negative floats order as their bits do; a NaN is larger than all of them and says so to scale_of.
        if (lane == 0) atomic_max(p.largest + image * p.pyramid.level_count + l, float_bits(static_cast<float>(sum)));
        return;
    }
}

// The power of two that brings an image's vectors to norms of at most scaled_norm.
FASTSPADE_KERNEL(prepare_threads, 1) scale_kernel(const PrepareParameters p) {
    const int64_t image = static_cast<int64_t>(block_index()) * prepare_threads + thread_index();
    if (image >= p.images) return;
    double sum = 0.0;
    for (int l = 0; l < p.pyramid.level_count; ++l) sum += bits_float(p.largest[image * p.pyramid.level_count + l]);
    // Powers of two between 2^-60 and 2^60: their squares are floats too, and features beyond have no float distances.
    float scale = 1.0f;
    const double limit = static_cast<double>(scaled_norm) * scaled_norm * 0.999;
    if (sum > 0.0 && sum - sum == 0.0) {
        double squared = 1.0;
        while (sum * squared > limit && scale > 0x1p-60f) {
            scale *= 0.5f;
            squared *= 0.25;
        }
        while (sum * squared * 4.0 <= limit && scale < 0x1p60f) {
            scale *= 2.0f;
            squared *= 4.0;
        }
    }
    p.scale[image] = scale;
}

// One warp a (image, group, pixel of the group's grid): interpolate where the level is coarser, centre, scale, round.
FASTSPADE_KERNEL(prepare_threads, 1) operand_kernel(const PrepareParameters p) {
    const int lane = thread_index() & 31;
    int64_t item = static_cast<int64_t>(block_index()) * (prepare_threads / 32) + thread_index() / 32;
    int g = 0;
    for (; g < p.group_count; ++g) {
        const int64_t items = p.images * p.groups[g].height * p.groups[g].width;
        if (item < items) break;
        item -= items;
    }
    if (g == p.group_count) return;
    const OperandGroup& group = p.groups[g];
    const int pixels = group.height * group.width;
    const int64_t image = item / pixels;
    const int pixel = static_cast<int>(item - image * pixels);
    const double scale = p.scale[image];
    uint16_t* const row = group.data + item * group.channels;
    int used = 0;
    for (int l = 0; l < p.pyramid.level_count; ++l) {
        if (p.level_group[l] != g) continue;
        const LevelView& level = p.pyramid.levels[l];
        const bool own_grid = level.height == group.height && level.width == group.width;
        const LevelView view = own_grid ? as_native(level) : level;
        const Sample sample = sample_level(view, image, pixel, group.height, group.width, p.pyramid.upsample);
        each_channel(view, sample, lane, 32, [&](int c, double feature) {
            const float rounded = static_cast<float>((feature - p.centre[p.centre_offset[l] + c]) * scale);
            row[p.level_offset[l] + c] = p.bfloat16 ? float_to_bfloat16(rounded) : float_to_half(rounded);
        });
        used += view.channels;
    }
    for (int c = used + lane; c < group.channels; c += 32) row[c] = 0;
}

// One warp per pixel of the finest grid: its norm, and how far the operands' own interpolation is from it.
//
// With q^, r^ the vectors that the operands hold, by Cauchy and Schwarz
//   |<q, r> - <q^, r^>| <= |q - q^| |r| + |q^| |r - r^|.
// On top come the sums in the tensor cores (float32, possibly truncating, 16 products per instruction) and the rounding
// of coarse Gram values to 16 bits before they are interpolated; both are shares of |q^| times the interpolated norms of
// the native gallery vectors (the triangle inequality), so they join |r - r^|.
FASTSPADE_KERNEL(prepare_threads, 1) terms_kernel(const PrepareParameters p) {
    const int lane = thread_index() & 31;
    const int64_t item = static_cast<int64_t>(block_index()) * (prepare_threads / 32) + thread_index() / 32;
    const int pixels = p.pyramid.height * p.pyramid.width;
    if (item >= p.images * pixels) return;
    const int64_t image = item / pixels;
    const int pixel = static_cast<int>(item - image * pixels);
    const double scale = p.scale[image];
    double norm = 0.0, residual = 0.0, operand = 0.0, coarse = 0.0;
    uint64_t hash = 0;
    int longest = 0;
    for (int g = 0; g < p.group_count; ++g) {
        const OperandGroup& group = p.groups[g];
        longest = longest < group.channels ? group.channels : longest;
        LevelView grid{group.data,
                       {static_cast<int64_t>(group.height) * group.width * group.channels, 1,
                        static_cast<int64_t>(group.width) * group.channels, group.channels},
                       p.bfloat16 ? DType::bfloat16 : DType::float16,
                       group.mixing,
                       group.channels,
                       group.height,
                       group.width,
                       0};
        const Sample held = sample_level(grid, image, pixel, p.pyramid.height, p.pyramid.width, p.pyramid.upsample);
        for (int l = 0; l < p.pyramid.level_count; ++l) {
            if (p.level_group[l] != g) continue;
            const LevelView& view = p.pyramid.levels[l];
            const Sample sample = sample_level(view, image, pixel, p.pyramid.height, p.pyramid.width, p.pyramid.upsample);
            Sample part = held;
            for (const char*& tap : part.tap) tap += p.level_offset[l] * 2;
            each_channel_of_both(view, sample, grid, part, lane, 32, [&](int c, double feature, double operand_value) {
                if (c >= view.channels) return;
                const double value = (feature - p.centre[p.centre_offset[l] + c]) * scale;
                const double difference = value - operand_value;
                norm += value * value;
                residual += difference * difference;
                hash += mixed_bits(feature, p.centre_offset[l] + c);
            });
        }
        double native = 0.0;  // the interpolated norm of the group's native operand vectors
        const int taps = grid.mixing == Mixing::none ? 1 : 4;
        for (int i = 0; i < taps; ++i) {
            Sample one = held;
            one.tap[0] = held.tap[i];
            double squares = 0.0;
            each_channel(as_native(grid), one, lane, 32, [&](int, double value) { squares += value * value; });
            native += tap_weight(grid, held, i) * sqrt(warp_sum(squares));
        }
        operand += native * native;
        if (group.height != p.pyramid.height || group.width != p.pyramid.width) coarse += native * native;
    }
    norm = warp_sum(norm);
    residual = sqrt(warp_sum(residual));
    for (int mask = 16; mask > 0; mask >>= 1) hash += warp_shuffle_xor(hash, mask);
    if (lane != 0) return;
    if (p.hashes) p.hashes[item] = hash;
    operand = sqrt(operand);
    constexpr double up = 1.0 + 0x1p-20;  // covers the rounding of what follows, and of these terms to float32
    const double accumulated = 0x1p-19 * (longest / 16 + 16);   // with those of projections (project.cuh)
    const double slack = 0x1p-19 * (norm + operand * operand);  // of the norm's rounding and the epilogue's additions
    Terms terms;
    terms.norm = static_cast<float>(norm - slack);
    terms.length = static_cast<float>(sqrt(norm) * up);
    const double error = p.gallery ? residual + accumulated * operand + 0x1p-11 * sqrt(coarse) : residual;
    terms.operand = static_cast<float>((p.gallery ? operand + residual : operand) * up);
    terms.error = static_cast<float>(error * up);
    p.terms[item] = terms;
}

}  // namespace fastspade::cuda
