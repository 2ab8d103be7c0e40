// The sums behind an exact distance, in float64 over eight fixed lanes and without fused multiply-adds that would round: every
// instruction set gives the same bits.
#pragma once

#include <cstdint>

namespace fastspade {

// Four native vectors (top left, top right, bottom left, bottom right) and how far to go down and to the right.
struct Mixture {
    const float* tap[4];
    double down, right;
};

constexpr int exact_lanes = 8;

struct ExactKernels {
    // out = the mixture (by steps, by weights), or the vector itself.
    void (*mix[2])(const Mixture& mixture, int64_t channels, double* out);
    void (*widen)(const float* vector, int64_t channels, double* out);
    // The squared distance of the query from the mixture, or from the vector itself.
    double (*from_mixed[2])(const Mixture& mixture, const double* query, int64_t channels);
    double (*from_plain)(const float* vector, const double* query, int64_t channels);
    // out[i * out_step + c] = from[c * step + i], i < count, c < channels.
    void (*transpose)(const float* from, int64_t step, int64_t channels, int64_t count, float* out, int64_t out_step);
};

// The fastest table that this processor can run.
const ExactKernels& exact_kernels();

#if defined(FASTSPADE_X86)
const ExactKernels& exact_kernels_avx512();
#endif

}  // namespace fastspade
