// Exact top-kappa search over pyramids: for each block of query pixels the gallery streams by in chunks, and what is left of each
// is ranked at the end. docs/cpu_search.md follows a pair step by step.
#include "cpu/search.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

#include "cpu/block_ranking.hpp"
#include "cpu/thread_team.hpp"
#include "cpu/tile_search.hpp"

namespace fastspade::cpu {

namespace {

// Sizes that keep the working set under about 40 MiB however large the input is.
constexpr int64_t query_block_bytes = 12 << 20;
constexpr int64_t chunk_bytes = 4 << 20;
constexpr int64_t gram_bytes = 10 << 20;
constexpr int64_t candidate_bytes = 16 << 20;
constexpr int64_t block_pixels = 4096;

// How many pixels a block and a chunk have.
struct Steps {
    int64_t block, chunk;
};

// With several levels, blocks and chunks are whole rows, and the Gram matrices between them must fit.
Steps whole_rows(const Problem& problem, const std::vector<LevelGroup>& groups, Steps wanted) {
    const TensorView &query = problem.query[0], &gallery = problem.gallery[0];
    int64_t query_rows = std::max<int64_t>(1, wanted.block / query.width());
    int64_t chunk_rows = std::max<int64_t>(1, wanted.chunk / gallery.width());
    auto gram_size = [&] {
        int64_t bytes = 0;
        for (size_t g = 1; g < groups.size(); ++g) {
            auto covered = [](int64_t rows, int64_t fine, int64_t coarse) { return std::min(coarse, rows * coarse / fine + 3); };
            const TensorView &q = groups[g].query[0], &r = groups[g].gallery[0];
            bytes += 4 * covered(query_rows, query.height(), q.height()) * q.width() *
                     covered(chunk_rows, gallery.height(), r.height()) * r.width();
        }
        return bytes;
    };
    while (gram_size() > gram_bytes && query_rows * chunk_rows > 1)
        (query_rows > chunk_rows ? query_rows : chunk_rows) = (std::max(query_rows, chunk_rows) + 1) / 2;
    const int64_t blocks = (query.height() + query_rows - 1) / query_rows;
    return {(query.height() + blocks - 1) / blocks * query.width(), chunk_rows * gallery.width()};
}

Steps plan_steps(const Problem& problem, const std::vector<LevelGroup>& groups, const Kernels& kernels) {
    const int64_t vector_bytes = 4 * std::max<int64_t>(1, groups[0].channels);
    // A candidate, its exact distance and its entry in the ranking; and what the limit is known from.
    const int64_t row_bytes = candidate_capacity(problem.kappa) * static_cast<int64_t>(2 * sizeof(Candidate) + sizeof(double)) +
                              problem.kappa * static_cast<int64_t>(sizeof(float));
    Steps steps{std::clamp<int64_t>(std::min(query_block_bytes / vector_bytes, candidate_bytes / row_bytes), 1, block_pixels),
                std::clamp<int64_t>(chunk_bytes / vector_bytes, 1, block_pixels)};
    if (groups.size() > 1) return whole_rows(problem, groups, steps);
    // Blocks of one size: a small last one would have the whole gallery laid out for little.
    const int64_t pixels = problem.query[0].pixels(), blocks = (pixels + steps.block - 1) / steps.block;
    steps.block = Region::padded((pixels + blocks - 1) / blocks, kernels.lanes);
    return steps;
}

class Search {
  public:
    explicit Search(const Problem& problem) : meeting_(problem), team_(problem.threads) {
        for (ExactDistance& exact : exact_) tiles_.emplace_back(meeting_, exact);
    }

    Statistics run() {
        const int64_t pixels = problem_.query[0].pixels();
        for (int64_t image = 0; image < problem_.query[0].images(); ++image)
            for (int64_t first = 0; first < pixels; first += steps_.block)
                search_block(image, first, std::min(first + steps_.block, pixels));
        return statistics_;
    }

  private:
    void search_block(int64_t image, int64_t first, int64_t last) {
        const int64_t gallery_pixels = problem_.gallery[0].pixels();
        meeting_.block.start(team_, image, first, last, meeting_.chooser.may_evaluate());
        meeting_.gram.plan_queries(meeting_.block);
        meeting_.chooser.start_block();
        for (int64_t slot = 0; slot < problem_.gallery_count; ++slot)
            for (int64_t begin = 0; begin < gallery_pixels; begin += steps_.chunk) {
                poll(problem_);
                meeting_.slot = static_cast<int32_t>(slot);
                meeting_.chunk.cover(gallery_image(problem_, image, slot), begin, std::min(begin + steps_.chunk, gallery_pixels));
                const Range near = meeting_.block.near(0, meeting_.block.pixels(), meeting_.chunk);
                if (near.begin < near.end) search_chunk();
            }
        statistics_.exact_pairs += ranking_.rank(meeting_.block, image);
    }

    void pack_chunk() {
        const bool panels = meeting_.chooser.mode() == Mode::float32;
        meeting_.chunk.pack(team_, panels ? kernels_.rows : 0, !panels, meeting_.setting.several() ? kernels_.lanes : 0);
    }

    void search_chunk() {
        meeting_.repeats.forget();
        pack_chunk();
        meeting_.block.widen_limits(meeting_.chunk);
        if (meeting_.setting.several()) {
            if (meeting_.chooser.directly()) meeting_.gram.mix_queries(team_, meeting_.block);
            meeting_.gram.multiply(team_, meeting_.block, meeting_.chunk, meeting_.chooser.directly());
            meeting_.cells.take_norms(meeting_.chunk);
        }
        if (meeting_.chooser.wants_probe()) {
            meeting_.chooser.probed(probe());
            if (meeting_.chooser.mode() == Mode::float32) pack_chunk();
        }
        if (meeting_.chooser.integers()) {
            const int bytes = meeting_.chooser.mode() == Mode::int8 ? 1 : 2;
            if (meeting_.block.numbers.bytes() != bytes)
                meeting_.block.numbers.build(team_, meeting_.block.region, kernels_, Side::query, bytes);
            meeting_.chunk_numbers.build(team_, meeting_.chunk, kernels_, Side::gallery, bytes);
        }
        team_.run(meeting_.block.tiles(), [&](int64_t index, int thread) {
            TileSearch& tile = tiles_[static_cast<size_t>(thread)];
            if (tile.start(index)) tile.search();
        });
        ChunkCounts counts{meeting_.chunk.pixels(), meeting_.block.pixels() * meeting_.chunk.pixels(), 0, 0, 0, 0, 0};
        counts.cells = meeting_.setting.several() ? meeting_.block.tiles() * meeting_.chunk.rows() * meeting_.cells.count() : 0;
        for (TileSearch& tile : tiles_) tile.give_counts(counts, statistics_.exact_pairs);
        statistics_.pairs += counts.pairs;
        statistics_.fine_pairs += counts.left;
        if (meeting_.chooser.mode() == Mode::int8) statistics_.int8_pairs += counts.left;
        if (meeting_.chooser.mode() == Mode::int16) statistics_.int16_pairs += counts.left;
        meeting_.chooser.next(counts);
    }

    // The share of pairs the coarse levels leave in the running, tried on a few tiles spread over the block.
    double probe() {
        const int64_t tiles = meeting_.block.tiles(), tried = std::min<int64_t>(4, tiles);
        std::atomic<int64_t> left{0};
        team_.run(tried, [&](int64_t i, int thread) {
            TileSearch& tile = tiles_[static_cast<size_t>(thread)];
            tile.start(i * tiles / tried);
            left += tile.left_by_coarse_levels();
        });
        return static_cast<double>(left) / static_cast<double>(tried * kernels_.lanes * meeting_.chunk.pixels());
    }

    Meeting meeting_;
    const Problem& problem_ = meeting_.setting.problem;
    const Kernels& kernels_ = meeting_.setting.kernels;
    const Steps steps_ = plan_steps(problem_, meeting_.setting.groups, kernels_);
    ThreadTeam team_;
    std::vector<ExactDistance> exact_ =
        std::vector<ExactDistance>(static_cast<size_t>(team_.size()), ExactDistance(problem_, meeting_.setting.groups));
    std::vector<TileSearch> tiles_;  // one a thread, as those
    BlockRanking ranking_{meeting_.setting, team_, exact_, steps_.chunk};
    Statistics statistics_;
};

}  // namespace

Statistics search(const Problem& problem) {
    return !windowed(problem) && suits_few_queries(problem) ? search_few_queries(problem) : Search(problem).run();
}

}  // namespace fastspade::cpu
