// Exact top-kappa search over pyramids: for each block of query pixels the gallery streams by in chunks.
//
// For one chunk: (1) lay it out; (2) compute each coarse level's Gram matrix at that level's own resolution; (3) for every
// tile of query pixels interpolate the Gram matrices where bounds on patches and cells leave a pair, which gives the coarse
// levels' part of its distance, a lower bound; (4) add the finest level, densely or only where that bound leaves a pair in the
// running; (5) keep candidates.
// When all chunks have passed, the few candidates are ranked by exact distances.
#include "cpu/search.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>

#include "core/rounding.hpp"
#include "cpu/few_queries.hpp"
#include "cpu/search_state.hpp"

namespace fastspade::cpu {

namespace {

// Sizes that keep the working set under about 40 MiB however large the input is.
constexpr int64_t query_block_bytes = 12 << 20;
constexpr int64_t chunk_bytes = 4 << 20;
constexpr int64_t gram_bytes = 10 << 20;
constexpr int64_t candidate_bytes = 16 << 20;
constexpr int64_t block_pixels = 4096;
// Above this share of pairs left in the running, doing whole panels is cheaper than picking pairs out: in float32, and in
// int8. And the share that a bound in int8 or int16 may leave to be worth it (of very long
// vectors; less of shorter ones).
constexpr double dense_share = 0.35, screened_share = 0.03, left_by_bytes = 0.01, left_by_words = 0.005;
// With one level: this many times kappa gallery pixels seen give limits that are worth a bound.
constexpr int64_t enough_for_limit = 8;
constexpr int64_t probe_every = 4;
constexpr int64_t retry_bounds = 16;
// Bounding patches, and cells, pays where it leaves less than such a share of the cells.
constexpr double patches_share = 0.7, cells_share = 0.4;

}  // namespace

Search::Search(const Problem& problem)
    : problem_(problem),
      kernels_(kernels()),
      groups_(group_levels(problem)),
      centring_(choose_centring(problem, groups_)),
      team_(problem.threads),
      queries_(groups_, centring_, projection_, kernels_, Side::query),
      chunk_(groups_, centring_, projection_, kernels_, Side::gallery),
      scratch_(static_cast<size_t>(team_.size())),
      gallery_taps_(groups_.size()),
      query_taps_(groups_.size()),
      gram_stride_(groups_.size(), 0),
      largest_(groups_.size(), 0.0f) {
    for (size_t g = 0; g < groups_.size(); ++g) gram_.emplace_back();
    if (groups_.size() > 1 && problem_.prune) projection_.fit(problem_, groups_[0], centring_.mean[0], centring_.scale, kernels_);
    if (problem_.prune && kernels_.screened_hits[0])
        panels_ = groups_[0].channels <= Quantised::most_byte_channels ? Way::bytes : Way::words;
    for (Scratch& scratch : scratch_) scratch.exact = std::make_unique<ExactDistance>(problem_, groups_);
    if (windowed(problem_)) find_near_rows();
    if (groups_.size() > 1) plan_cells();
    plan();
}

void Search::plan_cells() {
    auto taps_of = [](const AxisTaps& axis, std::vector<NodeTap>& taps) {
        for (size_t i = 0; i < axis.size(); ++i)
            taps.push_back({axis[i].low, axis[i].high, static_cast<float>(axis[i].high_weight)});
    };
    for (size_t g = 1; g < groups_.size(); ++g) {
        taps_of(groups_[g].gallery_y, gallery_taps_[g].rows);
        taps_of(groups_[g].gallery_x, gallery_taps_[g].columns);
    }
    const std::vector<NodeTap>& finest = gallery_taps_[1].columns;
    for (size_t x = 0; x < finest.size(); ++x)
        if (x == 0 || finest[x].low != finest[x - 1].low) cells_.push_back(static_cast<int32_t>(x));
    cells_.push_back(static_cast<int32_t>(finest.size()));
    const std::vector<NodeTap>& coarsest = gallery_taps_.back().columns;
    const int32_t width = static_cast<int32_t>(coarsest.size());
    for (int32_t x = 0, end; x < width; x = end) {
        for (end = x + 1; end < width && coarsest[static_cast<size_t>(end)].low == coarsest[static_cast<size_t>(x)].low;) ++end;
        patch_cells_.push_back({cell_of(x), cell_of(end - 1) + 1});
        for (GalleryTaps& taps : gallery_taps_)
            if (!taps.columns.empty())
                taps.patches.push_back(
                    {taps.columns[static_cast<size_t>(x)].low, taps.columns[static_cast<size_t>(end - 1)].high, 0.0f});
    }
    // Between two nodes values are linear: a cell's least lies at its first or last column, or next to a node inside.
    for (GalleryTaps& taps : gallery_taps_) {
        if (taps.columns.empty()) continue;
        std::vector<std::vector<NodeTap>> ends(cells_.size() - 1);
        for (size_t c = 0; c < ends.size(); ++c)
            for (int32_t x = cells_[c]; x < cells_[c + 1]; ++x) {
                auto low = [&](int32_t column) { return taps.columns[static_cast<size_t>(column)].low; };
                if (x == cells_[c] || x + 1 == cells_[c + 1] || low(x) != low(x - 1) || low(x) != low(x + 1))
                    ends[c].push_back(taps.columns[static_cast<size_t>(x)]);
            }
        for (const auto& cell : ends) taps.a_cell = std::max(taps.a_cell, static_cast<int>(cell.size()));
        for (auto& cell : ends) {
            cell.resize(static_cast<size_t>(taps.a_cell), cell.back());
            taps.cells.insert(taps.cells.end(), cell.begin(), cell.end());
        }
    }
}

// The Gram matrices enter the distance with a factor of -2.
void Search::plan_query_taps() {
    const int64_t width = problem_.query[0].width();
    for (size_t g = 1; g < groups_.size(); ++g) {
        query_taps_[g].clear();
        for (int64_t i = 0; i < tiles() * kernels_.lanes; ++i) {
            const int64_t flat = queries_.pixel_at(std::min(i, queries_.pixels() - 1));
            const Tap y = groups_[g].query_y[static_cast<size_t>(flat / width)];
            const Tap x = groups_[g].query_x[static_cast<size_t>(flat % width)];
            LaneTaps taps;
            for (int t = 0; t < 4; ++t) {
                const int64_t row = (t < 2 ? y.low : y.high) - queries_.coarse_first_row(g);
                taps.row[t] = static_cast<int32_t>(row * queries_.coarse_width(g) + (t % 2 ? x.high : x.low));
                taps.weight[t] =
                    static_cast<float>(-2.0 * (t < 2 ? y.low_weight : y.high_weight) * (t % 2 ? x.high_weight : x.low_weight));
            }
            query_taps_[g].push_back(taps);
        }
    }
}

// Of every coarse level: which rows of the two sides meet in a pair of the window.
void Search::find_near_rows() {
    const int64_t height = problem_.query[0].height();
    for (const LevelGroup& group : groups_) {
        std::vector<Range> near(static_cast<size_t>(group.gallery[0].height()), Range{group.query[0].height(), 0});
        for (int64_t y = 0; y < height; ++y)
            for (int64_t other = std::max<int64_t>(0, y - problem_.row_radius);
                 other <= std::min(height - 1, y + problem_.row_radius); ++other) {
                const Tap mine = group.query_y[static_cast<size_t>(y)], theirs = group.gallery_y[static_cast<size_t>(other)];
                for (int32_t row : {theirs.low, theirs.high}) {
                    Range& rows = near[static_cast<size_t>(row)];
                    rows = {std::min<int64_t>(rows.begin, mine.low), std::max<int64_t>(rows.end, mine.high + 1)};
                }
            }
        near_rows_.push_back(std::move(near));
    }
}

Range Search::near(int64_t first, int64_t last) const {
    if (!windowed(problem_)) return {0, chunk_.pixels()};
    const int64_t width = problem_.query[0].width();
    const Range rows = queries_.rows_of(first, last);
    return {std::max<int64_t>(0, (rows.begin - problem_.row_radius) * width - chunk_.first_pixel()),
            std::min(chunk_.pixels(), (rows.end + problem_.row_radius) * width - chunk_.first_pixel())};
}

bool Search::in_window(int64_t query, int64_t chunk_pixel) const {
    if (!windowed(problem_)) return true;
    const int64_t width = problem_.query[0].width(), mine = queries_.pixel_at(query), theirs = chunk_.first_pixel() + chunk_pixel;
    return std::abs(mine / width - theirs / width) <= problem_.row_radius &&
           std::abs(mine % width - theirs % width) <= problem_.column_radius;
}

void Search::plan() {
    query_pixels_ = problem_.query[0].pixels();
    gallery_pixels_ = problem_.gallery[0].pixels();
    const int64_t vector_bytes = 4 * std::max<int64_t>(1, groups_[0].channels);
    capacity_ = candidate_capacity(problem_.kappa);
    // A candidate, its exact distance and its place in the ranking; and what the limit is known from.
    const int64_t row_bytes = capacity_ * static_cast<int64_t>(2 * sizeof(Candidate) + sizeof(double)) +
                              problem_.kappa * static_cast<int64_t>(sizeof(float));
    block_step_ = std::clamp<int64_t>(std::min(query_block_bytes / vector_bytes, candidate_bytes / row_bytes), 1, block_pixels);
    chunk_step_ = std::clamp<int64_t>(chunk_bytes / vector_bytes, 1, block_pixels);
    if (groups_.size() == 1) {  // blocks of one size: a small last one would have the whole gallery laid out for little
        const int64_t blocks = (query_pixels_ + block_step_ - 1) / block_step_;
        block_step_ = Region::padded((query_pixels_ + blocks - 1) / blocks, kernels_.lanes);
        return;
    }
    // Several levels: blocks and chunks are whole rows, and the Gram matrices between them must fit.
    const int64_t query_width = problem_.query[0].width(), gallery_width = problem_.gallery[0].width();
    int64_t query_rows = std::max<int64_t>(1, block_step_ / query_width);
    int64_t chunk_rows = std::max<int64_t>(1, chunk_step_ / gallery_width);
    auto gram_size = [&] {
        int64_t bytes = 0;
        for (size_t g = 1; g < groups_.size(); ++g) {
            auto covered = [](int64_t rows, int64_t fine, int64_t coarse) { return std::min(coarse, rows * coarse / fine + 3); };
            const TensorView &q = groups_[g].query[0], &r = groups_[g].gallery[0];
            bytes += 4 * covered(query_rows, problem_.query[0].height(), q.height()) * q.width() *
                     covered(chunk_rows, problem_.gallery[0].height(), r.height()) * r.width();
        }
        return bytes;
    };
    while (gram_size() > gram_bytes && query_rows * chunk_rows > 1)
        (query_rows > chunk_rows ? query_rows : chunk_rows) = (std::max(query_rows, chunk_rows) + 1) / 2;
    const int64_t height = problem_.query[0].height(), blocks = (height + query_rows - 1) / query_rows;
    block_step_ = (height + blocks - 1) / blocks * query_width;
    chunk_step_ = chunk_rows * gallery_width;
}

Statistics Search::run() {
    const int64_t images = problem_.query[0].images();
    for (int64_t image = 0; image < images; ++image)
        for (int64_t first = 0; first < query_pixels_; first += block_step_)
            search_block(image, first, std::min(first + block_step_, query_pixels_));
    for (const Scratch& scratch : scratch_) {
        statistics_.fine_pairs += scratch.fine_pairs;
        statistics_.exact_pairs += scratch.exact_pairs;
    }
    return statistics_;
}

void Search::search_block(int64_t image, int64_t first, int64_t last) {
    block_image_ = image;
    queries_.place(image, first, last);
    // With one level the first chunk is done densely, so that there is a limit; with several, the coarse levels give one.
    const bool several = groups_.size() > 1;
    way_ = several && problem_.prune ? Way::sparse : Way::dense;
    queries_.pack(team_, kernels_.lanes, several || panels_ != Way::dense, kernels_.rows);
    query_numbers_.clear();
    plan_query_taps();
    const int64_t count = queries_.pixels(), lanes = kernels_.lanes, padded = tiles() * lanes;
    candidates_.reserve(count * capacity_);
    rows_.assign(static_cast<size_t>(count), CandidateRow{});
    nearest_.reserve(count * problem_.kappa);
    for (int64_t q = 0; q < count; ++q) {
        rows_[static_cast<size_t>(q)].items = candidates_.data() + q * capacity_;
        rows_[static_cast<size_t>(q)].nearest = nearest_.data() + q * problem_.kappa;
    }
    limit_.reserve(padded);
    lowered_norm_.reserve(padded);
    std::fill(lowered_norm_.data(), lowered_norm_.data() + padded, 0.0f);
    for (int64_t q = 0; q < padded; ++q) limit_[q] = q < count ? infinity : -infinity;
    std::fill(largest_.begin(), largest_.end(), 0.0f);
    may_overflow_ = bounds_cells_ = bounds_patches_ = false;
    chunks_ = 0;
    for (int64_t slot = 0; slot < problem_.gallery_count; ++slot)
        for (int64_t begin = 0; begin < gallery_pixels_; begin += chunk_step_) {
            poll();
            chunk_.place(gallery_image(slot), begin, std::min(begin + chunk_step_, gallery_pixels_));
            if (const Range rows = near(0, count); rows.begin >= rows.end) continue;
            search_chunk(slot);
            statistics_.pairs += count * chunk_.pixels();
            ++chunks_;
        }
    rank_block();
}

// A query's error bound grows with the largest gallery norm met so far; limits are widened to match.
void Search::update_errors() {
    for (size_t g = 0; g < groups_.size(); ++g) largest_[g] = std::max(largest_[g], chunk_.largest_norm_bound(g));
    const double slack = std::max(projection_.slack(), Quantised::slack);
    for (int64_t q = 0; q < queries_.pixels(); ++q) {
        double error = double{std::numeric_limits<float>::denorm_min()};
        for (size_t g = 0; g < groups_.size(); ++g) {
            const double reach = static_cast<double>(queries_.norm_bound(g)[q]) + static_cast<double>(largest_[g]);
            error += rounding_factor(groups_[g].channels) * reach * reach;
        }
        CandidateRow& row = rows_[static_cast<size_t>(q)];
        row.error = static_cast<float>(error * 1.001);
        may_overflow_ |= !(error < 1e30);  // then a least value would hide what is not a number
        const double fine = static_cast<double>(queries_.norm_bound(0)[q]) + static_cast<double>(largest_[0]);
        lowered_norm_[q] = static_cast<float>(static_cast<double>(queries_.fine_norm()[q]) - slack * fine * fine);
        limit_[q] = row.limit();
    }
}

void Search::multiply_coarse() {
    struct Piece {
        size_t group;
        int64_t panel;
    };
    std::vector<Piece> pieces;
    const int64_t lanes = kernels_.lanes, rows = kernels_.rows;
    for (size_t g = 1; g < groups_.size(); ++g) {
        const int64_t stride = Region::padded(chunk_.coarse_pixels(g), lanes);
        gram_stride_[g] = stride;
        gram_[g].reserve(Region::padded(queries_.coarse_pixels(g), rows) * stride + 64);
        for (int64_t panel = 0; panel < stride / lanes; ++panel) pieces.push_back({g, panel});
    }
    team_.run(static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
        const auto [g, panel] = pieces[static_cast<size_t>(i)];
        const int64_t channels = groups_[g].channels;
        const float* lane_panel = chunk_.coarse_panels(g) + panel * channels * lanes;
        int64_t begin = 0, end = queries_.coarse_pixels(g);
        if (windowed(problem_)) {
            const int64_t top = chunk_.coarse_first_row(g), width = chunk_.coarse_width(g);
            const int64_t bottom = std::min((panel + 1) * lanes, chunk_.coarse_pixels(g)) - 1;
            const int64_t first = near_rows_[g][static_cast<size_t>(top + panel * lanes / width)].begin;
            const int64_t last = near_rows_[g][static_cast<size_t>(top + bottom / width)].end;
            begin = std::max<int64_t>(0, first - queries_.coarse_first_row(g)) * queries_.coarse_width(g) / rows * rows;
            end = std::min(end, (last - queries_.coarse_first_row(g)) * queries_.coarse_width(g));
        }
        for (int64_t q = begin; q < end; q += rows)
            kernels_.product(lane_panel, queries_.coarse_panels(g) + q * channels, channels,
                             gram_[g].data() + q * gram_stride_[g] + panel * lanes, gram_stride_[g]);
    });
}

void Search::bound_cells() {
    const int64_t cells = static_cast<int64_t>(cells_.size()) - 1, width = cells_.back();
    cell_norm_.reserve(chunk_.rows() * cells);
    for (int64_t row = 0; row < chunk_.rows(); ++row)
        for (int64_t cell = 0; cell < cells; ++cell) {
            const float* const norm = chunk_.coarse_norm() + row * width;
            cell_norm_[row * cells + cell] =
                *std::min_element(norm + cells_[static_cast<size_t>(cell)], norm + cells_[static_cast<size_t>(cell) + 1]);
        }
    patch_rows_.clear();
    patch_norm_.reserve(chunk_.rows() * static_cast<int64_t>(patch_cells_.size()));
    const NodeTap* const taps = gallery_taps_.back().rows.data() + chunk_.first_row();
    float* out = patch_norm_.data();
    for (int64_t row = 0, end; row < chunk_.rows(); row = end) {
        for (end = row + 1; end < chunk_.rows() && taps[end].low == taps[row].low;) ++end;
        patch_rows_.push_back({row, end});
        for (const Range& patch : patch_cells_) {
            float least = infinity;
            for (int64_t i = row; i < end; ++i)
                least = std::min(least, *std::min_element(cell_norm_.data() + i * cells + patch.begin,
                                                          cell_norm_.data() + i * cells + patch.end));
            *out++ = least;
        }
    }
}

void Search::pack_chunk() {
    const bool dense = way_ == Way::dense;
    chunk_.pack(team_, dense ? kernels_.rows : 0, !dense, groups_.size() > 1 ? kernels_.lanes : 0);
}

void Search::search_chunk(int64_t slot) {
    const int64_t count = tiles();
    const bool several = groups_.size() > 1;
    duplicates_.store(nullptr, std::memory_order_release);
    pack_chunk();
    update_errors();
    if (several) {
        multiply_coarse();
        bound_cells();
    }
    if (several && !windowed(problem_)) {
        // How well bounds prune, the last chunk tells. For the first one a few tiles are tried, and where panels are
        // screened again for the second, when limits are known, and now and then.
        const double most = panels_ == Way::dense ? dense_share : screened_share;
        if (fresh() && way_ == Way::sparse && probe() > most) {
            way_ = panels_;
            if (way_ == Way::dense) pack_chunk();
        } else if (!fresh() && screens() && chunks_ % probe_every == 1 && probe() <= most) {
            way_ = Way::sparse;
        }
    }
    if (screens()) {
        const int bytes = way_ == Way::bytes ? 1 : 2;
        if (query_numbers_.bytes() != bytes) query_numbers_.build(team_, queries_, kernels_, Side::query, bytes);
        chunk_numbers_.build(team_, chunk_, kernels_, Side::gallery, bytes);
    }
    std::atomic<int64_t> fine{0}, evaluated{0}, cells_bounded{0}, cells_left{0};
    team_.run(count, [&](int64_t tile, int thread) {
        Scratch& scratch = scratch_[static_cast<size_t>(thread)];
        const int64_t fine_before = scratch.fine_pairs, evaluated_before = scratch.evaluated;
        scratch.cells_bounded = scratch.cells_left = 0;
        search_tile(tile, slot, scratch);
        fine += scratch.fine_pairs - fine_before;
        evaluated += scratch.evaluated - evaluated_before;
        cells_bounded += scratch.cells_bounded;
        cells_left += scratch.cells_left;
    });
    if (way_ == Way::bytes) statistics_.byte_pairs += fine.load();
    if (way_ == Way::words) statistics_.word_pairs += fine.load();
    // Where bounding did not pay, it is tried again now and then.
    const double cells = static_cast<double>(count * chunk_.rows()) * static_cast<double>(cells_.size());
    const bool retried = fresh() || chunks_ % retry_bounds == 0;
    // A patch's rows are bounded together, and of those that a window leaves out not every query's Gram entries are made.
    bounds_patches_ = !windowed(problem_) &&
                      (retried || (bounds_patches_ && static_cast<double>(cells_bounded.load()) < patches_share * cells));
    bounds_cells_ = retried || (bounds_cells_ && static_cast<double>(cells_left.load()) < cells_share * cells);
    choose_way(fine.load(), evaluated.load());
}

// For the next chunk, from what the last one left: pairs the coarse levels left, and pairs evaluated one by one.
void Search::choose_way(int64_t fine_pairs, int64_t evaluated) {
    if (!problem_.prune || windowed(problem_)) return;
    const double pairs = static_cast<double>(queries_.pixels()) * static_cast<double>(chunk_.pixels());
    // An evaluation costs about as much as a fixed number of channels, and its vectors' way to the processor.
    const double channels = static_cast<double>(groups_[0].channels);
    // Pairs nearer than kappa of those seen so far have to be, whatever bounds them.
    const int64_t seen = (chunks_ + 1) * chunk_.pixels();
    const double due = 2.0 * static_cast<double>(problem_.kappa) / static_cast<double>(seen);
    const double worth = due + (way_ == Way::bytes ? left_by_bytes : left_by_words) * channels / (channels + 64.0);
    if (screens() && !fresh() && static_cast<double>(evaluated) > worth * pairs)
        panels_ = way_ == Way::bytes ? Way::words : Way::dense;
    if (groups_.size() > 1) {
        const double most = panels_ == Way::dense ? dense_share : screened_share;
        way_ = static_cast<double>(fine_pairs) > most * pairs ? panels_ : Way::sparse;
    } else if (seen >= enough_for_limit * problem_.kappa) {
        way_ = panels_;
    }
}

Statistics search(const Problem& problem) {
    return !windowed(problem) && suits_few_queries(problem) ? search_few_queries(problem) : Search(problem).run();
}

}  // namespace fastspade::cpu
