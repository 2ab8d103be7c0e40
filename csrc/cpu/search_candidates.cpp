// Keeping candidates while chunks pass.
#include "core/ranking.hpp"
#include "cpu/search_state.hpp"

namespace fastspade::cpu {

void Search::add(Tile& tile, int64_t lane, float screened, int64_t r) {
    const int64_t query = tile.first + lane, pixel = chunk_.first_pixel() + r;
    CandidateRow& row = block_.rows[static_cast<size_t>(query)];
    if (screened > row.limit()) return;  // the limit fell since the pair was found
    if (repeats_.hold(r) || !window_.holds(block_.region.pixel_at(query), pixel)) return;
    row.add({screened, tile.slot, pixel}, problem_.kappa);
    if (row.count == block_.capacity) {
        row.compact();
        // Many pairs closer together than the screen can tell. Most often they repeat one descriptor; what is left
        // after dropping repeats, only exact distances thin out.
        const int64_t crowded = block_.capacity - 8;
        if (row.count > crowded && !window_.active())
            repeats_.drop(row, tile.slot);  // a window may lack the first of equal pixels
        if (row.count > crowded) rank_exactly(query, tile.scratch);
    }
    tile.limit[lane] = row.limit();
}

// Keeps the kappa nearest of an overfull row by (exact distance, flat index).
void Search::rank_exactly(int64_t query, Scratch& scratch) {
    CandidateRow& row = block_.rows[static_cast<size_t>(query)];
    scratch.exact.set_query(block_image_, block_.region.pixel_at(query));
    scratch.exact_pairs += row.count;
    keep_nearest(row, problem_.kappa, [&](const Candidate& candidate) {
        const int64_t image = gallery_image(problem_, block_image_, candidate.slot);
        const int64_t flat = image * problem_.gallery[0].pixels() + candidate.pixel;
        return Ranked{{rounded_distance(scratch.exact.to(image, candidate.pixel)), flat}, candidate};
    });
}

}  // namespace fastspade::cpu
