// Eight doubles as one value, spelt out as a vector: left to itself, GCC 12 gathers the lanes one by one.
#pragma once

#include "core/exact_kernels.hpp"

#define FASTSPADE_INLINE inline __attribute__((always_inline))

namespace fastspade {
namespace {

typedef double wide __attribute__((vector_size(8 * exact_lanes)));
typedef double wide_unaligned __attribute__((vector_size(8 * exact_lanes), aligned(8), may_alias));

FASTSPADE_INLINE wide load(const double* p) { return *reinterpret_cast<const wide_unaligned*>(p); }
FASTSPADE_INLINE void store(double* p, wide value) { *reinterpret_cast<wide_unaligned*>(p) = value; }

}  // namespace
}  // namespace fastspade
