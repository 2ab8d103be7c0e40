// The CPU engine's entry point.
#pragma once

#include "core/problem.hpp"

namespace fastspade::cpu {

// Fills problem.distances and problem.indices; see docs of fastspade.pyramid_knn for the contract.
Statistics search(const Problem& problem);

}  // namespace fastspade::cpu
