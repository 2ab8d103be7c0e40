#include "core/duplicates.hpp"

#include <unordered_map>

namespace fastspade {

namespace {

uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
    return hash ^ (hash >> 29);
}

uint64_t bits(double value) {
    uint64_t result;
    std::memcpy(&result, &value, sizeof(result));
    return result;
}

// One hash a native pixel of the rows that the fine pixels [first, last) read.
struct NativeHashes {
    int64_t first_row = 0, width = 0;
    std::vector<uint64_t> hash;

    uint64_t at(int64_t y, int64_t x) const { return hash[static_cast<size_t>((y - first_row) * width + x)]; }
};

NativeHashes hash_rows(const LevelGroup& group, int64_t image, int64_t first_row, int64_t last_row) {
    NativeHashes result;
    result.first_row = first_row;
    result.width = group.gallery[0].width();
    result.hash.assign(static_cast<size_t>((last_row - first_row) * result.width), 0x243f6a8885a308d3ull);
    for (const TensorView& view : group.gallery)
        with_element(view.dtype, [&](auto element) {
            using Element = decltype(element);
            const auto* base = static_cast<const typename Element::Storage*>(view.data);
            for (int64_t c = 0; c < view.channels(); ++c) {
                uint64_t* hash = result.hash.data();
                for (int64_t y = first_row; y < last_row; ++y)
                    for (int64_t x = 0; x < result.width; ++x, ++hash)
                        // Adding zero turns -0 into +0: the two are equal as features.
                        *hash = mix(*hash, bits(static_cast<double>(Element::load(base[view.offset(image, c, y, x)])) + 0.0));
            }
        });
    return result;
}

}  // namespace

std::vector<int32_t> duplicate_ranks(const std::vector<LevelGroup>& groups, int64_t image, int64_t first, int64_t last,
                                     int64_t fine_width) {
    std::vector<NativeHashes> natives;
    for (const LevelGroup& group : groups)
        natives.push_back(hash_rows(group, image, group.gallery_y[static_cast<size_t>(first / fine_width)].low,
                                    group.gallery_y[static_cast<size_t>((last - 1) / fine_width)].high + 1));
    std::unordered_map<uint64_t, int32_t> seen;
    std::vector<int32_t> ranks;
    ranks.reserve(static_cast<size_t>(last - first));
    for (int64_t pixel = first; pixel < last; ++pixel) {
        uint64_t key = 0;
        for (size_t g = 0; g < groups.size(); ++g) {
            const Tap& y = groups[g].gallery_y[static_cast<size_t>(pixel / fine_width)];
            const Tap& x = groups[g].gallery_x[static_cast<size_t>(pixel % fine_width)];
            const NativeHashes& native = natives[g];
            const uint64_t a = native.at(y.low, x.low), b = native.at(y.low, x.high);
            const uint64_t c = native.at(y.high, x.low), d = native.at(y.high, x.high);
            key = mix(key, a);
            if (a == b && a == c && a == d) continue;  // a mixture of equal vectors is that vector, whatever the weights
            for (uint64_t value : {b, c, d, bits(y.high_weight), bits(x.high_weight)}) key = mix(key, value);
        }
        ranks.push_back(seen[key]++);
    }
    return ranks;
}

}  // namespace fastspade
