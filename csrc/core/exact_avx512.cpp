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

FASTSPADE_INLINE wide widened(narrow v) { return reinterpret_cast<wide>(_mm512_cvtps_pd(reinterpret_cast<__m256>(v))); }
FASTSPADE_INLINE wide add_exact(double a, wide b, wide c) {
    return reinterpret_cast<wide>(_mm512_fmadd_pd(_mm512_set1_pd(a), reinterpret_cast<__m512d>(b), reinterpret_cast<__m512d>(c)));
}

}  // namespace
}  // namespace fastspade

#include "core/exact_kernels.inl"

namespace fastspade {

const ExactKernels& exact_kernels_avx512() { return exact_table; }

}  // namespace fastspade
