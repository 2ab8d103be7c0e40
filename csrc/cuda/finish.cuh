// From candidates to answers: merge what the splits kept, rank by exact distances, and certify.
//
// A row is certified when its kappa-th exact distance lies below every lower bound that was not kept: then nothing outside
// the kept candidates can belong to the answer. Rows that fail are searched again (redo.cuh).
#pragma once

#include "cuda/candidates.cuh"
#include "cuda/pyramid.cuh"
#include "cuda/slots.cuh"

namespace fastspade::cuda {

constexpr int finish_threads = 128;

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

// In scaled units, rounded up; distances that round to the same float32, also the smallest there is, are ties.
FASTSPADE_DEVICE float rounded_up(float distance, float scale) {
    const float squared = scale * scale;
    return distance * squared * (1.0f + 0x1p-20f) + 0x1p-149f * squared;
}

FASTSPADE_DEVICE int slot_of(const FinishParameters& p, uint64_t key) {
    return static_cast<int>(key_place(key) / static_cast<uint32_t>(p.pixels));
}

// Writes a row's answer from `count` keys of (exact distance, place), each as often as its image is named; places beyond
// them are infinitely far.
FASTSPADE_DEVICE void write_answer(const FinishParameters& p, int64_t row, int64_t query_image, const uint64_t* keys, int count,
                                   int lane) {
    float* const distances = p.distances + row * p.kappa;
    int64_t* const indices = p.indices + row * p.kappa;
    int more = 0;  // places taken beyond one a key
    if (p.gallery_index)
        for (int i = lane; i < count; i += 32) more += copies_of_slot(p, query_image, slot_of(p, keys[i])) - 1;
    for (int mask = 16; mask > 0; mask >>= 1) more += warp_shuffle_xor(more, mask);
    for (int i = count + more + lane; i < p.kappa; i += 32) {
        distances[i] = bits_float(0x7f800000u);
        indices[i] = -1;
    }
    for (int i = lane; i < count; i += 32) {
        const uint64_t key = keys[i];
        int rank = rank_among(keys, count, key), copies = 1;
        if (more > 0) {
            copies = copies_of_slot(p, query_image, slot_of(p, key));
            for (int j = 0; j < count; ++j)
                if (keys[j] < key) rank += copies_of_slot(p, query_image, slot_of(p, keys[j])) - 1;
        }
        const int64_t index =
            image_of_slot(p, query_image, slot_of(p, key)) * p.pixels + key_place(key) % static_cast<uint32_t>(p.pixels);
        for (const int end = rank + copies < p.kappa ? rank + copies : p.kappa; rank < end; ++rank) {
            distances[rank] = key_value(key);
            indices[rank] = index;
        }
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

// One warp per row.
FASTSPADE_KERNEL(finish_threads, 3) finish_kernel(const FinishParameters p) {
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
        warp_barrier();  // between reading this stretch and writing at or before it
        if (real) kept[count + count_bits(found & ((1u << lane) - 1u))] = key;
        count += count_bits(found);
        warp_barrier();
    }
    // Nothing outside the kept candidates lies below. NaN where no limit left any out: what is missing was lost to an overflow.
    float bound = from_ordered_bits(p.limits[local]);
    const int64_t available = p.available[p.gallery_index ? query_image : 0];
    if (count >= p.keep) {
        const float last = key_value(keep_nearest(kept, count, p.keep, lane));
        bound = bound < last ? bound : last;
        count = p.keep;
    } else if (count <= short_list) {
        keep_nearest(kept, count, p.keep, lane);  // for the order alone
    }

    // Exact distances of four at a time, nearest bounds first where the list is sorted; what cannot reach the kappa-th is left
    // out.
    const float scale = p.query_scale[query_image];
    float kth = bits_float(0x7f800000u);
    int ranked = 0, next = p.kappa;
    for (int first = 0; first < count; first += 4) {
        const int i = first + lane / 8;
        const uint64_t key = i < count ? kept[i] : no_candidate;
        const bool wanted = i < count && !(key_value(key) > kth);
        const uint32_t found = warp_ballot(wanted) & 0x01010101u;
        if (found == 0u) continue;
        const uint32_t place = wanted ? key_place(key) : 0u;
        const int64_t image = wanted ? image_of_slot(p, query_image, slot_of(p, key)) : 0;
        const double distance = exact_distance(p.query, query_image, query_pixel, p.gallery, image,
                                               static_cast<int>(place % static_cast<uint32_t>(p.pixels)), lane);
        if (wanted && lane % 8 == 0)
            scratch[ranked + count_bits(found & ((1u << lane) - 1u))] = make_key(static_cast<float>(distance), place);
        ranked += count_bits(found);
        warp_barrier();
        if (ranked < next) continue;
        kth = rounded_up(kth_distance(scratch, ranked, p.kappa, lane), scale);
        next = ranked + p.kappa / 8 + 1;
    }
    if (ranked >= p.kappa) kth = rounded_up(kth_distance(scratch, ranked, p.kappa, lane), scale);
    write_answer(p, row, query_image, scratch, ranked, lane);
    if (lane != 0) return;
    atomic_add(p.counters + exact_pairs, static_cast<int64_t>(ranked));
    if (!p.told || !tells(p.told)) atomic_add(p.counters + fine_pairs, available);
    if (count != available && !(kth < bound)) {
        p.failed[atomic_add(p.failures, 1)] = local;
        atomic_add(p.counters + uncertain_rows, int64_t{1});
    }
}

}  // namespace fastspade::cuda
