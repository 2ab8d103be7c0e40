// The SIMD kernels, as a table of functions: one table an instruction set, picked once at run time.
//
// Two layouts feed them. A "lane panel" holds `lanes` vectors side by side, [channel][lanes]; a "row panel" holds `rows`
// vectors side by side, [channel][rows]. The product of the two is a tile [rows][lanes].
#pragma once

#include <cstdint>

namespace fastspade::cpu {

constexpr int max_lanes = 64;
constexpr int max_rows = 16;

struct LaneTaps {  // which of a Gram matrix's rows a query pixel is mixed from
    int32_t row[4];
    float weight[4];
};

struct NodeTap {  // how a row or column of the finest grid reads a coarse level's nodes
    int32_t low, high;
    float high_weight;
};

// Two rows of one coarse level, as a fine row reads them, and how much of each it has: at the finest grid's columns or cells.
struct RowPair {
    const float *upper, *lower;
    float upper_weight, lower_weight;
    const NodeTap* columns;  // where the rows are not spread but hold nodes
};

struct NodeRows {  // some rows of a coarse level's nodes, and which of their columns belong to a patch: low to high
    const float* nodes;
    int64_t rows, width;
    const NodeTap* patches;
};

struct Hit {
    int32_t row;
    int32_t lane;
    float value;
};

// A panel of vectors rounded to int8 or int16 (see cpu/quantised.hpp): vector = scale * numbers + a rest of norm `error`.
struct IntegerLanes {
    const int32_t* words;                        // [word][lanes]
    const float *norm, *scale, *error, *length;  // squared norm, 2 * scale, 2 * error, 2 * (norm + error)
};
struct IntegerRows {
    const int32_t* words;                        // [word][rows]
    const int32_t* start;                        // what the lanes' offset adds, taken off
    const float *norm, *scale, *error, *length;  // squared norm, scale, error, norm
};
struct Rounded {
    float scale, error;
    int32_t sum;  // of the numbers
};

struct Kernels {
    const char* name;
    int lanes;
    int rows;

    // tile[row][lane] = sum over channels of lane_panel * row_panel; the tile's rows are `stride` floats apart.
    void (*product)(const float* lane_panel, const float* row_panel, int64_t channels, float* tile, int64_t stride);
    // out[i][lane] = bias[lane] + sum over channels of lane_panel * vector i, for vectors [first, last) that stand one after the
    // other, or in lane panels; each takes up `length` floats.
    void (*vector_products[2])(const float* lane_panel, const float* vectors, int64_t length, int64_t channels, int64_t first,
                               int64_t last, const float* bias, float* out);
    // Projections, of a lane panel and of vectors one after the other, 8 or 16 numbers each: tile[row][lane] = base[row][lane] +
    // lane_norm[lane] + row_norm[row] - 2 * product, for as many vectors as a row panel has.
    void (*refine[2])(const float* lane_panel, const float* vectors, const float* lane_norm, const float* row_norm,
                      const float* base, float* tile);
    // The same for `count` listed rows alone, at most a row panel; appends the values that are not above limit[lane].
    int64_t (*refined_rows[2])(const float* lane_panel, const float* vectors, const float* lane_norm, const float* row_norm,
                               const float* base, const int32_t* list, int64_t count, const float* limit, Hit* hits);
    // distance = lane_norm + row_norm - 2 * product, + base[row][lane] where it is not null; appends those not above limit[lane];
    // returns how many. Rows of padding at the end of the last panel must be told apart by the caller.
    int64_t (*panel_hits)(const float* lane_panel, const float* row_panel, int64_t channels, const float* lane_norm,
                          const float* row_norm, const float* base, const float* limit, Hit* hits);
    // out[column][lane] = bias[lane] + sum over taps of weight * gram[row * stride + column], for columns [first, last).
    void (*interpolate_lanes)(const float* gram, int64_t stride, const LaneTaps* taps, int64_t first, int64_t last,
                              const float* bias, float* out);
    // Narrows [begin, end) to where the first and the last patch lie for which norm[patch] + the least node is not above some
    // lane's limit. columns: scratch, [column][lane].
    void (*patches_left)(const NodeRows& level, const float* norm, const float* limit, float* columns, int64_t* begin,
                         int64_t* end);
    // One row of a coarse level, nodes[node][lane]: out[cell][lane] = the least value at the cell's taps, for cells [begin, end).
    // With the columns as cells of one tap it spreads the row over them.
    void (*least_of_cells)(const float* nodes, const NodeTap* taps, int taps_a_cell, int64_t begin, int64_t end, float* out);
    // A fine row's bounds norm[cell] + sum over levels of the mixed rows, for cells [begin, end): lists the cells with any not
    // above its lane's limit; returns how many.
    int64_t (*cells_left)(const RowPair* pairs, int level_count, const float* norm, int64_t begin, int64_t end,
                          const float* limit, int32_t* list);
    // The same sums at the columns x of listed cells, from rows that are spread or from their nodes: out[x][lane], and each
    // lane's smallest value so far and where it lies, first + x. Lists the pixels with any value not above its lane's limit;
    // returns how many.
    int64_t (*values_left[2])(const RowPair* pairs, int level_count, const float* norm, const int32_t* cells, const int32_t* list,
                              int64_t listed, int32_t first, const float* limit, float* out, float* smallest, int32_t* nearest,
                              int32_t* rows);
    // Of the listed rows, appends every value not above its lane's limit; returns how many.
    int64_t (*scan)(const float* values, const int32_t* list, int64_t listed, const float* limit, Hit* hits);
    // How many of each lane's values are not above its limit.
    void (*count_lanes)(const float* values, int64_t rows, const float* limit, int32_t* counts);
    // Dot product of two rows of `length` floats (a multiple of 16, zero padded).
    float (*dot)(const float* a, const float* b, int64_t length);
    // Squared differences of `count` contiguous rows, `step` floats apart, from every query; appends those not above
    // limit[query] and those that overflow, with `lane` the query; returns how many. Queries are `query_stride` floats
    // apart, zero padded to a multiple of 16, and query_count is a multiple of 4.
    int64_t (*near_rows)(const float* rows, int64_t step, int64_t count, int64_t length, const float* queries,
                         int64_t query_count, int64_t query_stride, const float* limit, Hit* hits);
    // Lays `count` vectors, each contiguous and `stride` floats from the next, into one lane panel or one row panel as
    // (value - mean) * scale, and sums their squares (each norm: float over 16 channels at most, then double).
    void (*pack_lanes)(const float* source, int64_t stride, int64_t count, int64_t channels, const float* mean, float scale,
                       float* panel, double* norm);
    void (*pack_rows)(const float* source, int64_t stride, int64_t count, int64_t channels, const float* mean, float scale,
                      float* panel, double* norm);
    // One contiguous vector as row[c] = (value - mean) * scale, zero padded to a multiple of 16; returns its squared norm.
    double (*centre_row)(const float* source, int64_t channels, const float* mean, float scale, float* row);
    // Of 16 channels, `stride` floats apart, `count` pixels as rows `row_step` floats apart. Reads up to 16 pixels beyond.
    void (*rows_of)(const float* channels, int64_t stride, int64_t count, float* rows, int64_t row_step);
    // Sums over channels, `stride` floats apart, of each pixel's product with itself and, where `down` is not 0, with its
    // neighbours: to the right, `down` pixels on, one beyond that, and of those to the right and down; five rows of sums,
    // `stride` apart. Reads and writes up to 16 pixels beyond.
    void (*neighbour_products)(const float* stage, int64_t stride, int64_t channels, int64_t count, int64_t down, float* sums);
    // For numbers of one byte and of two; null where wider ones are as fast. Lower bounds on refine's values,
    // norm + norm - error * length - length * error - scale * scale * product (+ base where it is not null), that are not
    // above limit[lane].
    int64_t (*integer_hits[2])(const IntegerLanes& lanes, const IntegerRows& rows, int64_t words, const float* base,
                               const float* limit, Hit* hits);
    // A row of `length` floats (a multiple of 16) of at most the given norm as numbers side by side in `out`.
    Rounded (*round_row[2])(const float* row, int64_t length, float norm, void* out);
};

// The widest table this processor can run. FASTSPADE_SIMD in the environment asks for another by name;
// generic_integer, slow, has the int8 and int16 kernels everywhere, for tests.
const Kernels& kernels();
// A table by name, or null where it is not built or cannot run here.
const Kernels* kernels_named(const char* name);

}  // namespace fastspade::cpu
