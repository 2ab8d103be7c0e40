// What a search is asked: tensors on the device and where its results go.
#pragma once

#include "cuda/plan.hpp"

namespace fastspade::cuda {

// Results are laid out as Problem (core/problem.hpp) says; counters are added to (Counter, parameters.hpp).
struct SearchRequest {
    std::vector<TensorView> query, gallery;
    char* prepared;                // the gallery's operands
    const int64_t* gallery_index;  // on the device, or null
    int64_t slots, kappa;
    bool redo;  // precision="exact"
    float* distances;
    int64_t* indices;
    int64_t* counters;
    char* workspace;
};

}  // namespace fastspade::cuda
