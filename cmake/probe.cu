// What csrc/cuda takes from the host compiler's library and the toolkit's headers; see cuda.cmake.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <functional>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

__global__ void probe(float* value) { value[0] = __half2float(__float2half(value[0])); }

int main() {
    std::function<std::string(int)> text = [](int value) { return std::to_string(value); };
    std::ostringstream stream;
    stream << text(cudaGetLastError());
    probe<<<1, 1>>>(nullptr);
    return 0;
}
