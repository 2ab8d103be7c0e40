// Exact top-kappa search over pyramids: for each block of query pixels the gallery streams by in chunks, and what is left of each
// is ranked at the end. docs/cpu_search.md follows a pair step by step.
#include "cpu/search.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/search_state.hpp"

namespace fastspade::cpu {

namespace {

// Sizes that keep the working set under about 40 MiB however large the input is.
constexpr int64_t query_block_bytes = 12 << 20;
constexpr int64_t chunk_bytes = 4 << 20;
constexpr int64_t gram_bytes = 10 << 20;
constexpr int64_t candidate_bytes = 16 << 20;
constexpr int64_t block_pixels = 4096;

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

}  // namespace

Search::Search(const Problem& problem)
    : setting_(problem),
      steps_(plan_steps(problem, setting_.groups, setting_.kernels)),
      team_(problem.threads),
      exact_(static_cast<size_t>(team_.size()), ExactDistance(problem, setting_.groups)) {
    for (ExactDistance& exact : exact_) scratch_.push_back({CoarseTile(setting_, gram_, cells_, block_.region, chunk_), exact});
}

Statistics Search::run() {
    const int64_t pixels = problem_.query[0].pixels();
    for (int64_t image = 0; image < problem_.query[0].images(); ++image)
        for (int64_t first = 0; first < pixels; first += steps_.block)
            search_block(image, first, std::min(first + steps_.block, pixels));
    return statistics_;
}

void Search::search_block(int64_t image, int64_t first, int64_t last) {
    const int64_t gallery_pixels = problem_.gallery[0].pixels();
    block_image_ = image;
    block_.start(team_, image, first, last, chooser_.may_evaluate());
    gram_.plan_queries(block_);
    chooser_.start_block();
    for (int64_t slot = 0; slot < problem_.gallery_count; ++slot)
        for (int64_t begin = 0; begin < gallery_pixels; begin += steps_.chunk) {
            poll(problem_);
            chunk_.cover(gallery_image(problem_, image, slot), begin, std::min(begin + steps_.chunk, gallery_pixels));
            const Range near = block_.near(0, block_.pixels(), chunk_);
            if (near.begin < near.end) search_chunk(slot);
        }
    statistics_.exact_pairs += ranking_.rank(block_, image);
}

void Search::pack_chunk() {
    const bool panels = chooser_.mode() == Mode::float32;
    chunk_.pack(team_, panels ? kernels_.rows : 0, !panels, several() ? kernels_.lanes : 0);
}

void Search::search_chunk(int64_t slot) {
    repeats_.forget();
    pack_chunk();
    block_.widen_limits(chunk_);
    if (several()) {
        if (chooser_.directly()) gram_.mix_queries(team_, block_);
        gram_.multiply(team_, block_, chunk_, chooser_.directly());
        cells_.take_norms(chunk_);
    }
    if (chooser_.wants_probe()) {
        chooser_.probed(probe());
        if (chooser_.mode() == Mode::float32) pack_chunk();
    }
    if (chooser_.integers()) {
        const int bytes = chooser_.mode() == Mode::int8 ? 1 : 2;
        if (block_.numbers.bytes() != bytes) block_.numbers.build(team_, block_.region, kernels_, Side::query, bytes);
        chunk_numbers_.build(team_, chunk_, kernels_, Side::gallery, bytes);
    }
    team_.run(block_.tiles(), [&](int64_t index, int thread) {
        Tile tile = tile_at(index, slot, scratch_[static_cast<size_t>(thread)]);
        if (tile.near.begin < tile.near.end) search_tile(tile);
    });
    ChunkCounts counts{chunk_.pixels(), block_.pixels() * chunk_.pixels(), 0, 0, 0, 0, 0, 0};
    counts.cells = several() ? block_.tiles() * chunk_.rows() * cells_.count() : 0;
    for (Scratch& scratch : scratch_) {
        counts.left += std::exchange(scratch.left, 0);
        counts.evaluated += std::exchange(scratch.evaluated, 0);
        counts.cells_bounded += std::exchange(scratch.coarse.cells_bounded, 0);
        counts.cells_left += std::exchange(scratch.coarse.cells_left, 0);
        counts.cells_by_coarsest += std::exchange(scratch.coarse.cells_by_coarsest, 0);
        statistics_.exact_pairs += std::exchange(scratch.exact_pairs, 0);
    }
    statistics_.pairs += counts.pairs;
    statistics_.fine_pairs += counts.left;
    if (chooser_.mode() == Mode::int8) statistics_.int8_pairs += counts.left;
    if (chooser_.mode() == Mode::int16) statistics_.int16_pairs += counts.left;
    chooser_.next(counts);
}

Statistics search(const Problem& problem) {
    return !windowed(problem) && suits_few_queries(problem) ? search_few_queries(problem) : Search(problem).run();
}

}  // namespace fastspade::cpu
