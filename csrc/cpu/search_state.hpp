// The state of one search and the steps it is made of; search.cpp says in which order they come.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "core/buffer.hpp"
#include "core/candidates.hpp"
#include "core/exact.hpp"
#include "core/problem.hpp"
#include "core/ranking.hpp"
#include "cpu/kernels.hpp"
#include "cpu/projection.hpp"
#include "cpu/quantised.hpp"
#include "cpu/region.hpp"
#include "cpu/thread_team.hpp"

namespace fastspade::cpu {

constexpr float infinity = std::numeric_limits<float>::infinity();

// How the finest level joins the pairs of a chunk: for those alone that the other bounds leave; for whole panels in whole
// numbers of one or two bytes, another bound; or for whole panels in float32.
enum class Way { sparse, bytes, words, dense };

class Search {
  public:
    explicit Search(const Problem& problem);
    Statistics run();

  private:
    struct Scratch {  // one a thread
        Buffer<float> nodes, columns, least, spread, partial, refined;
        std::vector<char> is_spread;                // of the rows of `spread`
        std::vector<int32_t> patches, cells, rows;  // what bounds leave: cells of a fine row, pixels of the chunk
        int64_t left = 0;                           // how many of `rows`
        std::vector<Hit> hits;
        std::vector<Answer> answers;
        std::unique_ptr<ExactDistance> exact;
        int64_t fine_pairs = 0, evaluated = 0, exact_pairs = 0, cells_bounded = 0, cells_left = 0;
    };
    struct GalleryTaps {  // of one group, as the kernels want them
        std::vector<NodeTap> rows, columns;
        std::vector<NodeTap> patches;  // the nodes that a patch's columns read
        std::vector<NodeTap> cells;    // those at which a cell's least value may lie, `a_cell` each
        int a_cell = 1;
    };

    void plan();
    void search_block(int64_t image, int64_t first, int64_t last);
    void search_chunk(int64_t slot);
    void multiply_coarse();
    void update_errors();
    double probe();
    void refine_panel(int64_t tile, int64_t start, Scratch& scratch, float* out);
    void evaluate(int64_t tile, int64_t lane, int64_t r, int64_t slot, Scratch& scratch);
    bool seed(int64_t tile, int64_t slot, const float* smallest, const int32_t* place, float* seeded, Scratch& scratch);
    void pack_chunk();
    void choose_way(int64_t fine_pairs, int64_t evaluated);
    bool fresh() const { return chunks_ == 0; }
    bool screens() const { return way_ == Way::bytes || way_ == Way::words; }
    void search_tile(int64_t tile, int64_t slot, Scratch& scratch);
    void dense_tile(int64_t tile, int64_t slot, Scratch& scratch);
    int64_t left_in_panel(int64_t first, int64_t start, int64_t height, const Scratch& scratch) const;
    void coarse_tile(int64_t tile, bool bounded, Scratch& scratch, float* smallest, int32_t* place);
    void interpolate_queries(int64_t tile, Range rows, Range columns, Scratch& scratch, std::vector<const float*>& nodes);
    int64_t cell_of(int64_t column) const {
        return std::upper_bound(cells_.begin(), cells_.end() - 1, column) - cells_.begin() - 1;
    }
    Range cells_of_patches(size_t patch_row, Range rows, const std::vector<const float*>& nodes, Range reach, const float* limit,
                           Scratch& scratch);
    void plan_cells();
    void plan_query_taps();
    void bound_cells();
    void add(int64_t query, const Candidate& candidate, float* limit, Scratch& scratch);
    bool repeats(int64_t chunk_pixel) const {
        const int32_t* ranks = duplicates_.load(std::memory_order_acquire);
        return ranks && ranks[chunk_pixel] >= problem_.kappa;
    }
    void find_duplicates();
    void drop_repeats(CandidateRow& row, int32_t slot) const;
    void rank_exactly(int64_t query, Scratch& scratch);
    void rank_block();

    int64_t gallery_image(int64_t slot) const {
        return problem_.gallery_index ? problem_.gallery_index[block_image_ * problem_.gallery_count + slot] : slot;
    }
    // The chunk's pixels [begin, end) in rows that are near one of a tile's queries; all of them without a window.
    Range near_tile(int64_t tile) const {
        return near(tile * kernels_.lanes, std::min((tile + 1) * kernels_.lanes, queries_.pixels()));
    }
    Range near(int64_t first, int64_t last) const;
    bool in_window(int64_t query, int64_t chunk_pixel) const;
    void find_near_rows();

    int64_t tiles() const { return (queries_.pixels() + kernels_.lanes - 1) / kernels_.lanes; }
    void poll() const {
        if (problem_.interrupted && problem_.interrupted()) throw Interrupted();
    }

    const Problem& problem_;
    const Kernels& kernels_;
    const std::vector<LevelGroup> groups_;
    const Centring centring_;
    Projection projection_;
    ThreadTeam team_;
    Region queries_, chunk_;
    std::vector<Scratch> scratch_;
    std::vector<GalleryTaps> gallery_taps_;
    std::vector<std::vector<LaneTaps>> query_taps_;  // [group][query], whole tiles
    // A cell is as many columns of a gallery row as lie between the same two of the finest coarse level: cell c has columns
    // cells_[c] to cells_[c + 1].
    std::vector<int32_t> cells_;
    Buffer<float> cell_norm_;  // [chunk row][cell]: the least of chunk_.coarse_norm()
    // A patch is what lies between the same nodes of the coarsest level: columns, of which patch p has parts of the cells
    // patch_cells_[p], and rows patch_rows_[i] of the chunk.
    std::vector<Range> patch_cells_, patch_rows_;
    Buffer<float> patch_norm_;  // [patch row][patch]
    bool may_overflow_ = false;
    bool bounds_cells_ = false, bounds_patches_ = false;  // whether that pays, the chunk before told

    int64_t query_pixels_ = 0, gallery_pixels_ = 0;  // of one image
    int64_t block_step_ = 0, chunk_step_ = 0;
    int64_t capacity_ = 0;

    // The state of one block of queries.
    int64_t block_image_ = 0;
    int64_t chunks_ = 0;  // how many chunks have been searched
    Way way_ = Way::sparse;
    Way panels_ = Way::dense;  // the best way to do whole panels; what proved worse is not tried again
    Quantised query_numbers_, chunk_numbers_;
    std::vector<Buffer<float>> gram_;  // [coarse group]: [query coarse pixel][gallery coarse pixel]
    std::vector<int64_t> gram_stride_;
    std::vector<std::vector<Range>> near_rows_;  // [coarse group][gallery row]: the query rows that a window may join it with
    Buffer<float> limit_;
    Buffer<float> lowered_norm_;  // the queries' fine norms less what rounding may do to the projected bound
    Buffer<Candidate> candidates_;
    Buffer<float> nearest_;                 // beside candidates_: see CandidateRow
    Buffer<double> distances_;              // exact, beside candidates_
    std::vector<NativeRows> query_native_;  // [group]
    NativeRows gallery_native_;
    std::vector<CandidateRow> rows_;
    std::vector<float> largest_;  // [group] largest gallery norm bound seen in this block
    Statistics statistics_;

    // Ranks of repeated descriptors in the chunk at hand: looked for only once ties crowd a row, null until then.
    std::atomic<const int32_t*> duplicates_{nullptr};
    std::vector<int32_t> duplicate_ranks_;
    std::mutex duplicates_lock_;
};

}  // namespace fastspade::cpu
