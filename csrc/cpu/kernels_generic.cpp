#include <cstdint>

#define W 4
#define V 2
#define N 4
#define INTEGERS 0
#include "cpu/kernels_simd.inl"

namespace fastspade::cpu {

const Kernels& generic_kernels() {
    static constexpr Kernels kernels = table("generic");
    return kernels;
}

}  // namespace fastspade::cpu
