// The emulated engine, as runner.cpp sees it.
#pragma once

#include "cuda/request.hpp"

namespace fastspade::emulate {

extern uint64_t seed;        // decides what the hardware leaves open; see simt.hpp
extern bool dry;             // whether kernels are left out, to measure the host's work
extern cuda::Device device;  // what searches are planned for

void prepare_gallery(const cuda::OperandLayout& layout, const std::vector<TensorView>& levels, char* base);
void compare_equals(const cuda::OperandLayout& layout, const std::vector<TensorView>& levels, const int64_t* hashes,
                    const int64_t* order, uint8_t* same);
void search(const cuda::OperandLayout& gallery, const cuda::SearchPlan& plan, const cuda::SearchRequest& request);

}  // namespace fastspade::emulate
