// How the sm90a search lies in a multiprocessor's shared memory, and which shapes it takes.
#include "cuda/plan.hpp"

#include <algorithm>
#include <iterator>

namespace fastspade::cuda {

namespace {

constexpr int64_t barrier_bytes = 128;

// What lies in shared memory beside the lists: `rows` queries per tile, as search_sm90.cuh has them.
struct Shape {
    int rows, stages;
    bool on_chip;  // the lists

    int64_t stage_bytes() const { return static_cast<int64_t>(rows + tile_columns) * step_channels * 2; }
    int64_t bytes(int64_t ring_pixels) const {
        return stages * stage_bytes() + ring_pixels * rows * 2 + barrier_bytes + rows * row_bytes;
    }
};

// In the order of what they cost (docs/cuda_search.md counts it). Lists of at most most_kappa_on_chip are on chip where that can
// be had; longer ones make way, to the workspace, before the third stage does.
constexpr Shape shapes[] = {{128, 4, true}, {128, 3, true},  {128, 2, true}, {96, 3, true},
                            {96, 2, true},  {128, 3, false}, {128, 2, false}};
constexpr Shape shapes_for_long_lists[] = {{128, 4, true}, {128, 3, true}, {128, 3, false}, {128, 2, true}, {128, 2, false}};

}  // namespace

std::string lay_out_sm90(const OperandLayout& gallery, const Device& device, int64_t kappa, SearchPlan& plan) {
    if (!device.sm90a) return "it needs a device of compute capability 9.0 and a build with code for sm_90a";
    const int64_t pixels = static_cast<int64_t>(gallery.height) * gallery.width;
    // Tensor copies count pixels of all images in 32 bits.
    if (gallery.images * pixels >= 1ll << 31)
        return "the gallery's " + std::to_string(gallery.images * pixels) + " pixels are too many for it";

    SearchPlan found = plan;
    found.tiling = {gallery.width, gallery.height, gallery.groups.size() > 1};
    int64_t ring_pixels = 0;
    for (size_t g = 1; g < gallery.groups.size(); ++g) {
        const Group& group = gallery.groups[g];
        found.stride[g] = coarse_stride(found.tiling, group.height, group.width, gallery.upsample);
        found.ring[g] = ring_length(found.tiling, {group.height, group.width, found.stride[g]}, gallery.upsample);
        ring_pixels += found.ring[g];
    }
    Shape shape{};
    const auto fits = [&](const Shape& candidate) {
        const int64_t left = device.shared_bytes - candidate.bytes(ring_pixels);
        if (left < 0) return false;
        const int capacity = candidate.on_chip ? list_capacity(plan.keep, candidate.rows, left) : plan.capacity;
        if (capacity == 0) return false;
        shape = candidate;
        found.capacity = capacity;
        return true;
    };
    if (!(kappa <= most_kappa_on_chip ? std::any_of(std::begin(shapes), std::end(shapes), fits)
                                      : std::any_of(std::begin(shapes_for_long_lists), std::end(shapes_for_long_lists), fits)))
        return "its shared memory cannot hold " + std::to_string(ring_pixels * 128 * 2) +
               " bytes of coarse values beside two stages of operands";

    found.stages = shape.stages;
    found.lists_on_chip = shape.on_chip;
    int64_t end = shape.stages * shape.stage_bytes();
    for (size_t g = 1; g < gallery.groups.size(); ++g) {
        found.ring_offset[g] = static_cast<int>(end);
        end += static_cast<int64_t>(found.ring[g]) * shape.rows * 2;
    }
    found.barrier_offset = static_cast<int>(end);
    found.row_offset = static_cast<int>(end += barrier_bytes);
    found.list_offset = static_cast<int>(end += shape.rows * row_bytes);
    found.shared_bytes = static_cast<int>(end + (shape.on_chip ? static_cast<int64_t>(shape.rows) * found.capacity * 8 : 0));
    found.row_tiles = shape.rows / 32;
    plan = found;
    return "";
}

}  // namespace fastspade::cuda
