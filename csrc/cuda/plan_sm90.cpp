// How the sm90a search lies in a multiprocessor's shared memory, and which shapes it takes.
#include "cuda/plan.hpp"

#include <utility>

namespace fastspade::cuda {

namespace {

constexpr int rows = 128;  // queries a tile, as search_sm90.cuh has it
constexpr int64_t stage_bytes = (rows + tile_columns) * step_channels * 2, ring_bytes = rows * 2, row_bytes = 20, barrier_bytes = 128;

}  // namespace

std::string lay_out_sm90(const OperandLayout& gallery, const Device& device, SearchPlan& plan) {
    if (!device.sm90a) return "it needs a device of compute capability 9.0 and a build with code for sm_90a";
    const int64_t pixels = static_cast<int64_t>(gallery.height) * gallery.width;
    // Tensor copies count pixels of all images in 32 bits.
    if (gallery.images * pixels >= 1ll << 31) return "the gallery's " + std::to_string(gallery.images * pixels) + " pixels are too many for it";

    SearchPlan found = plan;
    found.tiling = {gallery.width, gallery.height, gallery.groups.size() > 1};
    int64_t rings = 0;
    for (size_t g = 1; g < gallery.groups.size(); ++g) {
        const Group& group = gallery.groups[g];
        found.ring[g] = ring_length(found.tiling, group.height, group.width, gallery.upsample);
        rings += found.ring[g] * ring_bytes;
    }
    const int64_t lists = rows * static_cast<int64_t>(plan.capacity) * 8, fixed = rings + barrier_bytes + rows * row_bytes;
    // Candidates are rare: their lists make way, to the workspace, before the third stage does.
    bool fits = false;
    for (const auto& [stages, on_chip] : {std::pair{4, true}, {3, true}, {3, false}, {2, true}, {2, false}}) {
        if (stages * stage_bytes + fixed + (on_chip ? lists : 0) > device.shared_bytes) continue;
        found.stages = stages;
        found.lists_on_chip = on_chip;
        fits = true;
        break;
    }
    if (!fits) return "its shared memory cannot hold " + std::to_string(rings) + " bytes of coarse values beside two stages of operands";

    int64_t end = found.stages * stage_bytes;
    for (size_t g = 1; g < gallery.groups.size(); ++g) {
        found.ring_offset[g] = static_cast<int>(end);
        end += found.ring[g] * ring_bytes;
    }
    found.barrier_offset = static_cast<int>(end);
    found.row_offset = static_cast<int>(end += barrier_bytes);
    found.list_offset = static_cast<int>(end += rows * row_bytes);
    found.shared_bytes = static_cast<int>(end + (found.lists_on_chip ? lists : 0));
    found.row_tiles = rows / 32;
    plan = found;
    return "";
}

}  // namespace fastspade::cuda
