#include "cpu/kernels.hpp"

namespace fastspade::cpu {
namespace {
constexpr int W = 4, V = 2, N = 4;
}
}  // namespace fastspade::cpu

#define FASTSPADE_INTEGERS 0
#include "cpu/kernels_simd.inl"

namespace fastspade::cpu {

const Kernels& generic_kernels() {
    static constexpr Kernels kernels = table("generic");
    return kernels;
}

}  // namespace fastspade::cpu
