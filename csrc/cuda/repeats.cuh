// Equal gallery pixels. A plain background makes thousands, all equally near, of which the lowest indices win: the search
// leaves out what equals kappa pixels before it, so that ties do not crowd lists and certificates.
#pragma once

#include "cuda/pyramid.cuh"
#include "cuda/slots.cuh"

namespace fastspade::cuda {

constexpr int repeat_threads = 256;

// One pair every eight lanes. Equal descriptors are those with no distance between them.
FASTSPADE_KERNEL(repeat_threads, 2) equal_kernel(const EqualParameters p) {
    const int lane = thread_index() & 31;
    const int64_t i = (static_cast<int64_t>(block_index()) * repeat_threads + thread_index()) / 8;
    bool same = i > 0 && i < p.count && p.hashes[i] == p.hashes[i - 1];
    if (warp_ballot(same)) {
        const int64_t a = same ? p.order[i - 1] : 0, b = same ? p.order[i] : 0;
        const int pixels = p.gallery.height * p.gallery.width;
        const double distance = exact_distance(p.gallery, a / pixels, static_cast<int>(a % pixels), p.gallery, b / pixels,
                                               static_cast<int>(b % pixels), lane);
        same = same && distance == 0.0;
    }
    if (lane % 8 == 0 && i < p.count) p.same[i] = same;
}

FASTSPADE_DEVICE bool searched(const RepeatParameters& p, int row, int slots, int64_t image) {
    if (!p.gallery_index) return image < p.slots;
    const int64_t* const chosen = p.gallery_index + static_cast<int64_t>(row) * p.slots;
    int low = 0, high = slots;  // the first slot whose image is not less
    while (low < high) {
        const int middle = (low + high) / 2;
        if (chosen[middle] < image)
            low = middle + 1;
        else
            high = middle;
    }
    return low < slots && chosen[low] == image;
}

// One warp 32 pixels of a slot.
FASTSPADE_KERNEL(repeat_threads, 1) repeat_kernel(const RepeatParameters p) {
    const int lane = thread_index() & 31;
    const int64_t item = (static_cast<int64_t>(block_index()) * repeat_threads + thread_index()) / 32;
    const int64_t line = item / p.words;
    const int row = static_cast<int>(line / p.slots), slot = static_cast<int>(line % p.slots);
    if (row >= p.rows) return;
    const int64_t image = image_of_slot(p, row, slot);
    const int pixel = static_cast<int>(item % p.words) * 32 + lane;
    const bool real = image >= 0 && pixel < p.pixels;
    int wanted = p.kappa;  // as long as it is positive, fewer than kappa equals have been found
    if (real) {
        const Equals own = p.equals[image * p.pixels + pixel];
        wanted -= own.rank;
        for (int64_t at = own.previous; wanted > 0 && at >= 0;) {
            const Equals before = p.equals[at];
            if (searched(p, row, slot, at / p.pixels)) wanted -= before.rank + 1;
            at = before.previous;
        }
    }
    const uint32_t repeats = warp_ballot(real && wanted <= 0), pixels = warp_ballot(real);
    if (lane != 0) return;
    p.repeats[item] = repeats;
    atomic_add(p.available + row, static_cast<int64_t>(count_bits(pixels & ~repeats)));
}

}  // namespace fastspade::cuda
