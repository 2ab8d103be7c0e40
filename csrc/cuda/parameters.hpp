// What the kernels are told: plain structs of addresses and sizes, passed by value. Pure C++, shared by the host code
// that fills them in, the kernels, and the host emulation of the kernels.
#pragma once

#include <cstdint>

#include "core/exact_kernels.hpp"
#include "core/upsampling.hpp"
#include "core/tensor_view.hpp"
#include "cuda/tensor_map.hpp"

namespace fastspade::cuda {

constexpr int max_levels = 16;     // of a pyramid
constexpr int max_groups = 4;      // resolutions whose Gram matrices are computed apart: the finest and three coarser
constexpr int tile_columns = 128;  // gallery pixels per tile
constexpr int step_channels = 64;  // channels per pipeline step; operands are padded to a multiple with zeros
constexpr int short_step = 32;     // the same where shared memory is short (search.cuh)
constexpr int search_threads = 256;
constexpr int pipeline_stages = 3;
constexpr int projected_channels = 32;            // 31 principal directions of the finest level, and the norm of the rest
constexpr int projected_group = max_groups;       // where a search's groups have them
constexpr int told_pairs = 128;                   // of gallery pixels, which decide whether projections are searched
constexpr int redo_pairs = 512;                   // that a block looks at, at a time
constexpr int patch_width = 8, patch_height = 4;  // pixels; a tile of the sm_90a search has four patches
constexpr float scaled_norm = 64.0f;              // every image is scaled by a power of two so that no vector's norm exceeds this

// Whether projections are searched, by how many of told_pairs they told most of the distance of.
FASTSPADE_HOST_DEVICE inline bool tells(const int* told) { return 2 * *told >= told_pairs; }

// One level as the caller holds it: any strides (in elements), any of the three types.
struct LevelView {
    const void* data;
    int64_t stride[4];
    DType dtype;
    Mixing mixing;
    int channels, height, width;
    int before;  // channels of earlier levels of the same resolution, whose sums this level's go on with
};

// One side's pyramid.
struct PyramidView {
    LevelView levels[max_levels];
    int level_count;
    int height, width;  // the finest grid
    Upsample upsample;
};

// Per pixel of the finest grid, in units of its image's scale, rounded so that bounds stay bounds (see prepare.cuh):
//   query:   |q|^2 - slack, |q^|, |q - q^|, |q|
//   gallery: |r|^2 - slack, at least |r|, |r - r^| + accumulation errors, |r|
// where q^ and r^ are what the 16-bit operands hold.
struct alignas(16) Terms {
    float norm, operand, error, length;
};

// Per pixel of the gallery's finest grid, of those with exactly its descriptor: how many come before it in its image, and
// which is the last of the nearest image before, as image * pixels + pixel; or -1.
struct alignas(8) Equals {
    int32_t rank, previous;
};

// One resolution of one side as 16-bit operands: (images * height * width, channels), row-major.
struct OperandGroup {
    uint16_t* data;
    int channels;  // padded
    int height, width;
    Mixing mixing;
};

// Turning one side's pyramid into operands and terms. `groups` are on the grids that the search multiplies: for a query
// always the finest, for a gallery each group's own.
struct PrepareParameters {
    PyramidView pyramid;
    int64_t images;
    OperandGroup groups[max_groups];
    int group_count;
    int level_group[max_levels], level_offset[max_levels];  // where each level's channels go
    int centre_offset[max_levels];                          // where each level's channels lie in `centre`
    float* centre;                                          // (all channels): subtracted from both sides
    uint32_t* largest;       // (images, levels): bits of the largest squared norm of a centred native vector
    float* scale;            // (images): power of two
    Terms* terms;            // (images, height * width)
    OperandGroup projected;  // the finest group's projections; data null where its channels are few
    Terms* projected_terms;  // as terms, with them in that group's place
    double* directions;      // (the finest group's channels, projected_channels), orthonormal, the last zeros
    int* told;               // of told_pairs, those whose projections tell most of their distance
    uint64_t* hashes;        // (images, height * width), of descriptors; null for queries
    bool gallery;
    bool bfloat16;
};

struct SearchGroup {
    const uint16_t* query;    // (queries images * query pixels, channels), on the finest grid
    const uint16_t* gallery;  // (gallery images * pixels, channels), on the group's grid
    int steps;                // of the pipeline, over the group's channels
    int channels, height, width;
    int stride;       // pixels of a tile; what it has beyond is the next one's
    int ring;         // pixels of Gram columns kept on chip (0 for the finest group)
    int ring_offset;  // bytes into shared memory
};

// Where a position of the finest grid reads a coarse axis, as floats.
struct alignas(16) AxisTap {
    int low, high;
    float low_weight, high_weight;
};

struct SearchParameters {
    SearchGroup groups[max_groups + 1];  // finest first; the last: the finest one's projections
    int group_count;
    const AxisTap* taps;                             // as the schedule's
    const Terms *query_terms[2], *gallery_terms[2];  // the second: with projections in the finest group's place
    const int* told;                                 // as PrepareParameters', or null: no projections
    bool bfloat16;
    const float *query_scale, *gallery_scale;
    const uint32_t* repeats;  // as RepeatParameters', from the launch's first query image on
    int repeat_words;
    const int64_t* gallery_index;  // (query images, slots) ascending, or null; see slots.cuh
    int64_t gallery_images;
    int slots, segments;            // gallery images per query; pieces that an image is cut into
    int query_pixels, query_tiles;  // tiles per image
    int first_tile;                 // of the launch's first block, over all query images
    int height, width;              // the gallery's finest grid
    const uint32_t* jobs;           // group << 28 | column tile, in order; see schedule.cuh
    int job_count;
    int splits;                                  // blocks that share a query tile
    int kappa, keep, capacity;                   // candidates per row: kept at the end, and room for
    uint64_t* kept;                              // (rows, splits, keep), rows counted from the launch's first tile
    uint32_t* limits;                            // (rows): shared between splits; nothing left out has a lower bound below
    int64_t* counters;                           // of `Counter`
    uint64_t* lists;                             // candidates of (block, row, capacity), or null: in shared memory
    int list_offset, column_offset, row_offset;  // bytes into shared memory
};

struct FinishParameters {
    PyramidView query, gallery;
    const int64_t* gallery_index;
    int64_t gallery_images;
    const float* query_scale;
    int first_tile, tile_rows, query_tiles;  // as the search's
    int rows;                                // of the launch, padding included
    int query_pixels, pixels, slots;
    int kappa, keep, splits;
    const int64_t* available;  // as RepeatParameters'
    uint64_t* kept;            // (rows, splits + 1, keep); the last part is scratch
    const uint32_t* limits;    // as the search's
    const int* told;
    float* distances;  // (all rows, kappa)
    int64_t* indices;
    int* failed;        // (rows): positions, within the launch, of rows whose certificate fails
    int* failures;      // how many, in this launch
    int64_t* counters;  // of `Counter`
};

// What a search counts: rows whose certificate fails, and pairs of such rows that are filtered, first by norms and those that
// are left by a 16-bit bound; pairs that are ranked by exact distances, of all rows; pairs whose finest channels are multiplied,
// those that projections leave or all. COUNTERS in fastspade/search/cuda.py names them in this order.
enum Counter : int { uncertain_rows, exact_pairs, filtered_pairs, bounded_pairs, fine_pairs };

// Searching failed rows again.
struct RedoParameters {
    FinishParameters finish;
    SearchParameters search;
    uint64_t* lists;  // (blocks, capacity)
    int capacity;
};

// Which gallery pixels a search need not look at: those that equal kappa or more pixels before them.
struct RepeatParameters {
    const Equals* equals;          // (gallery images, pixels)
    const int64_t* gallery_index;  // (rows, slots) ascending, or null: one row, of gallery images 0 .. slots - 1
    int64_t gallery_images;
    int rows, slots, pixels, kappa, words;
    uint32_t* repeats;   // (rows, slots, words): one bit per pixel
    int64_t* available;  // (rows), zeros at first: how many pixels are left
};

// Which gallery pixels have equal descriptors: neighbours in an order by hashes are compared.
struct EqualParameters {
    PyramidView gallery;
    int64_t count;
    const int64_t *hashes, *order;  // ascending hashes, and the pixels they belong to
    uint8_t* same;                  // (count): whether a pixel equals the one before it in that order
};

// How the finest group's pixels are cut into tiles: in runs, or, for the sm_90a search of several groups, in patches.
struct Tiling {
    int width, height;
    bool patched;
};

struct ScheduleParameters {
    uint32_t* jobs;
    AxisTap* taps;    // for every coarse group, of all columns and then of all rows of the finest grid
    const int* told;  // as PrepareParameters', or null
    int tiles, group_count;
    Tiling tiling;
    int group_height[max_groups], group_width[max_groups], group_stride[max_groups];
    Upsample upsample;
};

// The sm_90a search (search_sm90.cuh) is told more.
struct Sm90Parameters {
    SearchParameters search;
    TensorMap query[max_groups + 1], gallery[max_groups + 1];
    int stages, barrier_offset;
    bool patched;
};

}  // namespace fastspade::cuda
