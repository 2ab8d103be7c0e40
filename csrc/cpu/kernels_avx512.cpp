// GCC's own AVX-512 header sets off this warning (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <cstdint>

#define W 16
#define V 2
#define N 14
#define INTEGERS 0
#include "cpu/kernels_simd.inl"

namespace fastspade::cpu {

const Kernels& avx512_kernels() {
    static constexpr Kernels kernels = table("avx512");
    return kernels;
}

}  // namespace fastspade::cpu
