// The CUDA engine as the bindings see it: no CUDA types, no Python. Everything runs on the given device and stream and
// nothing waits, except device_properties, which asks the driver.
#pragma once

#include <stdexcept>

#include "cuda/request.hpp"

namespace fastspade::cuda {

struct CudaError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct CudaOutOfMemory : CudaError {
    using CudaError::CudaError;
};

struct DeviceProperties {
    Device limits;
    int compute_capability;  // 80, 90, ...
};

DeviceProperties device_properties(int device);

// As CUDA numbers them, 1000 * major + 10 * minor: the toolkit that compiled the engine, the runtime linked into it, and the
// newest that the installed driver serves (0: no driver). Never throws.
struct CudaVersions {
    int toolkit, runtime, driver;
};

CudaVersions cuda_versions();

// Fills `base` (layout.bytes of device memory) from the gallery's levels.
void prepare_gallery(int device, void* stream, const OperandLayout& layout, const std::vector<TensorView>& levels, char* base);

// Whether pixels equal the ones before them in an order of all pixels by the hashes that prepare_gallery left (EqualParameters).
void compare_equals(int device, void* stream, const OperandLayout& layout, const std::vector<TensorView>& levels,
                    const int64_t* hashes, const int64_t* order, uint8_t* same);

// `request.workspace` holds plan.workspace_bytes.
void search(int device, void* stream, const OperandLayout& gallery, const SearchPlan& plan, const SearchRequest& request);

}  // namespace fastspade::cuda
