// How a search is laid out on a device: which levels stay coarse, where operands and workspace lie, tile and split counts.
// Pure arithmetic on shapes, so that memory can be allocated before anything runs. No CUDA in here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/exact_kernels.hpp"
#include "cuda/tiling.hpp"

namespace fastspade::cuda {

// The search kernels there are. `automatic` takes sm90a where device, build and shapes allow it.
enum class Path : int { automatic = 0, sm80 = 1, sm90a = 2 };

struct Device {
    int shared_bytes;  // a block's largest shared memory
    int multiprocessors;
    bool sm90a;  // compute capability 9.0, and a build with code for it
};

struct LevelShape {
    int channels, height, width;
};

// Levels of one resolution, multiplied together.
struct Group {
    int height, width, channels = 0;  // channels padded to step_channels
    std::vector<int> levels;
    Mixing mixing = Mixing::none;         // onto the finest grid
    int stride = tile_columns, ring = 0;  // pixels of a tile, and of Gram values kept on chip (0 for the finest), in search.cuh
};

// One side's operands in one block of device memory; offsets in bytes.
struct OperandLayout {
    std::vector<Group> groups;
    std::vector<LevelShape> levels;
    std::vector<Mixing> mixing;  // of the levels, onto the finest grid
    int height = 0, width = 0;
    Upsample upsample = Upsample::bilinear;
    bool bfloat16 = false;
    int64_t images = 0;
    bool projected = false;  // whether projections of the finest group are kept, too
    int64_t group_offset[max_groups] = {};
    int64_t projected_offset = 0, projected_terms_offset = 0, directions_offset = 0, told_offset = 0;
    int64_t terms_offset = 0, equals_offset = 0, scale_offset = 0, largest_offset = 0, centre_offset = 0, bytes = 0;
};

// The gallery's layout decides which levels stay coarse: those with at most half the finest level's pixels whose rings
// fit a block's shared memory. The others are interpolated once and join the finest group.
OperandLayout plan_gallery(const std::vector<LevelShape>& levels, int64_t images, Upsample upsample, bool bfloat16,
                           const Device& device);

// The query side of a search in `gallery`: every group on the query's finest grid.
OperandLayout plan_query(const OperandLayout& gallery, const std::vector<LevelShape>& levels, int64_t images);

struct SearchPlan {
    Path path = Path::sm80;
    int before[max_levels] = {};  // as LevelView's
    OperandLayout query;          // of one batch of query images, at the start of the workspace
    int64_t batch = 1;            // query images prepared at a time
    int row_tiles = 1, tile_rows = 32, query_tiles = 0, launch_tiles = 0;
    int job_count = 0, segments = 1, splits = 1, keep = 0, capacity = 0;
    Tiling tiling{};
    bool lists_on_chip = true;
    int step_channels = cuda::step_channels;
    int stride[max_groups] = {}, ring[max_groups] = {}, ring_offset[max_groups] = {};
    int list_offset = 0, column_offset = 0, row_offset = 0, shared_bytes = 0;
    int stages = pipeline_stages, barrier_offset = 0;  // sm90a
    int redo_blocks = 0, redo_capacity = 0, repeat_words = 0;
    int64_t kept_offset = 0, limits_offset = 0, lists_offset = 0, failed_offset = 0, failures_offset = 0, redo_offset = 0,
            jobs_offset = 0, taps_offset = 0, repeats_offset = 0, available_offset = 0;
    int64_t workspace_bytes = 0;
};

// `chosen`: whether every query image has gallery images of its own. Throws std::invalid_argument where `path` is asked for
// and cannot be had.
SearchPlan plan_search(const OperandLayout& gallery, const std::vector<LevelShape>& query, int64_t query_images, int64_t slots,
                       int64_t kappa, bool chosen, const Device& device, Path path = Path::automatic);

// How many candidates a list of `keep` has room for, where a tile of `rows` has `bytes` for its lists; 0: too few. Half as
// many again are wanted; a quarter will do, for then lists are cut back 1.4 times as long (docs/cuda_search.md).
int list_capacity(int keep, int rows, int64_t bytes);
constexpr int64_t most_kappa_on_chip = 64;
constexpr int64_t row_bytes = 24;  // of shared memory, beside a row's list (row_lists.cuh)

// plan_sm90.cpp: lays the sm90a search out in shared memory; what it cannot do, or nothing.
std::string lay_out_sm90(const OperandLayout& gallery, const Device& device, int64_t kappa, SearchPlan& plan);

}  // namespace fastspade::cuda
