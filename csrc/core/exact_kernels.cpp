#include "core/exact_kernels.hpp"

#include <cstdlib>
#include <cstring>

#include "core/clones.hpp"
#include "core/exact_lanes.hpp"

namespace fastspade {
namespace {

FASTSPADE_INLINE wide widened(narrow v) { return __builtin_convertvector(v, wide); }

}  // namespace
}  // namespace fastspade

#include "core/exact_kernels.inl"

namespace fastspade {

const ExactKernels& exact_kernels() {
    static constexpr ExactKernels common{mix, widen, from_mixed, from_plain, transpose, transpose_wide};
#if defined(FASTSPADE_X86)
    static const ExactKernels& chosen = [&]() -> const ExactKernels& {
        const char* const wanted = std::getenv("FASTSPADE_SIMD");  // as for the search's kernels
        if (wanted && std::strncmp(wanted, "avx512", 6) != 0) return common;
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") ? exact_kernels_avx512() : common;
    }();
    return chosen;
#else
    return common;
#endif
}

}  // namespace fastspade
