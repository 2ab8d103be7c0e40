// Large blocks of memory, some of them kept from one search for the next: the system hands out new memory page by page,
// zeroed, which costs a search of a single image several percent of its time.
#pragma once

#include <cstddef>

namespace fastspade {

constexpr size_t block_step = size_t{2} << 20;  // a huge page; blocks are multiples of it and so aligned

struct Block {
    void* data = nullptr;
    size_t bytes = 0;
};

// A block of at least `bytes`, contents undefined. Throws std::bad_alloc.
Block take_block(size_t bytes);

// Keeps the block, or returns it to the system where enough are kept.
void give_block(const Block& block) noexcept;

}  // namespace fastspade
