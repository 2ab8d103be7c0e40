// fastspade_emulated: the CUDA engine's functions in Python, on the emulated device.
#include "bindings/cuda.hpp"
#include "engine.hpp"

namespace {

using namespace fastspade;

struct EmulatedBackend {
    static cuda::Device limits(int) { return emulate::device; }
    static void prepare_gallery(int, void*, const cuda::OperandLayout& layout, const std::vector<TensorView>& levels,
                                char* base) {
        emulate::prepare_gallery(layout, levels, base);
    }
    static void compare_equals(int, void*, const cuda::OperandLayout& layout, const std::vector<TensorView>& levels,
                               const int64_t* hashes, const int64_t* order, uint8_t* same) {
        emulate::compare_equals(layout, levels, hashes, order, same);
    }
    static void search(int, void*, const cuda::OperandLayout& gallery, const cuda::SearchPlan& plan,
                       const cuda::SearchRequest& request) {
        emulate::search(gallery, plan, request);
    }
};

}  // namespace

PYBIND11_MODULE(fastspade_emulated, module) {
    module.doc() = "fastspade's CUDA engine on an emulated device.";
    fastspade::define_cuda<EmulatedBackend>(module);
    module.def("set_dry", [](bool value) { emulate::dry = value; });
    module.def("set_seed", [](uint64_t value) { emulate::seed = value; });
    module.def(
        "set_device",
        [](int shared_bytes, int multiprocessors, bool sm90a) { emulate::device = {shared_bytes, multiprocessors, sm90a}; },
        pybind11::arg("shared_bytes"), pybind11::arg("multiprocessors"), pybind11::arg("sm90a") = false);
}
