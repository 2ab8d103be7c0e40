// Search for a handful of query vectors: bound by reading the gallery once, so nothing is laid out anew.
#pragma once

#include "core/problem.hpp"

namespace fastspade::cpu {

// Whether search_few_queries can take the problem and is the faster way.
bool suits_few_queries(const Problem& problem);

// Like search(), by direct float32 differences on the gallery where it lies; candidates are ranked exactly.
Statistics search_few_queries(const Problem& problem);

}  // namespace fastspade::cpu
