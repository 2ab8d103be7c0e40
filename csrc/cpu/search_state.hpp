// One search: which objects it is made of and the steps that tie them together; search.cpp says in which order they come.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/candidates.hpp"
#include "core/exact.hpp"
#include "core/problem.hpp"
#include "cpu/block_ranking.hpp"
#include "cpu/cells.hpp"
#include "cpu/chunk_repeats.hpp"
#include "cpu/coarse_tile.hpp"
#include "cpu/gram.hpp"
#include "cpu/kernels.hpp"
#include "cpu/mode.hpp"
#include "cpu/quantised.hpp"
#include "cpu/query_block.hpp"
#include "cpu/region.hpp"
#include "cpu/thread_team.hpp"

namespace fastspade::cpu {

// How many pixels a block and a chunk have.
struct Steps {
    int64_t block, chunk;
};

class Search {
  public:
    explicit Search(const Problem& problem);
    Statistics run();

  private:
    struct Scratch {  // one a thread
        CoarseTile coarse;
        ExactDistance& exact;
        Buffer<float> refined{};  // bounds by projections on top of the coarse levels, [chunk pixel][lane]
        std::vector<Hit> hits{};
        int64_t left = 0, evaluated = 0, exact_pairs = 0;  // since the chunk began
    };
    // A tile of queries that meets the chunk at hand.
    struct Tile {
        int64_t index, first, queries;  // of the block: its number, its first query, how many (at most `lanes`)
        int32_t slot;                   // of the chunk's image
        Range near;                     // the chunk's pixels that a window reaches
        float* limit;
        Scratch& scratch;
        const float* refined = nullptr;  // where it is not null, pairs whose bound in it is not above evaluated[lane] have been
        float evaluated[max_lanes] = {};
    };

    void search_block(int64_t image, int64_t first, int64_t last);
    void search_chunk(int64_t slot);
    void pack_chunk();
    double probe();
    Tile tile_at(int64_t index, int64_t slot, Scratch& scratch);
    void search_tile(Tile& tile);
    void bound_coarsely(Tile& tile, const CoarseTile::Ready& ready);
    void seed(Tile& tile);
    void per_pair_tile(Tile& tile);
    void integer_tile(Tile& tile);
    void float32_tile(Tile& tile);
    int64_t left_in_panel(const Tile& tile, int64_t start, int64_t height) const;
    const float* refine(const Tile& tile);
    int64_t count(const float* values, int64_t rows, const float* limit) const;
    float fine_distance(int64_t q, int64_t r) const;
    void evaluate_hits(Tile& tile, int64_t found, int64_t start, int64_t height);
    void evaluate(Tile& tile, int64_t lane, int64_t r);
    void add(Tile& tile, int64_t lane, float screened, int64_t r);
    void rank_exactly(int64_t query, Scratch& scratch);

    bool several() const { return setting_.several(); }

    const Setting setting_;
    const Problem& problem_ = setting_.problem;
    const Kernels& kernels_ = setting_.kernels;
    const Projection& projection_ = setting_.projection;
    const Steps steps_;
    ThreadTeam team_;
    QueryBlock block_{setting_};
    int64_t block_image_ = 0;
    Region chunk_{setting_, Side::gallery};
    Quantised chunk_numbers_;
    Cells cells_{setting_.groups};
    GramMatrices gram_{setting_};
    ModeChooser chooser_{setting_};
    ChunkRepeats repeats_{setting_, chunk_};
    std::vector<ExactDistance> exact_;  // one a thread
    std::vector<Scratch> scratch_;
    BlockRanking ranking_{setting_, team_, exact_, steps_.chunk};
    Statistics statistics_;
};

}  // namespace fastspade::cpu
