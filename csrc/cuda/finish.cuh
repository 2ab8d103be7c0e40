// From candidates to answers: merge what the splits kept, rank by exact distances, certify, and redo what fails.
//
// A row is certified when its kappa-th exact distance lies below every lower bound that was not kept: then nothing outside
// the kept candidates can belong to the answer. Rows that fail are searched again pair by pair.
#pragma once

#include "cuda/candidates.cuh"
#include "cuda/pyramid.cuh"

namespace fastspade::cuda {

constexpr int finish_threads = 128;
constexpr int redo_threads = 128;

// A launch's rows are those of its query tiles, the last of each image padded.
struct QueryRow {
    int64_t image, row;
    int pixel;
};
FASTSPADE_DEVICE QueryRow query_row(const FinishParameters& p, int local) {
    const int tile = p.first_tile + local / p.tile_rows;
    QueryRow at;
    at.image = tile / p.query_tiles;
    at.pixel = tile % p.query_tiles * p.tile_rows + local % p.tile_rows;
    at.row = at.image * p.query_pixels + at.pixel;
    return at;
}

FASTSPADE_DEVICE int64_t image_of_slot(const FinishParameters& p, int64_t query_image, int slot) {
    return p.gallery_index ? p.gallery_index[query_image * p.slots + slot] : slot;
}

// Pairs that a row is searched against: slots without an image have none. Called by a whole warp.
FASTSPADE_DEVICE int64_t available_pairs(const FinishParameters& p, int64_t query_image, int lane) {
    if (!p.gallery_index) return p.pairs;
    int64_t images = 0;
    for (int first = 0; first < p.slots; first += 32)
        images += count_bits(warp_ballot(first + lane < p.slots && image_of_slot(p, query_image, first + lane) >= 0));
    return images * p.pixels;
}

// Writes a row's answer from `count` keys of (exact distance, place); places beyond the keys are infinitely far.
FASTSPADE_DEVICE void write_answer(const FinishParameters& p, int64_t row, int64_t query_image, const uint64_t* keys, int count,
                                   int lane) {
    float* const distances = p.distances + row * p.kappa;
    int64_t* const indices = p.indices + row * p.kappa;
    for (int i = count + lane; i < p.kappa; i += 32) {
        distances[i] = bits_float(0x7f800000u);
        indices[i] = -1;
    }
    for (int i = lane; i < count; i += 32) {
        const uint64_t key = keys[i];
        const int rank = rank_among(keys, count, key);
        if (rank >= p.kappa) continue;
        const uint32_t place = key_place(key);
        const int slot = static_cast<int>(place / static_cast<uint32_t>(p.pixels));
        distances[rank] = key_value(key);
        indices[rank] = image_of_slot(p, query_image, slot) * p.pixels + place % static_cast<uint32_t>(p.pixels);
    }
}

// The largest of a row's first `count` exact keys that are among its kappa smallest, as a distance.
FASTSPADE_DEVICE float kth_distance(const uint64_t* keys, int count, int kappa, int lane) {
    uint64_t kth = 0;
    for (int i = lane; i < count; i += 32)
        if (rank_among(keys, count, keys[i]) == kappa - 1) kth = keys[i];
    for (int mask = 16; mask > 0; mask >>= 1) {
        const uint64_t other = warp_shuffle_xor(kth, mask);
        kth = kth < other ? other : kth;
    }
    return key_value(kth);
}

// One warp a row.
FASTSPADE_KERNEL(finish_threads, 1) finish_kernel(const FinishParameters p) {
    const int lane = thread_index() & 31;
    const int local = block_index() * (finish_threads / 32) + thread_index() / 32;
    const QueryRow at = query_row(p, local);
    if (local >= p.rows || at.pixel >= p.query_pixels) return;
    const int64_t row = at.row, query_image = at.image;
    const int query_pixel = at.pixel;
    uint64_t* const kept = p.kept + static_cast<int64_t>(local) * (p.splits + 1) * p.keep;
    uint64_t* const scratch = kept + static_cast<int64_t>(p.splits) * p.keep;

    // Close the gaps between the splits' candidates, then cut back to `keep` in all.
    int count = 0;
    for (int first = 0; first < p.splits * p.keep; first += 32) {
        const int i = first + lane;
        const uint64_t key = i < p.splits * p.keep ? kept[i] : no_candidate;
        const bool real = key != no_candidate;
        const uint32_t found = warp_ballot(real);
        if (real) kept[count + count_bits(found & ((1u << lane) - 1u))] = key;
        count += count_bits(found);
        warp_barrier();
    }
    float bound = bits_float(0x7f800000u);  // nothing outside the kept candidates lies below
    int64_t available = p.pairs;
    if (count <= p.keep) available = available_pairs(p, query_image, lane);
    if (count >= p.keep) {
        bound = key_value(keep_nearest(kept, count, p.keep, lane));
        count = p.keep;
    } else if (count < available) {
        bound = bits_float(0x7fc00000u);  // pairs were lost to an overflow: certify nothing
    } else if (count <= short_list) {
        keep_nearest(kept, count, p.keep, lane);  // for the order alone
    }

    // Exact distances, nearest bounds first where the list is sorted; what cannot reach the kappa-th is left out.
    const float scale = p.query_scale[query_image], squared = scale * scale;
    // In scaled units, rounded up; distances that round to the same float32, also the smallest there is, are ties.
    float kth = bits_float(0x7f800000u);
    auto rounded_up = [&](float distance) { return distance * squared * (1.0f + 0x1p-20f) + 0x1p-149f * squared; };
    int ranked = 0;
    for (int i = 0; i < count; ++i) {
        const uint64_t key = kept[i];
        if (key_value(key) > kth) continue;
        const uint32_t place = key_place(key);
        const int slot = static_cast<int>(place / static_cast<uint32_t>(p.pixels));
        const int64_t image = image_of_slot(p, query_image, slot);
        const double distance = exact_distance(p.query, query_image, query_pixel, p.gallery, image,
                                               static_cast<int>(place % static_cast<uint32_t>(p.pixels)), lane);
        if (lane == 0) scratch[ranked] = make_key(static_cast<float>(distance), place);
        ++ranked;
        warp_barrier();
        if (ranked >= p.kappa && (ranked - p.kappa) % (p.kappa / 8 + 1) == 0)
            kth = rounded_up(kth_distance(scratch, ranked, p.kappa, lane));
    }
    if (ranked >= p.kappa) kth = rounded_up(kth_distance(scratch, ranked, p.kappa, lane));
    write_answer(p, row, query_image, scratch, ranked, lane);
    if (lane != 0) return;
    atomic_add(p.counters + 1, static_cast<int64_t>(ranked));
    if (count != available && !(kth < bound)) {
        p.failed[atomic_add(p.failures, 1)] = local;
        atomic_add(p.counters, int64_t{1});
    }
}

// One block a failed row: every pair's exact distance, a batch at a time, the kappa smallest kept.
FASTSPADE_KERNEL(redo_threads, 1) redo_kernel(const FinishParameters p) {
    auto* const batch = reinterpret_cast<uint64_t*>(shared_memory());
    const int thread = thread_index(), lane = thread & 31, warp = thread >> 5;
    uint64_t* const list = p.redo_lists + static_cast<int64_t>(block_index()) * p.redo_capacity;
    const int failures = load_volatile(p.failures);
    const int64_t all = static_cast<int64_t>(p.slots) * p.pixels;
    for (int failure = block_index(); failure < failures; failure += block_count()) {
        const QueryRow at = query_row(p, p.failed[failure]);
        const int64_t row = at.row, query_image = at.image;
        const int query_pixel = at.pixel;
        int count = 0;  // known to the first warp
        uint64_t limit = no_candidate;
        for (int64_t first = 0; first < all; first += redo_threads) {
            for (int i = 0; i < 32; ++i) {
                const int64_t pair = first + warp * 32 + i;
                uint64_t key = no_candidate;
                if (pair < all) {
                    const int slot = static_cast<int>(pair / p.pixels);
                    const int64_t image = image_of_slot(p, query_image, slot);
                    if (image >= 0)
                        key = make_key(static_cast<float>(exact_distance(p.query, query_image, query_pixel, p.gallery, image,
                                                                         static_cast<int>(pair - static_cast<int64_t>(slot) * p.pixels), lane)),
                                       static_cast<uint32_t>(pair));
                }
                if (lane == 0) batch[warp * 32 + i] = key;
            }
            block_barrier();
            if (warp == 0) {
                for (int i = lane; i < redo_threads; i += 32) {
                    const uint64_t key = batch[i];
                    const bool wanted = key < limit;
                    const uint32_t found = warp_ballot(wanted);
                    if (wanted) list[count + count_bits(found & ((1u << lane) - 1u))] = key;
                    count += count_bits(found);
                }
                if (count > p.redo_capacity - redo_threads) {
                    limit = keep_nearest(list, count, p.kappa, lane);
                    count = p.kappa;
                }
            }
            block_barrier();
        }
        if (warp == 0) {
            if (count > p.kappa) {
                keep_nearest(list, count, p.kappa, lane);
                count = p.kappa;
            }
            warp_barrier();
            write_answer(p, row, query_image, list, count, lane);
        }
        if (thread == 0) atomic_add(p.counters + 1, all);
        block_barrier();
    }
}

}  // namespace fastspade::cuda
