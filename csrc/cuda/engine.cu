// Launches on the CUDA runtime, every call checked.
#include "cuda/engine.hpp"

#include <functional>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>

#include "cuda/engine_sm90.hpp"
#include "cuda/sequence.hpp"
#include "cuda/way_out.hpp"

namespace fastspade::cuda {

#ifdef FASTSPADE_WITH_SM90A
constexpr bool with_sm90a = true;
#else
constexpr bool with_sm90a = false;
const void* search_sm90_kernel_of(bool, int) { return nullptr; }
TensorMap encode_tensor_map(const TensorBox&, const std::function<std::string()>&) { return {}; }
#endif

namespace {

std::string text_of(const std::vector<TensorView>& levels) {
    std::ostringstream text;
    for (const TensorView& level : levels)
        text << "(" << level.images() << ", " << level.channels() << ", " << level.height() << ", " << level.width() << ") ";
    return text.str();
}

// Runs on one device and stream; restores the caller's device at the end.
class Stream {
  public:
    Stream(int device, void* stream, std::function<std::string()> subject)
        : device_(device), stream_(static_cast<cudaStream_t>(stream)), subject_(std::move(subject)) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        if (before_ != device_) check(cudaSetDevice(device_), "cudaSetDevice");
    }
    ~Stream() {
        if (before_ != device_) cudaSetDevice(before_);
    }

    template <class Kernel, class Parameters>
    void launch(Kernel kernel, int64_t blocks, int threads, int shared_bytes, const Parameters& parameters) {
        if (blocks == 0) return;
        if (blocks > 0x7fffffff)
            throw CudaError("a launch of " + std::to_string(blocks) + " blocks is too large for " + subject_());
        if (shared_bytes > 48 * 1024) allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
        kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), static_cast<size_t>(shared_bytes), stream_>>>(
            parameters);
        check(cudaGetLastError(), "kernel launch");
    }

    void launch_sm90(bool bfloat16, int tile_rows, int64_t blocks, int shared_bytes, const Sm90Parameters& parameters) {
        const void* const kernel = with_sm90a ? search_sm90_kernel_of(bfloat16, tile_rows) : nullptr;
        if (!kernel) throw CudaError("this build has no code for sm_90a");
        allow_shared(kernel, shared_bytes);
        void* arguments[] = {const_cast<Sm90Parameters*>(&parameters)};
        check(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(sm90_block_threads), arguments,
                               static_cast<size_t>(shared_bytes), stream_),
              "cudaLaunchKernel");
    }

    TensorMap tensor_map(const TensorBox& box) const {
        return encode_tensor_map(box, [this] { return where(); });
    }

    void fill(void* address, int byte, int64_t bytes) {
        check(cudaMemsetAsync(address, byte, static_cast<size_t>(bytes), stream_), "cudaMemsetAsync");
    }

    void check(cudaError_t status, const char* call) const {
        if (status == cudaSuccess) return;
        cudaGetLastError();  // clears what is not sticky, so that the next call starts clean
        const std::string message = std::string(call) + " failed: " + cudaGetErrorName(status) + " (" +
                                    cudaGetErrorString(status) + ")" + where() + way_out(status);
        if (status == cudaErrorMemoryAllocation) throw CudaOutOfMemory(message);
        throw CudaError(message);
    }

  private:
    std::string where() const { return " on device " + std::to_string(device_) + ", " + subject_(); }

    // Above 48 KiB a kernel must be told, once per device and size.
    void allow_shared(const void* kernel, int bytes) {
        static std::mutex guard;
        static std::set<std::pair<const void*, std::pair<int, int>>> allowed;
        const std::lock_guard<std::mutex> hold(guard);
        if (allowed.count({kernel, {device_, bytes}})) return;
        // The largest so far stays: a smaller search after a larger one must not lower it under a running launch.
        for (const auto& [known, where] : allowed)
            if (known == kernel && where.first == device_ && where.second >= bytes) return;
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "cudaFuncSetAttribute");
        allowed.insert({kernel, {device_, bytes}});
    }

    int device_, before_ = 0;
    cudaStream_t stream_;
    std::function<std::string()> subject_;  // what errors are about
};

}  // namespace

CudaVersions cuda_versions() {
    CudaVersions versions{CUDART_VERSION, 0, 0};
    cudaRuntimeGetVersion(&versions.runtime);
    cudaDriverGetVersion(&versions.driver);  // 0 without a driver
    return versions;
}

DeviceProperties device_properties(int device) {
    Stream on(device, nullptr, [] { return std::string("asking for its properties"); });
    auto ask = [&](cudaDeviceAttr attribute) {
        int value = 0;
        on.check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
        return value;
    };
    DeviceProperties properties{};
    properties.limits.shared_bytes = ask(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    properties.limits.multiprocessors = ask(cudaDevAttrMultiProcessorCount);
    properties.compute_capability = 10 * ask(cudaDevAttrComputeCapabilityMajor) + ask(cudaDevAttrComputeCapabilityMinor);
    properties.limits.sm90a = with_sm90a && properties.compute_capability == 90;
    return properties;
}

void prepare_gallery(int device, void* stream, const OperandLayout& layout, const std::vector<TensorView>& levels, char* base) {
    Stream on(device, stream, [&] { return "gallery " + text_of(levels); });
    prepare_gallery(on, layout, levels, base);
}

void compare_equals(int device, void* stream, const OperandLayout& layout, const std::vector<TensorView>& levels,
                    const int64_t* hashes, const int64_t* order, uint8_t* same) {
    Stream on(device, stream, [&] { return "gallery " + text_of(levels); });
    compare_equals(on, layout, levels, hashes, order, same);
}

void search(int device, void* stream, const OperandLayout& gallery, const SearchPlan& plan, const SearchRequest& request) {
    Stream on(device, stream, [&] {
        return "query " + text_of(request.query) + "gallery " + text_of(request.gallery) + "kappa " +
               std::to_string(request.kappa);
    });
    search(on, gallery, plan, request);
}

}  // namespace fastspade::cuda
