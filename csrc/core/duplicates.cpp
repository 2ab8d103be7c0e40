#include "core/duplicates.hpp"

#include <algorithm>
#include <map>
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

// The native pixels of the rows that the fine pixels [first, last) read, each as the first pixel that holds the same vector.
struct NativeIds {
    int64_t first_row = 0, width = 0;
    std::vector<int64_t> id;

    int64_t at(int64_t y, int64_t x) const { return id[static_cast<size_t>((y - first_row) * width + x)]; }
};

bool equal_vectors(const LevelGroup& group, int64_t image, int64_t first_row, int64_t a, int64_t b) {
    return std::all_of(group.gallery.begin(), group.gallery.end(), [&](const TensorView& view) {
        return with_element(view.dtype, [&](auto element) {
            using Element = decltype(element);
            const auto* base = static_cast<const typename Element::Storage*>(view.data);
            const int64_t width = view.width();
            const auto *one = base + view.offset(image, 0, first_row + a / width, a % width),
                       *other = base + view.offset(image, 0, first_row + b / width, b % width);
            for (int64_t c = 0; c < view.channels(); ++c, one += view.stride[1], other += view.stride[1])
                if (Element::load(*one) != Element::load(*other)) return false;
            return true;
        });
    });
}

NativeIds identify_rows(const LevelGroup& group, int64_t image, int64_t first_row, int64_t last_row) {
    const int64_t width = group.gallery[0].width();
    std::vector<uint64_t> hashes(static_cast<size_t>((last_row - first_row) * width), 0x243f6a8885a308d3ull);
    for (const TensorView& view : group.gallery)
        with_element(view.dtype, [&](auto element) {
            using Element = decltype(element);
            const auto* base = static_cast<const typename Element::Storage*>(view.data);
            for (int64_t c = 0; c < view.channels(); ++c) {
                uint64_t* hash = hashes.data();
                for (int64_t y = first_row; y < last_row; ++y)
                    for (int64_t x = 0; x < width; ++x, ++hash)
                        // Adding zero turns -0 into +0: the two are equal as features.
                        *hash = mix(*hash, bits(static_cast<double>(Element::load(base[view.offset(image, c, y, x)])) + 0.0));
            }
        });
    NativeIds result{first_row, width, {}};
    std::unordered_map<uint64_t, int64_t> first;
    for (int64_t p = 0; p < static_cast<int64_t>(hashes.size()); ++p)
        for (uint64_t key = hashes[static_cast<size_t>(p)];; ++key) {  // the next key where other vectors have this one
            const auto [known, added] = first.try_emplace(key, p);
            if (!added && !equal_vectors(group, image, first_row, p, known->second)) continue;
            result.id.push_back(known->second);
            break;
        }
    return result;
}

}  // namespace

std::vector<int32_t> duplicate_ranks(const std::vector<LevelGroup>& groups, int64_t image, int64_t first, int64_t last,
                                     int64_t fine_width) {
    std::vector<NativeIds> natives;
    for (const LevelGroup& group : groups)
        natives.push_back(identify_rows(group, image, group.gallery_y[static_cast<size_t>(first / fine_width)].low,
                                        group.gallery_y[static_cast<size_t>((last - 1) / fine_width)].high + 1));
    std::map<std::vector<uint64_t>, int32_t> seen;  // descriptors by what they are mixed from
    std::vector<int32_t> ranks;
    ranks.reserve(static_cast<size_t>(last - first));
    for (int64_t pixel = first; pixel < last; ++pixel) {
        std::vector<uint64_t> parts;
        for (size_t g = 0; g < groups.size(); ++g) {
            const Tap& y = groups[g].gallery_y[static_cast<size_t>(pixel / fine_width)];
            const Tap& x = groups[g].gallery_x[static_cast<size_t>(pixel % fine_width)];
            const NativeIds& native = natives[g];
            const int64_t a = native.at(y.low, x.low), b = native.at(y.low, x.high);
            const int64_t c = native.at(y.high, x.low), d = native.at(y.high, x.high);
            parts.push_back(static_cast<uint64_t>(a));
            if (a == b && a == c && a == d) continue;  // a mixture of equal vectors is that vector, whatever the weights
            for (int64_t id : {b, c, d}) parts.push_back(static_cast<uint64_t>(id));
            parts.insert(parts.end(), {bits(y.high_weight), bits(x.high_weight), ~uint64_t{0}});
        }
        ranks.push_back(seen[std::move(parts)]++);
    }
    return ranks;
}

}  // namespace fastspade
