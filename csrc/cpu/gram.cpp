#include "cpu/gram.hpp"

#include <algorithm>

namespace fastspade::cpu {

GramMatrices::GramMatrices(const std::vector<LevelGroup>& groups, const Kernels& kernels)
    : groups_(groups), kernels_(kernels), matrix_(groups.size()), stride_(groups.size(), 0), taps_(groups.size()) {}

// The Gram matrices enter the distance with a factor of -2.
void GramMatrices::plan_queries(const QueryBlock& block) {
    const Region& queries = block.region;
    const int64_t width = groups_[0].query[0].width();
    for (size_t g = 1; g < groups_.size(); ++g) {
        taps_[g].clear();
        for (int64_t i = 0; i < block.tiles() * kernels_.lanes; ++i) {
            const int64_t flat = queries.pixel_at(std::min(i, queries.pixels() - 1));
            const Tap y = groups_[g].query_y[static_cast<size_t>(flat / width)];
            const Tap x = groups_[g].query_x[static_cast<size_t>(flat % width)];
            LaneTaps taps;
            for (int t = 0; t < 4; ++t) {
                const int64_t row = (t < 2 ? y.low : y.high) - queries.coarse_first_row(g);
                taps.row[t] = static_cast<int32_t>(row * queries.coarse_width(g) + (t % 2 ? x.high : x.low));
                taps.weight[t] =
                    static_cast<float>(-2.0 * (t < 2 ? y.low_weight : y.high_weight) * (t % 2 ? x.high_weight : x.low_weight));
            }
            taps_[g].push_back(taps);
        }
    }
}

void GramMatrices::multiply(ThreadTeam& team, const QueryBlock& block, const Region& chunk, const Window& window) {
    struct Piece {
        size_t group;
        int64_t panel;
    };
    std::vector<Piece> pieces;
    const Region& queries = block.region;
    const int64_t lanes = kernels_.lanes, rows = kernels_.rows;
    for (size_t g = 1; g < groups_.size(); ++g) {
        stride_[g] = Region::padded(chunk.coarse_pixels(g), lanes);
        matrix_[g].reserve(Region::padded(queries.coarse_pixels(g), rows) * stride_[g] + 64);
        for (int64_t panel = 0; panel < stride_[g] / lanes; ++panel) pieces.push_back({g, panel});
    }
    team.run(static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
        const auto [g, panel] = pieces[static_cast<size_t>(i)];
        const int64_t channels = groups_[g].channels;
        const float* lane_panel = chunk.coarse_panels(g) + panel * channels * lanes;
        int64_t begin = 0, end = queries.coarse_pixels(g);
        if (window.active()) {
            const int64_t top = chunk.coarse_first_row(g), width = chunk.coarse_width(g), own_width = queries.coarse_width(g);
            const int64_t bottom = std::min((panel + 1) * lanes, chunk.coarse_pixels(g)) - 1;
            const Range near = window.query_rows(groups_[g], top + panel * lanes / width, top + bottom / width);
            begin = std::max<int64_t>(0, near.begin - queries.coarse_first_row(g)) * own_width / rows * rows;
            end = std::min(end, (near.end - queries.coarse_first_row(g)) * own_width);
        }
        for (int64_t q = begin; q < end; q += rows)
            kernels_.product(lane_panel, queries.coarse_panels(g) + q * channels, channels,
                             matrix_[g].data() + q * stride_[g] + panel * lanes, stride_[g]);
    });
}

}  // namespace fastspade::cpu
