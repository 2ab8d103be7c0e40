#include "core/exact_kernels.hpp"

#include <cstdlib>
#include <cstring>

#include "core/clones.hpp"
#include "core/exact_lanes.hpp"

namespace fastspade {
namespace {

FASTSPADE_INLINE wide widened(narrow v) { return __builtin_convertvector(v, wide); }
FASTSPADE_INLINE wide add_exact(double a, wide b, wide c) { return c + a * b; }

}  // namespace
}  // namespace fastspade

#include "core/exact_kernels.inl"

namespace fastspade {

const ExactKernels& exact_kernels() {
#if defined(FASTSPADE_X86)
    static const ExactKernels& chosen = [&]() -> const ExactKernels& {
        const char* const wanted = std::getenv("FASTSPADE_SIMD");  // as for the search's kernels
        if (wanted && std::strncmp(wanted, "avx512", 6) != 0) return exact_table;
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") ? exact_kernels_avx512() : exact_table;
    }();
    return chosen;
#else
    return exact_table;
#endif
}

}  // namespace fastspade
