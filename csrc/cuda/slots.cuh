// Which gallery images a query image is searched in: its slots, ascending. An image that several slots name is searched once,
// in the first of them, and its pixels are as many neighbours as it has slots.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"

namespace fastspade::cuda {

// -1: nothing to search, the slot names no gallery image or the same as the one before. Parameters are any that have
// gallery_index, gallery_images and slots; `row` is a query image.
template <class Parameters>
FASTSPADE_DEVICE int64_t image_of_slot(const Parameters& p, int64_t row, int slot) {
    if (!p.gallery_index) return slot;
    const int64_t* const chosen = p.gallery_index + row * p.slots;
    const int64_t image = chosen[slot];
    return image >= 0 && image < p.gallery_images && (slot == 0 || chosen[slot - 1] != image) ? image : -1;
}

// How many slots, from `slot` on, name its image.
template <class Parameters>
FASTSPADE_DEVICE int copies_of_slot(const Parameters& p, int64_t row, int slot) {
    int copies = 1;
    if (p.gallery_index)
        for (const int64_t* const chosen = p.gallery_index + row * p.slots;
             slot + copies < p.slots && chosen[slot + copies] == chosen[slot];)
            ++copies;
    return copies;
}

}  // namespace fastspade::cuda
