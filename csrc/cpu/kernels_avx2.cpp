#include <cstdint>

#define W 8
#define V 2
#define N 6
#define INTEGERS 0
#include "cpu/kernels_simd.inl"

namespace fastspade::cpu {

const Kernels& avx2_kernels() {
    static constexpr Kernels kernels = table("avx2");
    return kernels;
}

}  // namespace fastspade::cpu
