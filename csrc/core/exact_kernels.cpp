#include "core/exact_kernels.hpp"

#include "core/clones.hpp"
#include "core/exact_lanes.hpp"

namespace fastspade {
namespace {

typedef float narrow __attribute__((vector_size(4 * exact_lanes)));
typedef float narrow_unaligned __attribute__((vector_size(4 * exact_lanes), aligned(4), may_alias));

FASTSPADE_INLINE wide load(const float* p) {
    return __builtin_convertvector(static_cast<narrow>(*reinterpret_cast<const narrow_unaligned*>(p)), wide);
}

}  // namespace
}  // namespace fastspade

#include "core/exact_kernels.inl"

namespace fastspade {

const ExactKernels& exact_kernels() {
    static constexpr ExactKernels common{mix, widen, add_mixed, add_plain};
#if defined(FASTSPADE_X86)
    static const ExactKernels& chosen = __builtin_cpu_supports("avx512f") ? exact_kernels_avx512() : common;
    return chosen;
#else
    return common;
#endif
}

}  // namespace fastspade
