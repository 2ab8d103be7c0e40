// Adds the CUDA engine to fastspade._engine; compiled only where there is one.
#include "bindings/cuda.hpp"

#include <map>
#include <mutex>

#include "cuda/engine.hpp"

namespace fastspade {

namespace {

struct CudaBackend {
    static cuda::DeviceProperties properties(int device) {
        static std::mutex guard;
        static std::map<int, cuda::DeviceProperties> known;
        const std::lock_guard<std::mutex> hold(guard);
        const auto found = known.find(device);
        return found != known.end() ? found->second : known[device] = cuda::device_properties(device);
    }
    static cuda::Device limits(int device) { return properties(device).limits; }
    static void prepare_gallery(int device, void* stream, const cuda::OperandLayout& layout,
                                const std::vector<TensorView>& levels, char* base) {
        cuda::prepare_gallery(device, stream, layout, levels, base);
    }
    static void compare_equals(int device, void* stream, const cuda::OperandLayout& layout, const std::vector<TensorView>& levels,
                               const int64_t* hashes, const int64_t* order, uint8_t* same) {
        cuda::compare_equals(device, stream, layout, levels, hashes, order, same);
    }
    static void search(int device, void* stream, const cuda::OperandLayout& gallery, const cuda::SearchPlan& plan,
                       const cuda::SearchRequest& request) {
        cuda::search(device, stream, gallery, plan, request);
    }
};

}  // namespace

void define_cuda_engine(pybind11::module_& module) {
    pybind11::register_exception<cuda::CudaError>(module, "CudaError", PyExc_RuntimeError);
    pybind11::register_exception<cuda::CudaOutOfMemory>(module, "CudaOutOfMemory", module.attr("CudaError"));
    module.def(
        "cuda_compute_capability", [](int device) { return CudaBackend::properties(device).compute_capability; },
        pybind11::arg("device"));
    module.def("cuda_versions", [] {
        const cuda::CudaVersions versions = cuda::cuda_versions();
        return std::array<int, 3>{versions.toolkit, versions.runtime, versions.driver};
    });
    define_cuda<CudaBackend>(module);
}

}  // namespace fastspade
