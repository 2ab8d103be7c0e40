// The intrinsics of sm_90a beyond device.cuh's: mbarriers, bulk tensor copies, warpgroup matrix products, named barriers. On
// the host tests/cuda/emulator/simt_hopper.hpp defines them. Formats and layouts are the PTX ISA's ("Asynchronous warpgroup level
// matrix instructions", "Tensor", "mbarrier").
#pragma once

#include "cuda/device.cuh"
#include "cuda/tensor_map.hpp"

#ifdef FASTSPADE_EMULATE
#include "simt_hopper.hpp"
#else

#define FASTSPADE_BY_REFERENCE const __grid_constant__  // a kernel's parameter whose address the kernel may take

namespace fastspade::cuda {

// The block's dynamic shared memory, aligned as swizzled boxes need it.
FASTSPADE_DEVICE char* shared_memory_of_boxes() {
    extern __shared__ __align__(1024) char fastspade_shared_boxes[];
    return fastspade_shared_boxes;
}

// --- mbarriers: a phase ends when its arrivals have arrived and its expected bytes have landed
FASTSPADE_DEVICE void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Between the initialisations and the barrier of the block that lets others use them.
FASTSPADE_DEVICE void mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
FASTSPADE_DEVICE void mbarrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
FASTSPADE_DEVICE void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Returns once the phase of this parity has ended; a new barrier counts as having just ended a phase of parity 1.
FASTSPADE_DEVICE void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
    uint32_t ended;
    do {
        asm volatile(
            "{\n.reg .pred ended;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
            "selp.u32 %0, 1, 0, ended;\n}"
            : "=r"(ended)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
    } while (!ended);
}

// --- bulk tensor copies: one thread starts a box's copy; its bytes are credited to the mbarrier as they land
FASTSPADE_DEVICE void tensor_load(void* shared, const TensorMap& map, uint64_t* barrier, int32_t x, int32_t y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(shared)),
        "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y)
        : "memory");
}
FASTSPADE_DEVICE void tensor_load(void* shared, const TensorMap& map, uint64_t* barrier, int32_t x, int32_t y, int32_t z,
                                  int32_t w) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::
            "r"(shared_address(shared)),
        "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
        : "memory");
}
FASTSPADE_DEVICE void tensor_map_prefetch(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// --- barriers of part of a block: whole warps, `threads` in all; id 1 to 15
FASTSPADE_DEVICE void group_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
FASTSPADE_DEVICE bool group_any(int id, int threads, bool predicate) {
    uint32_t any;
    asm volatile(
        "{\n.reg .pred mine, any;\n"
        "setp.ne.u32 mine, %1, 0;\n"
        "bar.red.or.pred any, %2, %3, mine;\n"
        "selp.u32 %0, 1, 0, any;\n}"
        : "=r"(any)
        : "r"(static_cast<uint32_t>(predicate)), "r"(id), "r"(threads)
        : "memory");
    return any != 0;
}

// --- registers per thread, for all warps of a warpgroup
template <int Registers>
FASTSPADE_DEVICE void registers_grow() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
FASTSPADE_DEVICE void registers_shrink() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

// --- products of a warpgroup (four warps), m64n128k16 and m64n96k16
// An operand in shared memory: rows of 128 bytes in groups of eight (1024 bytes, swizzled by 128 bytes as tensor_load leaves
// them), groups `group_stride` bytes apart. Groups are 1024-byte aligned; the next 16 channels are 32 bytes further.
FASTSPADE_DEVICE uint64_t operand_descriptor(const void* shared, int group_stride) {
    constexpr uint64_t swizzle_128 = 1ull << 62, unused_stride = 1ull << 16;
    return swizzle_128 | unused_stride | static_cast<uint64_t>(group_stride >> 4) << 32 |
           ((shared_address(shared) & 0x3ffffu) >> 4);
}
constexpr uint64_t operand_next_channels = 32 >> 4;  // added to a descriptor

// Between other uses of the accumulators and the products that use them.
FASTSPADE_DEVICE void product_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
FASTSPADE_DEVICE void product_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `Pending` of the most recent groups are unfinished. Accumulators are not to be touched before.
template <int Pending>
FASTSPADE_DEVICE void product_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// Keeps the compiler from moving uses of the accumulators across a fence or wait; no instruction.
template <int Count>
FASTSPADE_DEVICE void product_pin(float (&d)[Count]) {
#pragma unroll
    for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// d = a (64 rows) * b (128 or 96 rows, transposed) [+ d], float32 accumulation. Element i of a thread: row 16 * warp +
// lane / 4 + 8 * ((i / 2) % 2), column 8 * (i / 4) + 2 * (lane % 4) + i % 2.
#define FASTSPADE_16_OPERANDS(d, i)                                                                                             \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7]), \
        "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), "+f"(d[i + 12]), "+f"(d[i + 13]), "+f"(d[i + 14]),    \
        "+f"(d[i + 15])
#define FASTSPADE_PRODUCT(Operand, type)                                                                     \
    FASTSPADE_DEVICE void multiply_async(Operand, float (&d)[64], uint64_t a, uint64_t b, bool accumulate) { \
        asm volatile(                                                                                        \
            "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %66, 0;\n"                                   \
            "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                     \
            " {"                                                                                             \
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                         \
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "               \
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "               \
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "              \
            "%64, %65, accumulate, 1, 1, 0, 0;\n}"                                                           \
            : FASTSPADE_16_OPERANDS(d, 0), FASTSPADE_16_OPERANDS(d, 16), FASTSPADE_16_OPERANDS(d, 32),       \
              FASTSPADE_16_OPERANDS(d, 48)                                                                   \
            : "l"(a), "l"(b), "r"(static_cast<int32_t>(accumulate)));                                        \
    }                                                                                                        \
    FASTSPADE_DEVICE void multiply_async(Operand, float (&d)[48], uint64_t a, uint64_t b, bool accumulate) { \
        asm volatile(                                                                                        \
            "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %50, 0;\n"                                   \
            "wgmma.mma_async.sync.aligned.m64n96k16.f32." type "." type                                      \
            " {"                                                                                             \
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                         \
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "               \
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "              \
            "%48, %49, accumulate, 1, 1, 0, 0;\n}"                                                           \
            : FASTSPADE_16_OPERANDS(d, 0), FASTSPADE_16_OPERANDS(d, 16), FASTSPADE_16_OPERANDS(d, 32)        \
            : "l"(a), "l"(b), "r"(static_cast<int32_t>(accumulate)));                                        \
    }
FASTSPADE_PRODUCT(HalfOperand, "f16")
FASTSPADE_PRODUCT(BFloat16Operand, "bf16")
#undef FASTSPADE_PRODUCT
#undef FASTSPADE_16_OPERANDS

}  // namespace fastspade::cuda

#endif
