// The CPU engine's entry point.
#pragma once

#include "core/problem.hpp"

namespace fastspade::cpu {

// Fills problem.distances and problem.indices; see docs of fastspade.pyramid_knn for the contract.
Statistics search(const Problem& problem);

// The same for a handful of query vectors, by direct float32 differences on the gallery where it lies; whether it can take the
// problem and is the faster way.
Statistics search_few_queries(const Problem& problem);
bool suits_few_queries(const Problem& problem);

}  // namespace fastspade::cpu
