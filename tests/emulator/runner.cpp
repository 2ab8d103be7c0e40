// fastspade_emulated: the CUDA engine's functions, with its kernels run on the host (simt.hpp) on host memory.
#include <cstring>

#include "bindings/cuda.hpp"
#include "cuda/search_sm90.cuh"
#include "cuda/sequence.hpp"
#include "simt.hpp"

namespace {

using namespace fastspade;

uint64_t seed = 0;
cuda::Device emulated_device{232448, 8, false};

struct HostLauncher {
    template <class Kernel, class Parameters>
    void launch(Kernel kernel, int64_t blocks, int threads, int shared_bytes, const Parameters& parameters) {
        if (shared_bytes > emulated_device.shared_bytes) throw std::runtime_error("a launch asks for more shared memory than the device has");
        emulate::run_grid([&] { kernel(parameters); }, blocks, threads, static_cast<size_t>(shared_bytes), seed);
    }
    void launch_sm90(bool bfloat16, int64_t blocks, int shared_bytes, const cuda::Sm90Parameters& parameters) {
        launch(bfloat16 ? cuda::search_sm90_kernel<cuda::BFloat16Operand> : cuda::search_sm90_kernel<cuda::HalfOperand>, blocks,
               cuda::sm90_threads, shared_bytes, parameters);
    }
    cuda::TensorMap tensor_map(const cuda::TensorBox& box) { return emulate::encode_tensor_map(box); }
    void fill(void* address, int byte, int64_t bytes) { std::memset(address, byte, static_cast<size_t>(bytes)); }
};

struct EmulatedBackend {
    static cuda::Device limits(int) { return emulated_device; }
    static void prepare_gallery(int, void*, const cuda::OperandLayout& layout, const std::vector<TensorView>& levels, char* base) {
        HostLauncher host;
        cuda::prepare_gallery(host, layout, levels, base);
    }
    static void search(int, void*, const cuda::OperandLayout& gallery, const cuda::SearchPlan& plan, const cuda::SearchRequest& request) {
        HostLauncher host;
        cuda::search(host, gallery, plan, request);
    }
};

}  // namespace

#ifndef FASTSPADE_EMULATED_MODULE
#define FASTSPADE_EMULATED_MODULE fastspade_emulated
#endif

PYBIND11_MODULE(FASTSPADE_EMULATED_MODULE, module) {
    module.doc() = "fastspade's CUDA engine on an emulated device.";
    fastspade::define_cuda<EmulatedBackend>(module);
    module.def("set_seed", [](uint64_t value) { seed = value; });
    module.def("set_device", [](int shared_bytes, int multiprocessors, bool sm90a) {
        emulated_device = {shared_bytes, multiprocessors, sm90a};
    }, pybind11::arg("shared_bytes"), pybind11::arg("multiprocessors"), pybind11::arg("sm90a") = false);
}
