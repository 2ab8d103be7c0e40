// Finds gallery pixels whose descriptors repeat, bit for bit, an earlier pixel's: flat backgrounds make thousands.
// Of equal descriptors only the first kappa can be among the answers, because ties go to the lower index.
#pragma once

#include <cstdint>
#include <vector>

#include "core/problem.hpp"

namespace fastspade {

// For each gallery pixel in [first, last) of `image`: how many earlier pixels of that range have its descriptor.
// Vectors that hash alike are compared.
std::vector<int32_t> duplicate_ranks(const std::vector<LevelGroup>& groups, int64_t image, int64_t first, int64_t last,
                                     int64_t fine_width);

}  // namespace fastspade
