// How features are brought near one before they are laid out.
#pragma once

#include <vector>

#include "core/problem.hpp"

namespace fastspade::cpu {

// One number per channel that is subtracted from both sides, and a power of two that brings values near one. Neither
// changes which pairs are nearest: distances do not see a common shift, and the scale is common to all.
struct Centring {
    std::vector<std::vector<float>> mean;  // [group][channel]
    float scale = 1.0f;
};

Centring choose_centring(const Problem& problem, const std::vector<LevelGroup>& groups);

}  // namespace fastspade::cpu
