// The device intrinsics that kernels use, and nothing else: kernels include this header and name no other intrinsic, so
// that the same sources also run on the host, one fibre per thread, over tests/cuda/emulator/simt.hpp. On the device every
// function is one instruction or a thin wrapper.
#pragma once

#include <cstdint>

#ifdef FASTSPADE_EMULATE
#include "simt.hpp"  // defines everything below for the host
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define FASTSPADE_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define FASTSPADE_DEVICE __device__ __forceinline__

namespace fastspade::cuda {

// --- who am I
FASTSPADE_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
FASTSPADE_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
FASTSPADE_DEVICE int block_count() { return static_cast<int>(gridDim.x); }
FASTSPADE_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }

// The block's dynamic shared memory, 128-byte aligned.
FASTSPADE_DEVICE char* shared_memory() {
    extern __shared__ __align__(128) char fastspade_shared[];
    return fastspade_shared;
}

// --- barriers
FASTSPADE_DEVICE void block_barrier() { __syncthreads(); }
FASTSPADE_DEVICE bool block_any(bool predicate) { return __syncthreads_or(predicate) != 0; }  // a barrier too
FASTSPADE_DEVICE void warp_barrier() { __syncwarp(); }

// --- warp collectives; all 32 lanes take part
FASTSPADE_DEVICE uint32_t warp_ballot(bool predicate) { return __ballot_sync(0xffffffffu, predicate); }
template <class Value>
FASTSPADE_DEVICE Value warp_shuffle(Value value, int lane) {
    return __shfl_sync(0xffffffffu, value, lane);
}
template <class Value>
FASTSPADE_DEVICE Value warp_shuffle_xor(Value value, int mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

// --- atomics
FASTSPADE_DEVICE int atomic_add(int* address, int value) { return atomicAdd(address, value); }
FASTSPADE_DEVICE void atomic_add(int64_t* address, int64_t value) {
    atomicAdd(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value));
}
FASTSPADE_DEVICE uint32_t atomic_min(uint32_t* address, uint32_t value) { return atomicMin(address, value); }
FASTSPADE_DEVICE uint32_t atomic_max(uint32_t* address, uint32_t value) { return atomicMax(address, value); }
FASTSPADE_DEVICE int load_volatile(const int* address) { return *static_cast<const volatile int*>(address); }
FASTSPADE_DEVICE uint32_t load_volatile(const uint32_t* address) { return *static_cast<const volatile uint32_t*>(address); }

// --- bits
FASTSPADE_DEVICE uint32_t float_bits(float value) { return __float_as_uint(value); }
FASTSPADE_DEVICE float bits_float(uint32_t bits) { return __uint_as_float(bits); }
FASTSPADE_DEVICE int count_bits(uint32_t bits) { return __popc(bits); }
FASTSPADE_DEVICE int lowest_bit(uint32_t bits) { return __ffs(static_cast<int>(bits)) - 1; }  // -1 where there is none

// --- float64 whose operations are never fused
FASTSPADE_DEVICE double rounded_sum(double a, double b) { return __dadd_rn(a, b); }
FASTSPADE_DEVICE double rounded_product(double a, double b) { return __dmul_rn(a, b); }
FASTSPADE_DEVICE uint64_t double_bits(double value) { return static_cast<uint64_t>(__double_as_longlong(value)); }

// --- 16-bit floating point, held as its bits
FASTSPADE_DEVICE uint16_t float_to_half(float value) { return __half_as_ushort(__float2half_rn(value)); }
FASTSPADE_DEVICE float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
FASTSPADE_DEVICE uint16_t float_to_bfloat16(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }
FASTSPADE_DEVICE float bfloat16_to_float(uint16_t bits) { return __bfloat162float(__ushort_as_bfloat16(bits)); }
// Two halves in one register; `low` is the one at the lower address.
FASTSPADE_DEVICE uint32_t pack_halves(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}
FASTSPADE_DEVICE void unpack_halves(uint32_t pair, float& low, float& high) {
    const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&pair));
    low = both.x;
    high = both.y;
}

// --- reading what no kernel of the same launch writes: four bytes where `wide`, two where `narrow`, else nothing, as zeros.
// Predicated, so that no branch stands between several such loads.
FASTSPADE_DEVICE uint32_t load_bits(const void* global, bool wide, bool narrow) {
    uint32_t bits;
    asm("{\n.reg .pred w, n;\nsetp.ne.u32 w, %2, 0;\nsetp.ne.u32 n, %3, 0;\nmov.u32 %0, 0;\n"
        "@w ld.global.nc.u32 %0, [%1];\n@n ld.global.nc.u16 %0, [%1];\n}"
        : "=r"(bits)
        : "l"(__cvta_generic_to_global(global)), "r"(static_cast<uint32_t>(wide)), "r"(static_cast<uint32_t>(narrow)));
    return bits;
}

// --- asynchronous copies, global to shared memory, 16 bytes; both addresses 16-byte aligned
FASTSPADE_DEVICE uint32_t shared_address(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }
// Copies where `valid`, else fills with zeros (the source is not read).
FASTSPADE_DEVICE void copy_async(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}
FASTSPADE_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `Pending` of this thread's most recent groups are unfinished.
template <int Pending>
FASTSPADE_DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// --- tensor cores (PTX ISA, "Matrix multiply-accumulate operation using mma instruction", m16n8k16)
// Four 8x8 matrices of 16-bit values; lane i passes the address of row (i mod 8) of matrix (i / 8).
FASTSPADE_DEVICE void load_matrices(uint32_t (&fragment)[4], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

struct HalfOperand {};
struct BFloat16Operand {};

// d += a (16x16, row) * b (16x8, column), float32 accumulation.
FASTSPADE_DEVICE void multiply(HalfOperand, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
FASTSPADE_DEVICE void multiply(BFloat16Operand, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace fastspade::cuda

#endif
