// Eight doubles or floats as one value, spelt out as vectors: left to itself, GCC 12 gathers the lanes one by one.
#pragma once

#include "core/exact_kernels.hpp"

#define FASTSPADE_INLINE inline __attribute__((always_inline))

namespace fastspade {
namespace {

typedef double wide __attribute__((vector_size(8 * exact_lanes)));
typedef double wide_unaligned __attribute__((vector_size(8 * exact_lanes), aligned(8), may_alias));

typedef float narrow __attribute__((vector_size(4 * exact_lanes)));
typedef int32_t lane_order __attribute__((vector_size(4 * exact_lanes)));
typedef float narrow_unaligned __attribute__((vector_size(4 * exact_lanes), aligned(4), may_alias));

FASTSPADE_INLINE wide load(const double* p) { return *reinterpret_cast<const wide_unaligned*>(p); }
FASTSPADE_INLINE void store(double* p, wide value) { *reinterpret_cast<wide_unaligned*>(p) = value; }
FASTSPADE_INLINE narrow load_narrow(const float* p) { return *reinterpret_cast<const narrow_unaligned*>(p); }
FASTSPADE_INLINE void store(float* p, narrow value) { *reinterpret_cast<narrow_unaligned*>(p) = value; }

#if defined(__clang__)
#define FASTSPADE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FASTSPADE_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, lane_order{__VA_ARGS__})
#endif

}  // namespace
}  // namespace fastspade
