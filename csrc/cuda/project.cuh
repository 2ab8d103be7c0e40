// Projections of whole descriptors: 253 directions that hold most of the gallery's variation, found outside (search/cuda.py), and
// the norms of what 63 and all of them leave.
//
// With V the directions, orthonormal, f and g a query and a gallery pixel's descriptors, centred and scaled, a = V^T f, b = V^T
// g, and r(f), r(g) the norms of f - V a and g - V b:   a.b - r(f) r(g) <= <f, g> <= a.b + r(f) r(g). The first 63 coordinates
// and the rest's norm are 64 channels that are searched: one product bounds all that descriptors have in common. A product of 192
// channels more refines it: 190 coordinates, the first rest, with its sign turned on one side, which takes it back, and the last
// rest.
//
// Coordinates a^ that are not a, by rounding to 16 bits or in sums, leave the distance e(f) = |a - a^|, and
//   |a.b - a^.b^| <= |a^| e(g) + e(f) (|b^| + e(g)),
// which joins the terms; rests are rounded up.
#pragma once

#include "cuda/prepare.cuh"

namespace fastspade::cuda {

constexpr int native_pixels = 16, native_channels = 32;  // that project_kernel's blocks take, and sum at a time
constexpr int first_rest = first_directions - 1, turned_rest = directions - 2, last_rest = directions - 1;
// The last column of native projections, which no direction has, holds the vector's norm.
constexpr int native_norm = last_rest;

FASTSPADE_DEVICE float from_operand(const PrepareParameters& p, uint16_t bits) {
    return p.bfloat16 ? bfloat16_to_float(bits) : half_to_float(bits);
}
FASTSPADE_DEVICE uint16_t to_operand(const PrepareParameters& p, float value) {
    return p.bfloat16 ? float_to_bfloat16(value) : float_to_half(value);
}
FASTSPADE_DEVICE uint16_t rounded_up_operand(const PrepareParameters& p, double value) {
    const uint16_t bits = to_operand(p, static_cast<float>(value));
    return from_operand(p, bits) < value ? static_cast<uint16_t>(bits + 1) : bits;
}

struct alignas(16) FourFloats {
    float value[4];
};

// The native pixels of a few images: a block takes some of one level, a thread a direction. Projecting is linear, so levels are
// interpolated afterwards, as their projections.
FASTSPADE_KERNEL(directions, 2) project_kernel(const PrepareParameters p) {
    if (!p.gallery && !tells(p.told)) return;
    constexpr int warps = directions / 32, own = native_pixels / warps;  // pixels whose channels a warp fetches
    auto* const values = reinterpret_cast<float*>(shared_memory());      // (native_channels, native_pixels)
    const int thread = thread_index(), lane = thread & 31, warp = thread >> 5;
    int64_t block = block_index(), before = 0;
    for (int l = p.pyramid.level_count - 1; l >= 0; --l) {
        const LevelView native = as_native(p.pyramid.levels[l]);
        const int pixels = native.height * native.width;
        const int64_t count = p.count * pixels, blocks = (count + native_pixels - 1) / native_pixels;
        if (block >= blocks) {
            block -= blocks;
            before += count;
            continue;
        }
        const int64_t first = block * native_pixels;
        const float *const centre = p.centre + p.centre_offset[l], *const along =
                                                                       p.along +
                                                                       static_cast<int64_t>(p.centre_offset[l]) * directions +
                                                                       thread;
        Sample sample[own];
        float scale[own], squares[own] = {}, sum[native_pixels] = {};
#pragma unroll
        for (int i = 0; i < own; ++i) {
            const int64_t at = first + warp + i * warps < count ? first + warp + i * warps : count - 1, image = at / pixels;
            const int pixel = static_cast<int>(at - image * pixels);
            sample[i] = sample_native(native, p.first + image, pixel / native.width, pixel % native.width);
            scale[i] = p.scale[p.first + image];
        }
        Channels<1, 1> feature[own];  // fetched ahead of its use
        const auto fetch = [&](int c) {
#pragma unroll
            for (int i = 0; i < own; ++i) feature[i].load(native, sample[i], c + lane, 1);
        };
        fetch(0);
        for (int c = 0; c < native.channels; c += native_channels) {
            const int channels = native.channels - c < native_channels ? native.channels - c : native_channels;
            block_barrier();  // the values before have been read
#pragma unroll
            for (int i = 0; i < own; ++i) {
                const double value =
                    lane < channels ? (feature[i].value(native, sample[i], 0) - centre[c + lane]) * scale[i] : 0.0;
                values[lane * native_pixels + warp + i * warps] = static_cast<float>(value);
                squares[i] += static_cast<float>(value * value);
            }
            block_barrier();
            fetch(c + native_channels);
            float part[native_pixels] = {};
#pragma unroll 4
            for (int k = 0; k < channels; ++k) {
                const float direction = along[static_cast<int64_t>(c + k) * directions];
                const auto* const fours = reinterpret_cast<const FourFloats*>(values + k * native_pixels);
#pragma unroll
                for (int i = 0; i < native_pixels; ++i) part[i] += direction * fours[i / 4].value[i % 4];
            }
#pragma unroll
            for (int i = 0; i < native_pixels; ++i) sum[i] += part[i];
        }
        float* const out = p.native + (before + first) * directions;
#pragma unroll
        for (int i = 0; i < native_pixels; ++i)
            if (first + i < count && thread != native_norm) out[i * directions + thread] = sum[i];
#pragma unroll
        for (int i = 0; i < own; ++i) {
            const double norm = sqrt(warp_sum(squares[i])) * (1.0 + 0x1p-18);
            if (lane == 0 && first + warp + i * warps < count)
                out[(warp + i * warps) * directions + native_norm] = static_cast<float>(norm);
        }
        return;
    }
}

// One warp a pixel of the finest grid: interpolates the native projections, and makes operands and terms of them. A lane has four
// directions side by side of each half.
FASTSPADE_KERNEL(prepare_threads, 2) coordinate_kernel(const PrepareParameters p) {
    if (!p.gallery && !tells(p.told)) return;
    constexpr int own = directions / 32;
    const int lane = thread_index() & 31, pixels = p.pyramid.height * p.pyramid.width;
    const int64_t item = static_cast<int64_t>(block_index()) * (prepare_threads / 32) + thread_index() / 32;
    if (item >= p.count * pixels) return;
    const int64_t image = item / pixels, at = p.first * pixels + item;
    const int pixel = static_cast<int>(item - image * pixels), y = pixel / p.pyramid.width, x = pixel - y * p.pyramid.width;
    const auto direction = [&](int i) { return (i & 4) * 32 + 4 * lane + (i & 3); };
    float along[own] = {};
    double native = 0.0;  // the squared norm of native vectors, mixed as they are
    int longest = 0;
    int64_t before = 0;
    for (int l = p.pyramid.level_count - 1; l >= 0; --l) {
        const LevelView& level = p.pyramid.levels[l];
        longest = longest < level.channels ? level.channels : longest;
        const Tap down = axis_tap(y, level.height, p.pyramid.height, p.pyramid.upsample),
                  right = axis_tap(x, level.width, p.pyramid.width, p.pyramid.upsample);
        const float* const from = p.native + (before + image * level.height * level.width) * directions;
        double norm = 0.0;
        for (int k = 0; k < 4; ++k) {
            const float weight = static_cast<float>((k < 2 ? down.low_weight : down.high_weight) *
                                                    (k % 2 == 0 ? right.low_weight : right.high_weight));
            if (weight == 0.0f) continue;  // not read: it could be a value that is not finite
            const float* const row = from + static_cast<int64_t>((k < 2 ? down.low : down.high) * level.width +
                                                                 (k % 2 == 0 ? right.low : right.high)) *
                                                directions;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const FourFloats four = *reinterpret_cast<const FourFloats*>(row + direction(4 * half));
#pragma unroll
                for (int i = 0; i < 4; ++i) along[4 * half + i] += weight * four.value[i];
            }
            norm += weight * row[native_norm];
        }
        native += norm * norm;
        before += p.count * level.height * level.width;
    }
    if (lane == 31) along[own - 1] = 0.0f;  // no direction's
    double first = 0.0, all = 0.0;
#pragma unroll
    for (int i = 0; i < own; ++i) {
        const double square = static_cast<double>(along[i]) * along[i];
        all += square;
        if (direction(i) < first_directions) first += square;
    }
    first = warp_sum(first);
    all = warp_sum(all);
    // Sums of native_channels at a time, in float32, are off by no more than so many roundings of the vectors' norms, a
    // direction; with the directions', of which there are fewer than 16 squared, and the mixing's.
    const double off = sqrt(native) * 0x1p-20 * (native_channels + longest / native_channels + 12);
    const Terms whole = p.terms[at];
    const double square = static_cast<double>(whole.length) * whole.length;
    const auto rest = [&](double inside) {
        const double least = sqrt(inside) * (1.0 - 0x1p-20) - off;
        return sqrt(least > 0.0 ? (square > least * least ? square - least * least : 0.0) + 0x1p-20 * square : square);
    };
    const uint16_t first_bits = rounded_up_operand(p, rest(first)), last_bits = rounded_up_operand(p, rest(all));
    double error = 0.0;
#pragma unroll
    for (int i = 0; i < own; ++i) {
        const int j = direction(i);
        uint16_t bits = to_operand(p, along[i]);
        if (j == first_rest) bits = first_bits;
        if (j == turned_rest) bits = static_cast<uint16_t>(p.gallery ? first_bits : first_bits ^ 0x8000u);
        if (j == last_rest) bits = last_bits;
        if (j != first_rest && j < turned_rest) {
            const double difference = static_cast<double>(along[i]) - from_operand(p, bits);
            error += difference * difference;
        }
        if (j < first_directions)
            p.projected[at * first_directions + j] = bits;
        else
            p.refining[at * more_directions + j - first_directions] = bits;
    }
    constexpr double up = 1.0 + 0x1p-20;
    error = (sqrt(warp_sum(error)) + off) * up;
    if (lane != 0) return;
    // Products' own sums: 2^-19 for every 16 channels of the first operands (prepare.cuh), and a few roundings of the second's.
    const double length = whole.length + error;
    Terms terms;
    terms.norm = static_cast<float>(square * (1.0 - 0x1p-17));  // as prepare.cuh's slack
    terms.operand = static_cast<float>((p.gallery ? length + error : length) * up);
    terms.error = static_cast<float>((p.gallery ? error + 0x1p-19 * (first_directions / 16 + 4) * length : error) * up);
    terms.length = from_operand(p, last_bits);
    p.projected_terms[at] = terms;
}

// Of a sample that is spread evenly (as centre_kernel's).
FASTSPADE_DEVICE int64_t sampled_pixel(const PrepareParameters& p, int64_t i) {
    const int64_t count = p.images * p.pyramid.height * p.pyramid.width;
    return i * (static_cast<int64_t>(0.6180339887498949 * static_cast<double>(count)) | 1) % count;
}

// Counts pairs of gallery pixels of whose distance the first directions tell three quarters and all directions 97 %: what is left
// is estimated by the rests, as if they were orthogonal. One warp a pair.
FASTSPADE_KERNEL(prepare_threads, 1) told_kernel(const PrepareParameters p) {
    const int lane = thread_index() & 31, pair = block_index() * (prepare_threads / 32) + thread_index() / 32;
    const int pixels = p.pyramid.height * p.pyramid.width;
    const int64_t a = sampled_pixel(p, 2 * pair), b = sampled_pixel(p, 2 * pair + 1);
    const double ratio = static_cast<double>(p.scale[a / pixels]) / p.scale[b / pixels];
    double first = 0.0, more = 0.0;
    const auto squared = [&](const uint16_t* operands, int channels, int channel) {
        const double difference =
            from_operand(p, operands[a * channels + channel]) - ratio * from_operand(p, operands[b * channels + channel]);
        return difference * difference;
    };
    for (int c = lane; c < first_rest; c += 32) first += squared(p.projected, first_directions, c);
    for (int c = lane; c < more_directions - 2; c += 32) more += squared(p.refining, more_directions, c);
    first = warp_sum(first);
    const double all = first + warp_sum(more), rest_a = p.projected_terms[a].length, rest_b = ratio * p.projected_terms[b].length;
    const double whole = all + rest_a * rest_a + rest_b * rest_b;
    if (lane == 0 && first >= 0.75 * whole && all >= 0.97 * whole) atomic_add(p.told, 1);
}

}  // namespace fastspade::cuda
