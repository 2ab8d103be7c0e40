// The CUDA engine with its kernels run on the host (simt.hpp), on host memory.
#include "engine.hpp"

#include <cstring>

#include "cuda/sequence.hpp"
#include "kernels.hpp"
#include "simt.hpp"

namespace fastspade::cuda {
FASTSPADE_SM80(extern, HalfOperand)
FASTSPADE_SM80(extern, BFloat16Operand)
FASTSPADE_SM90(extern, HalfOperand)
FASTSPADE_SM90(extern, BFloat16Operand)
}  // namespace fastspade::cuda

namespace fastspade::emulate {

uint64_t seed = 0;
bool dry = false;
cuda::Device device{232448, 8, false};

namespace {

struct HostLauncher {
    template <class Kernel, class Parameters>
    void launch(Kernel kernel, int64_t blocks, int threads, int shared_bytes, const Parameters& parameters) {
        if (dry) return;
        if (shared_bytes > device.shared_bytes)
            throw std::runtime_error("a launch asks for more shared memory than the device has");
        run_grid([&] { kernel(parameters); }, blocks, threads, static_cast<size_t>(shared_bytes), seed);
    }
    void launch_sm90(bool bfloat16, int tile_rows, int64_t blocks, int shared_bytes, const cuda::Sm90Parameters& parameters) {
        using cuda::BFloat16Operand, cuda::HalfOperand, cuda::search_sm90_kernel;
        const auto kernel = tile_rows == 96
                                ? bfloat16 ? search_sm90_kernel<BFloat16Operand, 3> : search_sm90_kernel<HalfOperand, 3>
                            : bfloat16 ? search_sm90_kernel<BFloat16Operand, 4>
                                       : search_sm90_kernel<HalfOperand, 4>;
        launch(kernel, blocks, cuda::sm90_threads, shared_bytes, parameters);
    }
    cuda::TensorMap tensor_map(const cuda::TensorBox& box) { return encode_tensor_map(box); }
    void fill(void* address, int byte, int64_t bytes) {
        if (!dry) std::memset(address, byte, static_cast<size_t>(bytes));
    }
};

}  // namespace

void prepare_gallery(const cuda::OperandLayout& layout, const std::vector<TensorView>& levels, char* base) {
    HostLauncher host;
    cuda::prepare_gallery(host, layout, levels, base);
}

void compare_equals(const cuda::OperandLayout& layout, const std::vector<TensorView>& levels, const int64_t* hashes,
                    const int64_t* order, uint8_t* same) {
    HostLauncher host;
    cuda::compare_equals(host, layout, levels, hashes, order, same);
}

void search(const cuda::OperandLayout& gallery, const cuda::SearchPlan& plan, const cuda::SearchRequest& request) {
    HostLauncher host;
    cuda::search(host, gallery, plan, request);
}

}  // namespace fastspade::emulate
