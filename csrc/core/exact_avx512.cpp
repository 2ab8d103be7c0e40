// Compiled for AVX-512 alone. GCC 12 widens eight floats in two halves unless told to do it in one.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include "core/exact_lanes.hpp"

#define FASTSPADE_CLONES

namespace fastspade {
namespace {

FASTSPADE_INLINE wide load(const float* p) { return reinterpret_cast<wide>(_mm512_cvtps_pd(_mm256_loadu_ps(p))); }

}  // namespace
}  // namespace fastspade

#include "core/exact_kernels.inl"

namespace fastspade {

const ExactKernels& exact_kernels_avx512() {
    static constexpr ExactKernels kernels{mix, widen, add_mixed, add_plain, transpose};
    return kernels;
}

}  // namespace fastspade
