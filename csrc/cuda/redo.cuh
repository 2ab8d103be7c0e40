// Rows without a certificate, searched again: what cannot be nearer than the kappa-th of their answers so far is filtered by
// norms, then by the 16-bit bound, and only what is left is ranked by exact distances.
#pragma once

#include "cuda/finish.cuh"
#include "cuda/row_lists.cuh"

namespace fastspade::cuda {

constexpr int redo_threads = 128, redo_warps = redo_threads / 32;
constexpr int redo_share = redo_pairs / redo_warps;  // a warp's

struct RedoBlock {
    uint32_t share[redo_warps][redo_share];  // pairs left of a warp's
    uint64_t limit;                          // the kappa-th key so far
    int count;                               // of the block's list
};

// Inner product of the 16-bit operands of a query pixel and a gallery pixel, interpolated. A pair every eight lanes.
FASTSPADE_DEVICE float operand_product(const SearchParameters& s, int64_t query_row, int64_t image, int pixel, int lane) {
    float sum = group_product(s, 0, query_row, image, Taps<1>{{pixel}, {1.0f}}, lane);
    const AxisTap* taps = s.taps;
    const int y = pixel / s.width, x = pixel - y * s.width;
    for (int g = 1; g < s.group_count; ++g, taps += s.width + s.height) {
        const AxisTap right = taps[x], down = taps[s.width + y];
        Taps<4> at;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            at.pixel[k] = (k < 2 ? down.low : down.high) * s.groups[g].width + (k % 2 == 0 ? right.low : right.high);
            at.weight[k] = (k < 2 ? down.low_weight : down.high_weight) * (k % 2 == 0 ? right.low_weight : right.high_weight);
        }
        sum += group_product(s, g, query_row, image, at, lane);
    }
    return sum;
}

// One block a failed row.
FASTSPADE_KERNEL(redo_threads, 3) redo_kernel(const RedoParameters p) {
    auto& block = *reinterpret_cast<RedoBlock*>(shared_memory());
    const FinishParameters& f = p.finish;
    const SearchParameters& s = p.search;
    const int thread = thread_index(), lane = thread & 31, warp = thread >> 5;
    uint32_t* const share = block.share[warp];
    uint64_t* const list = p.lists + static_cast<int64_t>(block_index()) * p.capacity;
    const int failures = load_volatile(f.failures);
    const int64_t all = static_cast<int64_t>(f.slots) * f.pixels;
    int64_t filtered = 0, bounded = 0, ranked = 0;
    for (int failure = block_index(); failure < failures; failure += block_count()) {
        const QueryRow at = query_row(f, f.failed[failure]);
        const float scale = f.query_scale[at.image];
        const Terms query = s.query_terms[0][at.row];
        if (thread == 0) {
            block.count = 0;
            block.limit = make_key(f.distances[at.row * f.kappa + f.kappa - 1], ~0u);
        }
        block_barrier();
        // A pair of this row, and its lower bound once the product of its vectors is known.
        const auto image_of = [&](uint32_t pair) {
            return image_of_slot(f, at.image, static_cast<int>(pair / static_cast<uint32_t>(f.pixels)));
        };
        const auto pixel_of = [&](uint32_t pair) { return static_cast<int>(pair % static_cast<uint32_t>(f.pixels)); };
        const auto bound = [&](const Terms& gallery, float ratio, float product) {
            return query.norm + gallery.norm * ratio * ratio - 2.0f * ratio * product;
        };
        // Leaves those of `count` pairs that a test, of a pair every eight lanes, lets pass.
        const auto narrow = [&](int count, auto&& test) {
            int left = 0;
            for (int first = 0; first < count; first += 4) {
                const int i = first + lane / 8;
                const uint32_t pair = share[i < count ? i : first];
                const bool passes = test(pair, i < count) && i < count;
                const uint32_t found = warp_ballot(passes) & 0x01010101u;
                warp_barrier();  // between reading these pairs and writing at or before them
                if (passes && lane % 8 == 0) share[left + count_bits(found & ((1u << lane) - 1u))] = pair;
                left += count_bits(found);
                warp_barrier();
            }
            return left;
        };
        for (int64_t first = 0; first < all; first += redo_pairs) {
            const uint64_t limit = block.limit;
            const float reach = rounded_up(key_value(limit), scale);
            int count = 0;
#pragma unroll
            for (int k = 0; k < redo_share / 32; ++k) {
                const int64_t pair = first + warp * redo_share + k * 32 + lane;
                const int slot = static_cast<int>(pair / f.pixels), pixel = static_cast<int>(pair % f.pixels);
                const int64_t image = pair < all ? image_of_slot(f, at.image, slot) : -1;
                const bool real = image >= 0 && !repeats(s, static_cast<int>(at.image), slot, pixel);
                bool left = false;
                if (real) {
                    const Terms gallery = s.gallery_terms[0][image * f.pixels + pixel];
                    const float ratio = scale / s.gallery_scale[image];
                    left = !(bound(gallery, ratio, query.length * gallery.length) > reach);
                }
                const uint32_t found = warp_ballot(left);
                if (left) share[count + count_bits(found & ((1u << lane) - 1u))] = static_cast<uint32_t>(pair);
                count += count_bits(found);
                filtered += count_bits(warp_ballot(real));
            }
            warp_barrier();
            bounded += count;
            count = narrow(count, [&](uint32_t pair, bool) {
                const int64_t image = image_of(pair);
                const Terms gallery = s.gallery_terms[0][image * f.pixels + pixel_of(pair)];
                const float product = operand_product(s, at.row, image, pixel_of(pair), lane);
                return !(bound(gallery, scale / s.gallery_scale[image], largest_product(product, query, gallery)) > reach);
            });
            ranked += count;
            narrow(count, [&](uint32_t pair, bool real) {
                const double distance =
                    exact_distance(f.query, at.image, at.pixel, f.gallery, image_of(pair), pixel_of(pair), lane);
                const uint64_t key = make_key(static_cast<float>(distance), pair);
                if (real && lane % 8 == 0 && key < limit) list[atomic_add(&block.count, 1)] = key;
                return false;
            });
            block_barrier();
            const bool last = first + redo_pairs >= all;
            if (warp == 0 && (last ? block.count > f.kappa : block.count > p.capacity - redo_pairs)) {
                const uint64_t kth = keep_nearest(list, block.count, f.kappa, lane);
                if (lane == 0) {
                    block.count = f.kappa;
                    block.limit = kth;
                }
            }
            block_barrier();
        }
        if (warp == 0) write_answer(f, at.row, at.image, list, block.count, lane);
        block_barrier();
    }
    if (lane != 0) return;
    atomic_add(f.counters + filtered_pairs, filtered);
    atomic_add(f.counters + bounded_pairs, bounded);
    atomic_add(f.counters + exact_pairs, ranked);
}

}  // namespace fastspade::cuda
