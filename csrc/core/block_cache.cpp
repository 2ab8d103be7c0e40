#include "core/block_cache.hpp"

#include <array>
#include <cstdlib>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastspade {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t most_kept = 0;  // a kept block would hide what the sanitizer looks for
#else
constexpr size_t most_kept = size_t{48} << 20;
#endif

struct Cache {
    std::mutex lock;
    std::array<Block, 32> blocks;
    size_t kept = 0;
};

// Never destroyed: threads may still search while the process ends.
Cache& cache() {
    static Cache* const only = new Cache;
    return *only;
}

}  // namespace

// Nobody waits for the lock: another search may hold it, in a forked child even for ever.
Block take_block(size_t bytes) {
    const size_t wanted = (bytes + block_step - 1) / block_step * block_step;
    Cache& all = cache();
    if (std::unique_lock hold(all.lock, std::try_to_lock); hold) {
        Block* best = nullptr;
        for (Block& block : all.blocks)
            if (block.bytes >= wanted && block.bytes <= 2 * wanted && (!best || block.bytes < best->bytes)) best = &block;
        if (best) {
            const Block taken = *best;
            *best = {};
            all.kept -= taken.bytes;
            return taken;
        }
    }
    void* const data = std::aligned_alloc(block_step, wanted);
    if (!data) throw std::bad_alloc();
#if defined(__linux__)
    // The search walks through more memory than the processor keeps ordinary pages' addresses of. Only a wish.
    madvise(data, wanted, MADV_HUGEPAGE);
#endif
    return {data, wanted};
}

void give_block(const Block& block) noexcept {
    Cache& all = cache();
    if (std::unique_lock hold(all.lock, std::try_to_lock); hold && all.kept + block.bytes <= most_kept)
        for (Block& free : all.blocks)
            if (!free.data) {
                free = block;
                all.kept += block.bytes;
                return;
            }
    std::free(block.data);
}

}  // namespace fastspade
