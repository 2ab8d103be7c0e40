// Projections of the finest group: 31 principal directions and the norm of what is left, 32 channels in place of all.
//
// With V the directions, orthonormal, f and g a query and a gallery pixel's 16-bit operands, a = V^T f, b = V^T g, and r(f), r(g)
// the norms of f - V a and g - V b: <f, g> <= a.b + r(f) r(g), which is one product. a and b are rounded to 16 bits in turn, r(f)
// and r(g) rounded up; what that does to the product is at most |a^| |b - b^| + |a - a^| |b| and joins the terms.
#pragma once

#include "cuda/prepare.cuh"

namespace fastspade::cuda {

constexpr int direction_samples = 256, orthonormal_threads = 1024;
constexpr int pixels_a_warp = 4;  // that project_kernel takes: the directions are read once for them
constexpr int last_projected = projected_channels - 1;

FASTSPADE_DEVICE float from_operand(const PrepareParameters& p, uint16_t bits) {
    return p.bfloat16 ? bfloat16_to_float(bits) : half_to_float(bits);
}

// The finest group's operands of a pixel of a sample that is spread evenly (as centre_kernel's).
FASTSPADE_DEVICE int64_t sampled_pixel(const PrepareParameters& p, int64_t i) {
    const int64_t count = p.images * p.pyramid.height * p.pyramid.width;
    return i * (static_cast<int64_t>(0.6180339887498949 * static_cast<double>(count)) | 1) % count;
}
FASTSPADE_DEVICE double sampled(const PrepareParameters& p, int64_t pixel, int channel) {
    const double value = from_operand(p, p.groups[0].data[pixel * p.groups[0].channels + channel]);
    return value * value <= 4.0 * scaled_norm * scaled_norm ? value : 0.0;  // images that are not finite are not scaled
}

// One block a direction: a sampled vector, multiplied once by the sample's covariance. Any directions are right; these hold
// nearly what the principal ones do, because the vectors themselves lie along those already.
FASTSPADE_KERNEL(prepare_threads, 1) direction_kernel(const PrepareParameters p) {
    auto* const along = reinterpret_cast<double*>(shared_memory());
    const int lane = thread_index() & 31, channels = p.groups[0].channels;
    const int64_t own = sampled_pixel(p, block_index());
    for (int s = thread_index() / 32; s < direction_samples; s += prepare_threads / 32) {
        const int64_t pixel = sampled_pixel(p, s);
        double sum = 0.0;
        for (int c = lane; c < channels; c += 32) sum += sampled(p, pixel, c) * sampled(p, own, c);
        sum = warp_sum(sum);
        if (lane == 0) along[s] = sum;
    }
    block_barrier();
    for (int c = thread_index(); c < channels; c += prepare_threads) {
        double sum = 0.0;
        for (int s = 0; s < direction_samples; ++s) sum += along[s] * sampled(p, sampled_pixel(p, s), c);
        p.directions[static_cast<int64_t>(c) * projected_channels + block_index()] = block_index() < last_projected ? sum : 0.0;
    }
}

// Gram-Schmidt, each direction twice; those that vanish become zeros. One block; for products a lane is a direction and a warp
// has every 32nd channel, for changes a thread has a channel.
FASTSPADE_KERNEL(orthonormal_threads, 1) orthonormal_kernel(const PrepareParameters p) {
    constexpr int warps = orthonormal_threads / 32;
    auto* const partial = reinterpret_cast<double*>(shared_memory());
    double* const along = partial + orthonormal_threads;
    const int lane = thread_index() & 31, warp = thread_index() / 32, channels = p.groups[0].channels;
    const auto row = [&](int c) { return p.directions + static_cast<int64_t>(c) * projected_channels; };
    // Every direction times direction j, to `along`.
    const auto multiply = [&](int j) {
        double sum = 0.0;
        for (int c = warp; c < channels; c += warps) sum += row(c)[lane] * row(c)[j];
        partial[thread_index()] = sum;
        block_barrier();
        if (warp == 0) {
            sum = 0.0;
            for (int w = 0; w < warps; ++w) sum += partial[w * 32 + lane];
            along[lane] = sum;
        }
        block_barrier();
    };
    for (int j = 0; j < last_projected; ++j) {
        double before = 0.0;
        for (int pass = 0; pass < 2; ++pass) {
            multiply(j);
            if (pass == 0) before = along[j];
            for (int c = thread_index(); c < channels; c += orthonormal_threads) {
                double value = row(c)[j];
                for (int i = 0; i < j; ++i) value -= along[i] * row(c)[i];
                row(c)[j] = value;
            }
            block_barrier();
        }
        multiply(j);
        const double norm = along[j], factor = norm > 1e-12 * before && norm > 0.0 ? 1.0 / sqrt(norm) : 0.0;
        for (int c = thread_index(); c < channels; c += orthonormal_threads) row(c)[j] *= factor;
        block_barrier();
    }
}

// One warp a few pixels, a lane a direction. Sums are float64: what they and the directions are off by is far below the
// accumulation errors that terms_kernel allows for.
FASTSPADE_KERNEL(prepare_threads, 3) project_kernel(const PrepareParameters p) {
    if (!p.gallery && !tells(p.told)) return;
    const int lane = thread_index() & 31, channels = p.groups[0].channels;
    const int64_t first = (static_cast<int64_t>(block_index()) * (prepare_threads / 32) + thread_index() / 32) * pixels_a_warp;
    const int64_t count = p.images * p.pyramid.height * p.pyramid.width;
    double along[pixels_a_warp] = {}, squares[pixels_a_warp] = {};
    for (int c = 0; c < channels; c += 32) {  // a multiple of 64
        float value[pixels_a_warp];
#pragma unroll
        for (int i = 0; i < pixels_a_warp; ++i) {
            const int64_t pixel = first + i < count ? first + i : count - 1;
            value[i] = from_operand(p, p.groups[0].data[pixel * channels + c + lane]);
            squares[i] += static_cast<double>(value[i]) * value[i];
        }
#pragma unroll 4
        for (int k = 0; k < 32; ++k) {
            const double direction = p.directions[static_cast<int64_t>(c + k) * projected_channels + lane];
#pragma unroll
            for (int i = 0; i < pixels_a_warp; ++i) along[i] += direction * warp_shuffle(value[i], k);
        }
    }
#pragma unroll
    for (int i = 0; i < pixels_a_warp; ++i) {
        const int64_t pixel = first + i;
        if (pixel >= count) return;
        const double norm = warp_sum(squares[i]), inside = warp_sum(along[i] * along[i]);
        const double rest = sqrt((norm > inside ? norm - inside : 0.0) + 0x1p-32 * norm) * (1.0 + 0x1p-20);
        const double wanted = lane == last_projected ? rest : along[i];
        uint16_t bits = p.bfloat16 ? float_to_bfloat16(static_cast<float>(wanted)) : float_to_half(static_cast<float>(wanted));
        if (lane == last_projected && from_operand(p, bits) < wanted) ++bits;  // the next larger
        p.projected.data[pixel * projected_channels + lane] = bits;
        const double held = from_operand(p, bits), off = lane == last_projected ? 0.0 : wanted - held;
        const double error = sqrt(warp_sum(off * off)), longer = sqrt(warp_sum(held * held)) - sqrt(norm);
        if (lane != 0) continue;
        constexpr double up = 1.0 + 0x1p-20;
        Terms terms = p.terms[pixel];
        const double growth = longer > 0.0 ? longer : 0.0;  // of the operand's norm
        terms.operand = static_cast<float>((terms.operand + growth) * up);
        terms.error = static_cast<float>((terms.error + error) * up);
        p.projected_terms[pixel] = terms;
    }
}

// Counts pairs of gallery pixels, others than the directions are made of, of whose distance in all levels projections leave a
// tenth untold at most. One warp a pair.
FASTSPADE_KERNEL(prepare_threads, 2) told_kernel(const PrepareParameters p) {
    const int lane = thread_index() & 31, pair = block_index() * (prepare_threads / 32) + thread_index() / 32;
    const int pixels = p.pyramid.height * p.pyramid.width;
    const int64_t a = sampled_pixel(p, direction_samples + 2 * pair), b = sampled_pixel(p, direction_samples + 2 * pair + 1);
    const double scale = p.scale[a / pixels], ratio = scale / p.scale[b / pixels];
    double untold = 0.0;
    for (int c = lane; c < p.groups[0].channels; c += 32) {
        const double difference = sampled(p, a, c) - ratio * sampled(p, b, c);
        untold += difference * difference;
    }
    const double told = from_operand(p, p.projected.data[a * projected_channels + lane]) -
                        ratio * from_operand(p, p.projected.data[b * projected_channels + lane]);
    untold = warp_sum(untold - told * told);
    const double whole = exact_distance(p.pyramid, a / pixels, static_cast<int>(a % pixels), p.pyramid, b / pixels,
                                        static_cast<int>(b % pixels), lane);
    if (lane == 0 && untold <= 0.1 * scale * scale * whole) atomic_add(p.told, 1);
}

}  // namespace fastspade::cuda
