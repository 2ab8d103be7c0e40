// GCC's own AVX-512 header sets off this warning (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "cpu/kernels.hpp"

namespace fastspade::cpu {
namespace {
constexpr int W = 16, V = 2, N = 14;
}
}  // namespace fastspade::cpu

#define FASTSPADE_INTEGERS 0
#include "cpu/kernels_simd.inl"

namespace fastspade::cpu {

const Kernels& avx512_kernels() {
    static constexpr Kernels kernels = table("avx512");
    return kernels;
}

}  // namespace fastspade::cpu
