// What a user can do about a failure of the runtime that this build and this machine cause together. Nothing for the others.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace fastspade::cuda {

// 13000 -> "13.0".
inline std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

inline std::string way_out(cudaError_t status) {
    int runtime = 0, driver = 0;
    cudaRuntimeGetVersion(&runtime);
    cudaDriverGetVersion(&driver);
    const std::string installed = driver == 0 ? "no NVIDIA driver is installed"
                                              : "the driver serves CUDA " + version_text(driver) + " at most",
                      versions = "; this build has the CUDA " + version_text(runtime) + " runtime, and " + installed;
    switch (status) {
        case cudaErrorInsufficientDriver:
            return versions + ": install a newer driver, or build fastspade with a toolkit that is no newer than it";
        case cudaErrorUnsupportedPtxVersion:
        case cudaErrorNoKernelImageForDevice:
            return versions +
                   ": build fastspade with this device's compute capability, 8.0 or newer, in FASTSPADE_CUDA_ARCHITECTURES, "
                   "or with a toolkit that is no newer than the driver";
        default:
            return {};
    }
}

}  // namespace fastspade::cuda
