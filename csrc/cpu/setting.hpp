// What every part of one search reads and none changes: the problem, its levels, the kernels, and what a few pixels of the
// gallery tell of the rest.
#pragma once

#include <cstdint>
#include <vector>

#include "core/problem.hpp"
#include "cpu/kernels.hpp"
#include "cpu/projection.hpp"

namespace fastspade::cpu {

struct Setting {
    explicit Setting(const Problem& problem);

    bool several() const { return groups.size() > 1; }  // levels

    const Problem& problem;
    const Kernels& kernels = cpu::kernels();
    const std::vector<LevelGroup> groups;
    // One number per channel that is subtracted from both sides, and a power of two that brings values near one. Neither
    // changes which pairs are nearest: distances do not see a common shift, and the scale is common to all.
    std::vector<std::vector<float>> mean;  // [group][channel]
    float scale = 1.0f;
    Projection projection;  // of the finest level, where there are several
};

}  // namespace fastspade::cpu
